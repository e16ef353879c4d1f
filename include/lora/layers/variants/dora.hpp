// DoRA: the update changes the direction of each output's weights; a vector holds their length.
#pragma once

#include <lora/core/parallel.hpp>
#include <lora/core/parameter.hpp>
#include <lora/core/scalar.hpp>
#include <lora/layers/base_map.hpp>
#include <lora/layers/variants/plain_lora.hpp>
#include <lora/layers/variants/rslora.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

namespace lora {

/// What a variant that scales the output keeps from one forward, and its workspace.
template <class S>
struct OutputTape {
  Matrix<S> u;     ///< (W + s B A) drop(x) per row, (T, O); backward overwrites it with c ∘ dy
  Matrix<S> c, n;  ///< m / n and n, (1, O)
  Matrix<S> projected, gram, turned;  ///< A Wᵀ (R, O), A Aᵀ (R, R), B A Aᵀ (O, R)
};

/// n and everything it was computed from.
template <class S>
struct KnownNorm {
  Matrix<S> A, B, n;
  S scale;
  std::weak_ptr<const void> weight;  ///< FrozenWeight::handle()
};

/// Caches the n of inference, where it stays the same from token to token. Copies share the value
/// until one of them sets another.
/// Threads: any number may get and set.
template <class S>
class NormCache {
 public:
  using Value = std::shared_ptr<const KnownNorm<S>>;

  NormCache() = default;
  NormCache(const NormCache& other) noexcept : value_(other.get()) {}
  NormCache& operator=(const NormCache& other) noexcept {
    set(other.get());
    return *this;
  }
  Value get() const noexcept { return value_.load(); }
  void set(Value value) const noexcept { value_.store(std::move(value)); }

 private:
  mutable std::atomic<Value> value_;
};

/// Weight-decomposed low-rank adaptation. Let n_j = ‖W_j + s (B A)_j‖ over the inputs of output j,
/// which every derivative treats as a constant, c = m / n and u = (W + s B A) drop(x). Then
///   without dropout  y = c ∘ u,
///   with dropout     y = W x + s B A drop(x) + (c - 1) ∘ u.
/// m (1, O), "lora_magnitude_vector", is trained besides A and B. It starts as n, so a new adapter
/// changes no bit. n² = ‖W_j‖² + 2 s (W Aᵀ)_j · B_j + s² B_j A Aᵀ B_jᵀ never forms B A or
/// W + s B A, and ‖W_j‖² is computed once per weight. With g = dL/dy:
///   dm = Σ_t g ∘ u / n;  dA and dB as in PlainLoRA, with c ∘ g for g;
///   without dropout  dx = (c ∘ g) (W + s B A),
///   with dropout     dx = g W + mask / (1 - p) ∘ (((c - 1) ∘ g) W + s (c ∘ g) B A).
/// A second adapter on a layer treats the first one's output, without the bias, as its base.
/// Merging gives c ∘ (W + s B A).
///
/// A variant that scales the output sets `scales_output`. The layers call start(); finish() once
/// the adapter's term is added to y; output_gradient() before backward(); and output_scale() to
/// merge.
/// Source: Liu et al., "DoRA", 2024, equations 5 and 11; PEFT's use_dora.
struct DoRA : PlainLoRA {
  static constexpr bool scales_output = true;
  /// Uses the s of RsLoRA.
  bool use_rslora = false;

  double scaling(double alpha, Index r) const {
    return use_rslora ? RsLoRA::scaling(alpha, r) : PlainLoRA::scaling(alpha, r);
  }

  /// Computes what the adapter keeps while the layer has this frozen weight: ‖W_j‖² (1, outputs).
  template <class S>
  static Matrix<WideOf<S>> remember(const BaseMap<S>& base) {
    return base.squares();
  }
  /// Adds m to a new adapter whose A and B are set: m = n, or ‖W_j‖ if A and B are still unset
  /// (AdapterInit::none).
  template <class S>
  static void begin(Adapter<S>& adapter, const BaseMap<S>& base, AdapterInit init) {
    OutputTape<S> scratch;
    Matrix<S> m;
    if (init == AdapterInit::none) {
      set_size(m, 1, base.outputs());
      for (Index j = 0; j < m.cols(); ++j)
        m(0, j) = static_cast<S>(std::sqrt(adapter.of_weight(0, j)));
    } else {
      compute_norms(adapter, base, scratch, m);
    }
    adapter.own.push_back(
        {"lora_magnitude_vector", Parameter<S>(std::move(m), base.output_shape())});
  }
  template <class S>
  static const Parameter<S>& magnitude(const Adapter<S>& adapter) {
    return adapter.own.front().parameter;
  }

