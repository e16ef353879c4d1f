// Losses and their gradients: cross entropy of logits, mean squared error.
#pragma once

#include <lora/core/error.hpp>
#include <lora/core/number_text.hpp>
#include <lora/core/overlap.hpp>
#include <lora/core/parallel.hpp>
#include <lora/core/scalar.hpp>
#include <lora/core/types.hpp>
#include <lora/kernels/dispatch.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

namespace lora {

/// How the losses of rows or elements are combined.
enum class Reduction { mean, sum };

/// Options of cross_entropy; names and defaults are PyTorch's.
struct CrossEntropyOptions {
  std::int64_t ignore_index = ignored_label;  ///< rows with this label are skipped
  double label_smoothing = 0;                 ///< ε in [0, 1]
  Reduction reduction = Reduction::mean;
  /// With `mean`, the divisor: the number of counted rows in all micro-batches of a step, so that
  /// summing micro-batches gives the gradient of one large batch (num_items_in_batch of
  /// transformers). 0 stands for the counted rows of this call.
  Index num_items = 0;
};

template <class S>
struct CrossEntropyResult {
  WideOf<S> loss = 0;
  Index counted = 0;  ///< rows whose label is not ignore_index
};

namespace detail {

inline void check_cross_entropy(Index T, Index V, std::span<const std::int64_t> labels,
                                const CrossEntropyOptions& options) {
  const auto refuse = [](const std::string& what) { throw ConfigError("cross_entropy: " + what); };
  if (static_cast<Index>(labels.size()) != T) {
    throw ShapeError("cross_entropy: " + std::to_string(labels.size()) + " labels for logits " +
                     shape_text(T, V) + ", expected one a row: " + std::to_string(T));
  }
  if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1)) {
    refuse("label_smoothing is " + number_text(options.label_smoothing) + ", expected 0 to 1");
  }
  if (options.num_items < 0) {
    refuse("num_items is " + std::to_string(options.num_items) + ", expected 0 or more");
  }
  if (options.num_items > 0 && options.reduction == Reduction::sum) {
    refuse("num_items is a divisor of the mean, but reduction is sum");
  }
  for (Index t = 0; t < T; ++t) {
    const std::int64_t label = labels[static_cast<std::size_t>(t)];
    if (label != options.ignore_index && (label < 0 || label >= V)) {
      throw Error("cross_entropy: label " + std::to_string(label) + " in row " + std::to_string(t) +
                  " is outside of [0, " + std::to_string(V) + ") and is not ignore_index " +
                  std::to_string(options.ignore_index));
    }
  }
}

// Computes the loss of one row x (V) and, with g, also g = scale · d(loss)/dx; g may be x. With
// p = softmax(x) and m = max x, no exponent is positive:
//   loss = log Σ exp(x − m) − (1−ε) (x_label − m) − ε/V Σ (x − m),   dx = p − (1−ε) onehot − ε/V
template <class S>
WideOf<S> cross_entropy_row(const S* x, Index V, Index label, double smoothing, double scale,
                            S* g) {
  using std::exp;
  using std::log;
  using Wide = WideOf<S>;
  using RealWide = RealOf<Wide>;
  const auto keep = static_cast<RealWide>(1 - smoothing);
  const auto spread = static_cast<RealWide>(smoothing / static_cast<double>(V));
  constexpr bool fast = std::is_same_v<S, float>;
  [[maybe_unused]] const auto with = kernels::softmax_kernels();
  S m = x[0];
  if constexpr (fast) {
    m = with.largest(V, x);
  } else {
    for (Index v = 1; v < V; ++v) m = real_part(x[v]) > real_part(m) ? x[v] : m;
  }
  const Wide at_label = static_cast<Wide>(x[label]) - static_cast<Wide>(m);
  Wide total = 0, shifted = 0;
  // Only with smoothing: otherwise a logit masked with −∞ has no part in the loss.
  if (smoothing > 0) {
    for (Index v = 0; v < V; ++v) shifted += static_cast<Wide>(x[v]) - static_cast<Wide>(m);
  }
  if constexpr (fast) {
    total = with.exponentials(V, x, m, g);
  } else {
    for (Index v = 0; v < V; ++v) {
      const S e = exp(x[v] - m);
      total += static_cast<Wide>(e);
      if (g != nullptr) g[v] = e;
    }
  }
  Wide loss = log(total) - keep * at_label;
  if (smoothing > 0) loss -= spread * shifted;
  if (g != nullptr) {
    const auto weight = static_cast<RealWide>(scale);
    const S normalise = static_cast<S>(weight / total);
    const auto everywhere = static_cast<RealOf<S>>(weight * spread);
    if constexpr (fast) {
      with.scale_and_shift(V, normalise, everywhere, g);
    } else {
      for (Index v = 0; v < V; ++v) g[v] = g[v] * normalise - everywhere;
    }
    g[label] -= static_cast<RealOf<S>>(weight * keep);
  }
  return loss;
}

