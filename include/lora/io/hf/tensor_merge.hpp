// Computes the bytes of one merged tensor of a checkpoint.
#pragma once

#include <lora/adapters/merged_rows.hpp>
#include <lora/adapters/output_norms.hpp>
#include <lora/core/parallel.hpp>
#include <lora/io/all_finite.hpp>
#include <lora/io/hf/merge_plan.hpp>

#include <array>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::detail {

/// Produces the bytes of one merged tensor, about a MiB at a time. Sums are made in S.
template <class S>
class TensorMerge {
 public:
  TensorMerge(std::string name, const SafetensorsFile& source, const std::string& key,
              const SafetensorsFile& adapter, const MergedTensor& plan, DType dtype)
      : name_(std::move(name)),
        from_(source.bytes(key)),
        from_dtype_(source.info(key).dtype),
        dtype_(dtype),
        changed_(!plan.b_key.empty() || !plan.saved_key.empty()) {
    const std::vector<Index>& shape = source.info(key).shape;
    if (plan.b_key.empty() || plan.a_key.empty()) {
      rows_ = static_cast<Index>(from_.size() / (dtype_bits(from_dtype_) / 8));
    } else {
      rows_ = shape[0];
      for (std::size_t i = 1; i < shape.size(); ++i) cols_ *= shape[i];
    }
    if (plan.b_key.empty()) return;
    B_ = adapter.matrix<S>(plan.b_key);
    A_ = plan.a_key.empty() ? Matrix<S>(Matrix<S>::Ones(1, 1)) : adapter.matrix<S>(plan.a_key);
    const View<S> b = plan.a_key.empty() ? View<S>(B_).transposed() : View<S>(B_);
    layout_ = plan.layout;
    if (!plan.m_key.empty())
      scale_outputs(adapter.matrix<S>(plan.m_key), static_cast<S>(plan.scale));
    change_ = LowRankDelta<S>{static_cast<S>(plan.scale), b, View<S>(A_)};
  }
  TensorMerge(const TensorMerge&) = delete;
  TensorMerge& operator=(const TensorMerge&) = delete;

  void run(const SafetensorsWriter::ByteSink& sink) {
    constexpr std::size_t part_bytes = std::size_t{1} << 20;
    const std::size_t row = static_cast<std::size_t>(std::max<Index>(cols_, 1)) * width(dtype_);
    const auto most = static_cast<Index>(std::max<std::size_t>(1, part_bytes / row));
    for (Index first = 0; first < rows_ && cols_ > 0; first += most) {
      const Index count = std::min(most, rows_ - first);
      const auto elements = static_cast<std::size_t>(count * cols_);
      const auto from = from_.subspan(static_cast<std::size_t>(first * cols_) * width(from_dtype_),
                                      elements * width(from_dtype_));
      out_.resize(elements * width(dtype_));
      compute(from, first, count);
      if (!all_finite(dtype_, out_)) find_not_finite(from, first * cols_);
      sink(out_);
    }
  }

 private:
  /// Sets c = m / n and multiplies the rows of B by it, because c ∘ (W + s B A) is c ∘ W + s (c ∘
  /// B) A. Reads the weight once, a block of rows at a time.
  void scale_outputs(const Matrix<S>& m, S s) {
    const Index outputs = layout_ == Layout::out_in ? rows_ : cols_;
    OutputNorms<S> norms(A_, outputs, layout_);
    const Index most = std::max<Index>(1, (Index{1} << 18) / std::max<Index>(cols_, 1));
    Matrix<S> rows;
    for (Index first = 0; first < rows_; first += most) {
      set_size(rows, std::min(most, rows_ - first), cols_);
      decode_elements(from_dtype_,
                      from_.data() + static_cast<std::size_t>(first * cols_) * width(from_dtype_),
                      std::span<S>(rows.data(), static_cast<std::size_t>(rows.size())));
      norms.add_rows(first, rows);
    }
    c_ = norms.scale(m, s, B_);
    for (Index j = 0; j < outputs; ++j) B_.row(j) *= c_(0, j);
  }