  /// Computes c and n for a forward of T rows. `keep_u` makes room for u, which backward and
  /// dropout need. Outside training, reuses the n in Adapter::norm while A, B, s and W stay the
  /// same; in training every step changes them.
  /// Allocates: when sizes change and, outside training, when n does.
  template <class S>
  static void start(const Adapter<S>& adapter, const BaseMap<S>& base, Index T, bool training,
                    bool keep_u, OutputTape<S>& tape) {
    const auto known = training ? nullptr : adapter.norm.get();
    if (known != nullptr && is_of(*known, adapter, base)) {
      tape.n = known->n;
    } else {
      compute_norms(adapter, base, tape, tape.n);
      if (!training) {
        adapter.norm.set(std::make_shared<const KnownNorm<S>>(KnownNorm<S>{
            adapter.A.value, adapter.B.value, tape.n, adapter.scale(), base.weight.handle()}));
      }
    }
    set_size(tape.c, 1, base.outputs());
    for (Index j = 0; j < tape.c.cols(); ++j)
      tape.c(0, j) = quotient(magnitude(adapter).value(0, j), tape.n(0, j));
    if (keep_u) set_size(tape.u, T, base.outputs());
  }

  /// Scales y, the base's output plus this adapter's term for the rows from `first` on. Without
  /// dropout, u = y, copied to the tape if `keep_u`, and y = c ∘ u. With dropout, the tape already
  /// holds u, and y += (c - 1) ∘ u.
  template <class S>
  static void finish(OutputTape<S>& tape, Index first, bool dropped, bool keep_u,
                     const MutableView<S>& y) {
    const S* c = tape.c.data();
    parallel_for(y.rows, rows_at_once, [&](Index begin, Index end) {
      for (Index t = begin; t < end; ++t) {
        S* out = y.data + t * y.row_stride;
        if (dropped) {
          const S* u = tape.u.data() + (first + t) * y.cols;
          for (Index j = 0; j < y.cols; ++j) out[j] += (c[j] - S(1)) * u[j];
          continue;
        }
        if (keep_u) std::copy_n(out, y.cols, tape.u.data() + (first + t) * y.cols);
        for (Index j = 0; j < y.cols; ++j) out[j] *= c[j];
      }
    });
  }

  /// Computes dm += Σ_t g ∘ u / n over the tape's rows from `first` on, overwrites u with c ∘ g and
  /// returns it. Threads share the outputs.
  template <class S>
  static View<S> output_gradient(Adapter<S>& adapter, OutputTape<S>& tape, Index first,
                                 const View<S>& g) {
    Parameter<S>& m = adapter.own.front().parameter;
    constexpr Index wide = 256;
    S* u = detail::moved(tape.u.data(), first * g.cols);
    parallel_for((g.cols + wide - 1) / wide, 1, [&](Index begin, Index end) {
      for (Index block = begin; block < end; ++block) {
        const Index j = block * wide, width = std::min(wide, g.cols - j);
        const S* c = tape.c.data() + j;
        std::array<S, wide> sums{};
        for (Index t = 0; t < g.rows; ++t) {
          const S* dy = g.data + t * g.row_stride + j;
          S* row = u + t * g.cols + j;
          for (Index k = 0; k < width; ++k) {
            sums[static_cast<std::size_t>(k)] += dy[k] * row[k];
            row[k] = c[k] * dy[k];
          }
        }
        if (!m.trainable) continue;
        for (Index k = 0; k < width; ++k) {
          if (tape.n(0, j + k) == S(0)) continue;  // W_j + s (B A)_j is zero, and so is u
          m.grad.data()[j + k] += sums[static_cast<std::size_t>(k)] / tape.n(0, j + k);
        }
      }
    });
    return {u, g.rows, g.cols, g.cols, 1};
  }
  /// Turns the c ∘ g that output_gradient() left into (c - 1) ∘ g, for the path through dropout.
  template <class S>
  static void dropped_gradient(OutputTape<S>& tape, Index first, const View<S>& g) {
    S* scaled = detail::moved(tape.u.data(), first * g.cols);
    parallel_for(g.rows, rows_at_once, [&](Index begin, Index end) {
      for (Index t = begin; t < end; ++t) {
        for (Index j = 0; j < g.cols; ++j) scaled[t * g.cols + j] -= g.data[t * g.row_stride + j];
      }
    });
  }