template <class S>
CrossEntropyResult<S> cross_entropy(In<S> logits, std::span<const std::int64_t> labels, S* dlogits,
                                    Index dlogits_stride, const CrossEntropyOptions& options) {
  const Index T = logits.rows(), V = logits.cols();
  check_cross_entropy(T, V, labels, options);
  CrossEntropyResult<S> result;
  for (const std::int64_t label : labels) result.counted += label != options.ignore_index;
  const Index divisor = options.num_items > 0 ? options.num_items : result.counted;
  const bool mean = options.reduction == Reduction::mean && divisor > 0;
  const double scale = mean ? 1.0 / static_cast<double>(divisor) : 1.0;
  // The losses of a group of rows. Threads fill them in; then they are added in order.
  std::array<WideOf<S>, 64> losses;
  constexpr auto together = static_cast<Index>(losses.size());
  for (Index first = 0; first < T; first += together) {
    const Index rows = std::min(together, T - first);
    const Index grain = std::max<Index>(1, 4096 / std::max<Index>(V, 1));
    parallel_for(rows, grain, [&](Index begin, Index end) {
      for (Index t = first + begin; t < first + end; ++t) {
        const std::int64_t label = labels[static_cast<std::size_t>(t)];
        WideOf<S>& loss = losses[static_cast<std::size_t>(t - first)];
        S* g = dlogits == nullptr ? nullptr : dlogits + t * dlogits_stride;
        if (label == options.ignore_index) {
          if (g != nullptr) std::fill_n(g, V, S(0));
          loss = 0;
          continue;
        }
        const S* x = logits.data() + t * logits.outerStride();
        loss =
            cross_entropy_row(x, V, static_cast<Index>(label), options.label_smoothing, scale, g);
      }
    });
    for (Index t = 0; t < rows; ++t) result.loss += losses[static_cast<std::size_t>(t)];
  }
  result.loss *= static_cast<RealOf<WideOf<S>>>(scale);
  return result;
}

}  // namespace detail

/// Computes the cross entropy of logits (T, V) with T labels over the rows whose label is not
/// ignore_index:
///   loss_t = −(1−ε) log p_t[label_t] − ε/V Σ_v log p_t[v],  p_t = softmax(logits_t)
/// `sum` adds the rows; `mean` divides the sum by their number (or num_items). As in
/// torch.nn.functional.cross_entropy, except that the mean over no rows is 0 where PyTorch gives
/// NaN, so that a fully masked micro-batch adds nothing. A row with a NaN, a +∞ or only −∞ has loss
/// NaN; a −∞ beside finite logits is an impossible class. Sums are made in double for float.
///
///   const std::vector<std::int64_t> labels{3, 17, lora::ignored_label};
///   Matrix<float> logits(3, 32), dlogits(3, 32);
///   model.forward(x, logits, &tape);
///   const auto result = cross_entropy<float>(logits, labels, dlogits);
///   std::printf("loss %f over %td rows\n", result.loss, result.counted);
///   model.backward(x, dlogits, tape);
///
/// Throws: ShapeError for the number of labels; ConfigError for an option; Error for a label
///   outside [0, V), with its row.
/// Allocates: nothing.
/// Threads: shares rows between the workers.
template <class S>
CrossEntropyResult<S> cross_entropy(In<S> logits, std::span<const std::int64_t> labels,
                                    const CrossEntropyOptions& options = {}) {
  return detail::cross_entropy<S>(logits, labels, nullptr, 0, options);
}

/// Computes the loss and dlogits (T, V) = d(loss)/d(logits), with zeros in ignored rows. dlogits
/// may be logits itself, which saves a (T, V) matrix.
/// Throws: as above; Error when dlogits overlaps a part of logits. All before anything is written.
template <class S>
CrossEntropyResult<S> cross_entropy(In<S> logits, std::span<const std::int64_t> labels,
                                    Out<S> dlogits, const CrossEntropyOptions& options = {}) {
  expect_shape("cross_entropy", "dlogits", dlogits, logits.rows(), logits.cols());
  expect_same_or_apart<S>("cross_entropy", "dlogits", dlogits, "logits", logits);
  return detail::cross_entropy<S>(logits, labels, dlogits.data(), dlogits.outerStride(), options);
}

/// Computes the sum of (y − target)² over all T·O elements, or their mean, and dy = 2 (y − target),
/// divided by T·O for the mean; y, target and dy are (T, O). dy may be y or target itself. As in
/// torch.nn.functional.mse_loss, except that the mean over nothing is 0. Sums are made in double
/// for float.
/// Throws: ShapeError; Error when dy overlaps a part of y or target. All before anything is
///   written.
/// Allocates: nothing.
template <class S>
WideOf<S> mse_loss(In<S> y, In<S> target, Out<S> dy, Reduction reduction = Reduction::mean) {
  expect_shape("mse_loss", "target", target, y.rows(), y.cols());
  expect_shape("mse_loss", "dy", dy, y.rows(), y.cols());
  expect_same_or_apart<S>("mse_loss", "dy", dy, "y", y);
  expect_same_or_apart<S>("mse_loss", "dy", dy, "target", target);
  using RealWide = RealOf<WideOf<S>>;
  const bool mean = reduction == Reduction::mean && y.size() > 0;
  const RealWide scale = mean ? 1 / static_cast<RealWide>(y.size()) : 1;
  const auto slope = static_cast<RealOf<S>>(2 * scale);
  WideOf<S> loss = 0;
  for (Index t = 0; t < y.rows(); ++t) {
    const S* a = y.data() + t * y.outerStride();
    const S* b = target.data() + t * target.outerStride();
    S* d = dy.data() + t * dy.outerStride();
    for (Index i = 0; i < y.cols(); ++i) {
      const S difference = a[i] - b[i];
      loss += static_cast<WideOf<S>>(difference) * static_cast<WideOf<S>>(difference);
      d[i] = slope * difference;
    }
  }
  return loss * scale;
}

}  // namespace lora
