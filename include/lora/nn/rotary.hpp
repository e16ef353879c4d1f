// Rotary position embedding: rotates pairs of a head's elements by an angle proportional to the
// position.
#pragma once

#include <lora/nn/rows.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <span>

namespace lora {

/// How a model extends its positions beyond those it was trained on. The names are those of
/// transformers.
struct RopeScaling {
  enum class Type { none, linear, dynamic, llama3, yarn };
  Type type = Type::none;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  /// For llama3 and yarn: the number of positions in pretraining.
  Index original_max_position_embeddings = 0;
  double beta_fast = 32, beta_slow = 1;         ///< yarn: rotations within those positions
  bool truncate = true;                         ///< yarn: round the ramp's edges to whole pairs
  std::optional<double> attention_factor = {};  ///< yarn; unset: 0.1 ln(factor) + 1
  bool operator==(const RopeScaling&) const = default;
};

/// What the angles depend on.
struct Rope {
  Index head_dim = 0;  ///< K, even
  double theta = 10000;
  RopeScaling scaling;
  Index max_position_embeddings = 0;  ///< dynamic: sequences up to this length are not stretched
};

/// Returns the factor of all cosines and sines: yarn's attention factor, 1 for the other types.
inline double rope_attention_factor(const RopeScaling& s) {
  if (s.type != RopeScaling::Type::yarn) return 1;
  return s.attention_factor.value_or(s.factor > 1 ? 0.1 * std::log(s.factor) + 1 : 1);
}

namespace detail {
/// Returns how far yarn divides the angle of pair i by factor: 0 up to the pair that rotates
/// beta_fast times within the P positions of pretraining, 1 from the pair that rotates beta_slow
/// times, linear between. The pair that rotates n times is K ln(P/(2πn)) / (2 ln θ).
inline double yarn_ramp(const Rope& rope, Index i) {
  const RopeScaling& s = rope.scaling;
  const auto K = static_cast<double>(rope.head_dim);
  const auto trained = static_cast<double>(s.original_max_position_embeddings);
  const auto pair_of = [&](double turns) {
    return K * std::log(trained / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
  };
  double low = pair_of(s.beta_fast), high = pair_of(s.beta_slow);
  if (s.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, K - 1);
  if (low == high) high += 0.001;
  return std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
}
}  // namespace detail

/// Returns the angle between consecutive positions for pair i = 0 … K/2 - 1 of a sequence of
/// `length` tokens: f = θ^(−2i/K), modified by the scaling type:
///   linear   f / factor;
///   dynamic  θ' = θ (factor · L / Lmax − (factor − 1))^(K/(K−2)) for θ where L = length > Lmax;
///   llama3   with wavelength λ = 2π/f and P positions in pretraining: f / factor if λ > P/low,
///            f if λ < P/high, else (1−s) f/factor + s f with s = (P/λ − low)/(high − low);
///   yarn     m f/factor + (1−m) f with m of yarn_ramp (Peng et al., 2023).
/// Source: modeling_rope_utils of transformers.
inline double rope_frequency(const Rope& rope, Index i, Index length) {
  const RopeScaling& s = rope.scaling;
  const auto K = static_cast<double>(rope.head_dim);
  double theta = rope.theta;
  if (s.type == RopeScaling::Type::dynamic && length > rope.max_position_embeddings) {
    const double stretch =
        s.factor * static_cast<double>(length) / static_cast<double>(rope.max_position_embeddings) -
        (s.factor - 1);
    theta *= std::pow(stretch, K / (K - 2));
  }
  const double f = 1 / std::pow(theta, static_cast<double>(2 * i) / K);
  if (s.type == RopeScaling::Type::linear) return f / s.factor;
  if (s.type == RopeScaling::Type::yarn) {
    const double m = detail::yarn_ramp(rope, i);
    return m * f / s.factor + (1 - m) * f;
  }
  if (s.type != RopeScaling::Type::llama3) return f;
  const auto trained = static_cast<double>(s.original_max_position_embeddings);
  const double wavelength = 2 * std::numbers::pi / f;
  if (wavelength > trained / s.low_freq_factor) return f / s.factor;
  if (wavelength < trained / s.high_freq_factor) return f;
  const double smooth =
      (trained / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * f / s.factor + smooth * f;
}

/// The direction of rotate(): forward rotates by +angle; backward, its transpose, by −angle.
enum class Turn { forward, backward };

/// The cosines and sines of the angles of T tokens, (T, K/2) each. Computed once per batch and used
/// by every layer.
template <class S>
struct RotaryTable {
  Matrix<RealOf<S>> cosine, sine;

  /// Computes the table for concatenated sequences. Sequence n has lengths[n] tokens at positions
  /// past[n], past[n] + 1, … (past empty: 0). As in transformers, angles are rounded to float32
  /// before their cosine and sine are taken; then yarn's attention factor multiplies both.
  /// Allocates: when T changes.
  void prepare(const Rope& rope, std::span<const Index> lengths, std::span<const Index> past = {}) {
    Index rows = 0;
    for (const Index length : lengths) rows += length;
    const Index pairs = rope.head_dim / 2;
    const auto scale = static_cast<float>(rope_attention_factor(rope.scaling));
    set_size(cosine, rows, pairs);
    set_size(sine, rows, pairs);
    Index first = 0;
    for (std::size_t n = 0; n < lengths.size(); first += lengths[n++]) {
      const Index begin = past.empty() ? 0 : past[n], count = lengths[n];
      parallel_for(pairs, std::max<Index>(1, 512 / std::max<Index>(count, 1)),
                   [&](Index from, Index to) {
                     for (Index i = from; i < to; ++i)
                       fill(first, begin, count, i, rope_frequency(rope, i, begin + count), scale);
                   });
    }
  }

 private:
  void fill(Index first, Index begin, Index count, Index i, double frequency, float scale) {
    const auto step = static_cast<float>(frequency);
    for (Index t = 0; t < count; ++t) {
      const double angle = static_cast<float>(begin + t) * step;
      cosine(first + t, i) = static_cast<RealOf<S>>(static_cast<float>(std::cos(angle)) * scale);
      sine(first + t, i) = static_cast<RealOf<S>>(static_cast<float>(std::sin(angle)) * scale);
    }
  }
};

namespace detail {
/// Replaces each pair (a, b) by (a c − b s, b c + a s), eight pairs at a time as in map_row.
template <class S>
void rotate_head(Index pairs, const RealOf<S>* c, const RealOf<S>* s, RealOf<S> sign, S* a, S* b) {
  constexpr Index lanes = 8;
  const auto turn = [=](Index i, S& low, S& high) {
    low = a[i] * c[i] - b[i] * (sign * s[i]);
    high = b[i] * c[i] + a[i] * (sign * s[i]);
  };
  Index i = 0;
  for (; i + lanes <= pairs; i += lanes) {
    S low[lanes], high[lanes];
    for (Index k = 0; k < lanes; ++k) turn(i + k, low[k], high[k]);
    for (Index k = 0; k < lanes; ++k) a[i + k] = low[k], b[i + k] = high[k];
  }
  for (; i < pairs; ++i) {
    S low, high;
    turn(i, low, high);
    a[i] = low, b[i] = high;
  }
}
}  // namespace detail

/// Rotates each head of x (T, H·K) in place by the angles of `table`: for i < K/2, the pair (x_i,
/// x_{i+K/2}) becomes (x_i c − x_{i+K/2} s, x_{i+K/2} c + x_i s).
/// Throws: ShapeError.
/// Allocates: nothing.
/// Threads: shares rows between the workers.
/// Source: Su et al., 2021; apply_rotary_pos_emb of transformers.
template <class S>
void rotate(Out<S> x, const RotaryTable<S>& table, Turn turn = Turn::forward) {
  const Index pairs = table.cosine.cols();
  expect_shape("rotate", "x", x, table.cosine.rows(), -1);
  if (pairs == 0 || x.cols() % (2 * pairs) != 0) {
    check_shape(false, "rotate", "x", x.rows(), x.cols(),
                "a multiple of " + std::to_string(2 * pairs) + " columns");
  }
  const RealOf<S> sign = turn == Turn::forward ? 1 : -1;
  for_row_shares(x.rows(), x.cols(), [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      const RealOf<S>*c = table.cosine.data() + t * pairs, *s = table.sine.data() + t * pairs;
      for (Index head = 0; head < x.cols(); head += 2 * pairs) {
        S* low = x.data() + t * x.outerStride() + head;
        detail::rotate_head(pairs, c, s, sign, low, low + pairs);
      }
    }
  });
}

}  // namespace lora
