// Inverted dropout whose mask is a function of (key, row, column), so that backward makes it again
// instead of keeping it.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/random.hpp>
#include <lora/kernels/dispatch.hpp>

#include <type_traits>

namespace lora {

/// mask(i, j) / (1 - p) with mask = 1 with probability 1 - p; p in [0, 1). A value; safe to share
/// between threads. The mask depends on the key and on (row, column) in the batch alone: not on the
/// number of threads or on how the batch is split. Source: PyTorch's nn.Dropout (the distribution;
/// the bits are our own).
class Dropout {
 public:
  Dropout(double p, std::uint64_t key)
      : stream_(key),
        threshold_(static_cast<std::uint32_t>(p * 4294967296.0)),
        scale_(1.0 / (1.0 - p)),
        active_(p > 0.0) {}

  bool active() const { return active_; }

  /// to[j] = from[j] · mask(row, j) / (1 - p), or to[j] += … ; n columns. `from` and `to` may be
  /// the same.
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

 private:
  RandomStream stream_;
  std::uint32_t threshold_;
  double scale_;
  bool active_;
};

}  // namespace lora