  /// Computes c (1, outputs), by which merging multiplies W + s B A.
  /// Allocates: the result and a workspace.
  template <class S>
  static Matrix<S> output_scale(const Adapter<S>& adapter, const BaseMap<S>& base) {
    OutputTape<S> tape;
    start(adapter, base, 0, true, false, tape);
    return std::move(tape.c);
  }

  /// Computes ‖c ∘ (W + s B A) - W‖ (Frobenius), how far the adapter moves the weight.
  /// Allocates: a workspace.
  template <class S>
  static double change_norm(const Adapter<S>& adapter, const BaseMap<S>& base) {
    OutputTape<S> tape;
    start(adapter, base, 0, true, false, tape);
    const auto s = static_cast<double>(adapter.scale());
    double sum = 0;
    for (Index j = 0; j < tape.c.cols(); ++j) {
      const auto c = static_cast<double>(tape.c(0, j));
      const auto cross = s * static_cast<double>(adapter.B.value.row(j).dot(tape.projected.col(j))),
                 own = s * s * static_cast<double>(adapter.B.value.row(j).dot(tape.turned.row(j)));
      sum += (c - 1) * (c - 1) * static_cast<double>(adapter.of_weight(0, j)) +
             2 * c * (c - 1) * cross + c * c * own;
    }
    return std::sqrt(std::max(sum, 0.0));
  }

 private:
  static constexpr Index rows_at_once = 8;

  /// Whether n was computed from these A, B, s and W. m may have changed.
  template <class S>
  static bool is_of(const KnownNorm<S>& known, const Adapter<S>& adapter, const BaseMap<S>& base) {
    const auto same = [](const Matrix<S>& a, const Matrix<S>& b) {
      return a.rows() == b.rows() && a.cols() == b.cols() &&
             std::equal(a.data(), a.data() + a.size(), b.data());
    };
    return base.weight.is(known.weight) && known.scale == adapter.scale() &&
           same(known.A, adapter.A.value) && same(known.B, adapter.B.value);
  }
  /// Computes n (1, outputs), and its parts into `scratch`.
  template <class S>
  static void compute_norms(const Adapter<S>& adapter, const BaseMap<S>& base,
                            OutputTape<S>& scratch, Matrix<S>& n) {
    const Matrix<S>&A = adapter.A.value, &B = adapter.B.value;
    base.project(A, scratch.projected);
    set_size(scratch.gram, A.rows(), A.rows());
    product<S>(A, View<S>(A).transposed(), scratch.gram);
    set_size(scratch.turned, B.rows(), B.cols());
    product<S>(B, scratch.gram, scratch.turned);
    combine_norms<S>(adapter.scale(), adapter.of_weight, scratch.projected, B, scratch.turned, n);
  }

 public:
  /// Computes n of each output from its parts: ‖W_j‖² (1, O), A Wᵀ (R, O), B (O, R) and
  /// B A Aᵀ (O, R), summed in WideOf<S>. The parts are products in S. So where s B A cancels nearly
  /// all of W_j, n is uncertain by √ε ‖W_j‖ with ε the unit roundoff of S, and it is never below that.
  template <class S>
  static void combine_norms(S s, const Matrix<WideOf<S>>& squares, const Matrix<S>& projected,
                            const Matrix<S>& B, const Matrix<S>& turned, Matrix<S>& n) {
    using Wide = WideOf<S>;
    const auto scale = static_cast<Wide>(s);
    set_size(n, 1, squares.cols());
    for (Index j = 0; j < squares.cols(); ++j) {
      Wide sum = squares(0, j);
      for (Index k = 0; k < B.cols(); ++k) {
        sum += scale * static_cast<Wide>(B(j, k)) *
               (Wide(2) * static_cast<Wide>(projected(k, j)) +
                scale * static_cast<Wide>(turned(j, k)));
      }
      const Wide least = squares(0, j) * Wide(std::numeric_limits<RealOf<S>>::epsilon() / 2);
      const Wide constant = detached(real_part(sum) < real_part(least) ? least : sum);
      n(0, j) = static_cast<S>(std::sqrt(constant));
    }
  }

  /// Computes c = m / n, exactly 1 for equal numbers. So an output whose W_j is zero begins with 1.
  template <class S>
  static S quotient(S m, S n) {
    return m == n ? S(1) : m / n;
  }
};

}  // namespace lora