  static std::size_t width(DType dtype) { return dtype_bits(dtype) / 8; }

  void compute(std::span<const std::byte> from, Index first, Index count) {
    std::array<LowRankDelta<S>, 1> changes;
    std::span<const LowRankDelta<S>> active;
    std::span<const S> c(c_.data(), static_cast<std::size_t>(c_.size()));
    if (change_) {
      changes[0] = rows_of_change(*change_, layout_, first, count);
      active = changes;
      if (!c.empty() && layout_ == Layout::out_in)
        c = c.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    }
    constexpr bool floats = std::is_same_v<S, float>;
    if (from_dtype_ == dtype_ && dtype_ == (floats ? DType::F32 : DType::F64)) {
      merge_rows(active, layout_, count, cols_, aligned<S>(from), out<S>(), c);
      return;
    }
    if constexpr (floats) {
      if (from_dtype_ == dtype_ && dtype_ == DType::BF16) {
        merge_rows(active, layout_, count, cols_, aligned<std::uint16_t>(from),
                   out<std::uint16_t>(), c);
        return;
      }
    }
    convert(from, active, c, count);
  }
  void convert(std::span<const std::byte> from, std::span<const LowRankDelta<S>> active,
               std::span<const S> c, Index count) {
    constexpr Index grain = 1 << 14;
    const Index elements = count * cols_;
    wide_.resize(static_cast<std::size_t>(elements));
    const auto part = [](Index begin, Index end) {
      return std::pair(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    };
    parallel_for(elements, grain, [&](Index begin, Index end) {
      const auto [at, n] = part(begin, end);
      decode_elements(from_dtype_, from.data() + at * width(from_dtype_),
                      std::span<S>(wide_).subspan(at, n));
    });
    if (!active.empty()) merge_rows(active, layout_, count, cols_, wide_.data(), wide_.data(), c);
    parallel_for(elements, grain, [&](Index begin, Index end) {
      const auto [at, n] = part(begin, end);
      encode_elements(dtype_, std::span<const S>(wide_).subspan(at, n),
                      out_.data() + at * width(dtype_));
    });
  }

  /// Returns the bytes as elements, copied if they are not aligned.
  template <class E>
  const E* aligned(std::span<const std::byte> from) {
    if (reinterpret_cast<std::uintptr_t>(from.data()) % alignof(E) != 0) {
      in_.assign(from.begin(), from.end());
      from = in_;
    }
    return reinterpret_cast<const E*>(from.data());
  }
  template <class E>
  E* out() {
    return reinterpret_cast<E*>(out_.data());
  }

  /// Rejects results that are not finite. Non-finite values of the base itself stay, such as a mask
  /// of infinities in another type.
  void find_not_finite(std::span<const std::byte> from, Index first) const {
    const std::size_t count = out_.size() / width(dtype_);
    for (std::size_t i = 0; i < count; ++i) {
      double before = 0, after = 0;
      decode_elements(from_dtype_, from.data() + i * width(from_dtype_), std::span(&before, 1));
      decode_elements(dtype_, out_.data() + i * width(dtype_), std::span(&after, 1));
      if (std::isfinite(after) || (!changed_ && !std::isfinite(before))) continue;
      throw Error("merge_checkpoint: tensor " + in_quotes(name_) + ": element " +
                  std::to_string(static_cast<std::size_t>(first) + i) + " would be " +
                  number_text(after) + " in " + std::string(dtype_name(dtype_)) + " (it was " +
                  number_text(before) + "), expected finite numbers; nothing was written");
    }
  }

  std::string name_;
  std::span<const std::byte> from_;
  DType from_dtype_, dtype_;
  bool changed_;
  Index rows_ = 0, cols_ = 1;
  Matrix<S> A_, B_, c_;  // c (1, outputs), of a DoRA adapter alone
  std::optional<LowRankDelta<S>> change_;
  Layout layout_ = Layout::out_in;
  std::vector<std::byte> in_, out_;
  std::vector<S> wide_;
};

}  // namespace lora::detail
