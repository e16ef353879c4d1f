// Inverted dropout whose mask is a function of (key, row, column), so backward recomputes it
// instead of storing it.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/parallel.hpp>
#include <lora/core/random.hpp>
#include <lora/kernels/dispatch.hpp>

#include <type_traits>

namespace lora {

/// Multiplies by mask(i, j) / (1 - p), where mask is 1 with probability 1 - p and else 0; p is in
/// [0, 1). The mask depends only on the key and on (row, column) in the batch, not on the number of
/// threads or on how the batch is split.
/// Threads: several threads may use one Dropout.
/// Source: the distribution of PyTorch's nn.Dropout; the random bits are our own.
class Dropout {
 public:
  Dropout(double p, std::uint64_t key)
      : stream_(key),
        threshold_(static_cast<std::uint32_t>(p * 4294967296.0)),
        scale_(1.0 / (1.0 - p)),
        active_(p > 0.0) {}

  bool active() const { return active_; }

  /// Computes to[j] = from[j] · mask(row, j) / (1 - p) for n columns, or adds it to to[j]. `from`
  /// and `to` may be the same.
  template <class S>
  void row(Index row, Index n, const S* from, S* to, Accumulate accumulate) const {
    const S scale = static_cast<S>(scale_);
    if constexpr (std::is_same_v<S, float>) {
      const kernels::DropoutRow d = {stream_.key(), static_cast<std::uint64_t>(row), threshold_,
                                     scale};
      kernels::dropout_kernel()(d, n, from, to, accumulate == Accumulate::yes);
      return;
    }
    const std::uint32_t row_low = static_cast<std::uint32_t>(row);
    const std::uint32_t row_high =
        static_cast<std::uint32_t>(static_cast<std::uint64_t>(row) >> 32);
    for (Index j = 0; j < n; j += 4) {
      const auto words =
          philox4x32({static_cast<std::uint32_t>(j / 4), 0, row_low, row_high}, stream_.key());
      for (Index k = 0; k < 4 && j + k < n; ++k) {
        const S kept =
            words[static_cast<std::size_t>(k)] >= threshold_ ? from[j + k] * scale : S(0);
        to[j + k] = accumulate == Accumulate::yes ? to[j + k] + kept : kept;
      }
    }
  }

  /// Does the same for all rows of `from` (T, n), the first of which is `first_row` of the batch.
  /// Shares the rows between the workers.
  template <class S>
  void rows(Index first_row, const View<S>& from, const MutableView<S>& to,
            Accumulate accumulate) const {
    parallel_for(from.rows, 8, [&](Index begin, Index end) {
      for (Index t = begin; t < end; ++t) {
        row(first_row + t, from.cols, from.data + t * from.row_stride, to.data + t * to.row_stride,
            accumulate);
      }
    });
  }

 private:
  RandomStream stream_;
  std::uint32_t threshold_;
  double scale_;
  bool active_;
};

}  // namespace lora
