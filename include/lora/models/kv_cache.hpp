// Caches the keys and values of a sequence during decoding.
#pragma once

#include <lora/core/error.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace lora {

/// The keys and values (length, KV·K) of every layer for the tokens that a model has seen of one
/// sequence, with the rotary embedding applied. It starts empty; its memory grows by doubling. It
/// is valid for one model and the adapters that were active: after choosing another adapter, start
/// a new cache.
template <class S>
class KVCache {
 public:
  /// The number of tokens that every layer has seen.
  Index length() const { return length_; }
  Index bytes() const {
    Index n = 0;
    for (const Layer& layer : layers_) n += layer.keys.size() + layer.values.size();
    return n * static_cast<Index>(sizeof(S));
  }

  /// Forgets all tokens except the first `length`. Keeps the memory.
  /// Throws: ShapeError if the cache holds fewer.
  void truncate(Index length) {
    if (length < 0 || length > length_) {
      throw ShapeError("KVCache::truncate: length is " + std::to_string(length) +
                       ", expected 0 to " + std::to_string(length_));
    }
    length_ = length;
  }

  /// Appends the keys and values (n, KV·K) of one layer. advance() counts them.
  /// Allocates: when the memory is full.
  void append(Index layer, const View<S>& keys, const View<S>& values) {
    if (layer >= static_cast<Index>(layers_.size()))
      layers_.resize(static_cast<std::size_t>(layer) + 1);
    Layer& own = layers_[static_cast<std::size_t>(layer)];
    put(keys, own.keys);
    put(values, own.values);
  }
  /// Counts `count` more tokens, which all layers have appended.
  void advance(Index count) { length_ += count; }

  View<S> keys(Index layer, Index rows) const {
    return View<S>(layers_[static_cast<std::size_t>(layer)].keys).middle_rows(0, rows);
  }
  View<S> values(Index layer, Index rows) const {
    return View<S>(layers_[static_cast<std::size_t>(layer)].values).middle_rows(0, rows);
  }

 private:
  struct Layer {
    Matrix<S> keys, values;
  };

  void put(const View<S>& rows, Matrix<S>& to) const {
    const Index needed = length_ + rows.rows;
    if (to.rows() < needed || to.cols() != rows.cols) {
      Matrix<S> larger(std::max<Index>({64, 2 * to.rows(), needed}), rows.cols);
      if (length_ > 0) larger.topRows(length_) = to.topRows(length_);
      to = std::move(larger);
    }
    for (Index t = 0; t < rows.rows; ++t)
      std::copy_n(rows.data + t * rows.row_stride, rows.cols,
                  to.data() + (length_ + t) * to.cols());
  }

  std::vector<Layer> layers_;
  Index length_ = 0;
};

}  // namespace lora
