// A reference matrix product: plain loops in a wider type, with the error that a sum in S may have,
// and matrices with guarded surroundings.
#pragma once

#include <lora/core/random.hpp>
#include <lora/core/types.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace lora_test {

using lora::Index;
using lora::Matrix;
using lora::MutableView;
using lora::View;

template <class S>
struct Wider {
  using type = std::conditional_t<sizeof(S) == 4, double, long double>;
  using real = type;
  static constexpr bool is_complex = false;
  static constexpr double roundoff = static_cast<double>(std::numeric_limits<S>::epsilon()) / 2;
};
template <class R>
struct Wider<std::complex<R>> {
  using real = typename Wider<R>::type;
  using type = std::complex<real>;
  static constexpr bool is_complex = true;
  static constexpr double roundoff = Wider<R>::roundoff;
};

/// γ_n = n u / (1 − n u): n roundings change a number by at most this factor (Higham, "Accuracy and
/// Stability of Numerical Algorithms", lemma 3.1).
inline double gamma(Index n, double u) {
  const double nu = static_cast<double>(n) * u;
  return nu / (1 - nu);
}

/// Returns how many roundings an element of a (…, k)(k, …) product goes through in S: its chain has
/// k products, each rounded (unless fused) and added. A complex product has one more. `extra`
/// counts further ones, such as adding to old values.
template <class S>
Index product_roundings(Index k, Index extra = 0) {
  return k + (Wider<S>::is_complex ? 1 : 0) + extra;
}

/// The exact product, element by element, and Σ|a||b|, to which its error is relative. Complex
/// numbers keep both for the real and the imaginary part.
template <class S>
struct Reference {
  using Wide = typename Wider<S>::type;
  using Real = typename Wider<S>::real;
  Index rows = 0, cols = 0;
  std::vector<Wide> value, magnitude;

  Reference(Index r, Index c)
      : rows(r), cols(c), value(static_cast<std::size_t>(r * c)), magnitude(value.size()) {}

  Wide& at(std::vector<Wide>& of, Index i, Index j) const {
    return of[static_cast<std::size_t>(i * cols + j)];
  }
  /// Computes value += x.
  void add(Index i, Index j, const S& x) {
    if constexpr (Wider<S>::is_complex) {
      at(value, i, j) += Wide(x.real(), x.imag());
      at(magnitude, i, j) += Wide(std::abs(x.real()), std::abs(x.imag()));
    } else {
      at(value, i, j) += x;
      at(magnitude, i, j) += std::abs(x);
    }
  }
  /// Computes value += scale A B for the rows from `first` on.
  void add_product(const View<S>& a, const View<S>& b, Index first = 0, S scale = S(1)) {
    for (Index i = 0; i < a.rows; ++i) {
      for (Index j = 0; j < b.cols; ++j) {
        Wide sum{}, size{};
        for (Index k = 0; k < a.cols; ++k) {
          const Wide x(a.data[i * a.row_stride + k * a.col_stride]),
              y(b.data[k * b.row_stride + j * b.col_stride]);
          sum += x * y;
          if constexpr (Wider<S>::is_complex) {
            const Real xr = std::abs(x.real()), xi = std::abs(x.imag()), yr = std::abs(y.real()),
                       yi = std::abs(y.imag());
            size += Wide(xr * yr + xi * yi, xr * yi + xi * yr);
          } else {
            size += std::abs(x * y);
          }
        }
        at(value, first + i, j) += Wide(scale) * sum;
        at(magnitude, first + i, j) += std::abs(Wide(scale)) * size;
      }
    }
  }
};

/// A (rows, cols) result inside a larger block of memory: rows `stride` apart, `offset` elements
/// from the beginning of the block. Every other element holds a pattern that `untouched` checks.
template <class S>
struct Guarded {
  Index rows, cols, stride, offset;
  std::vector<S> memory;

  Guarded(Index r, Index c, Index gap = 0, Index begin = 0)
      : rows(r), cols(c), stride(c + gap), offset(begin) {
    memory.resize(static_cast<std::size_t>(offset + rows * stride + 7));
    std::memset(static_cast<void*>(memory.data()), 0xA5, memory.size() * sizeof(S));
  }
  S* data() { return memory.data() + offset; }
  MutableView<S> view() { return {data(), rows, cols, stride}; }
  S& at(Index i, Index j) { return data()[i * stride + j]; }

  bool untouched() const {
    S pattern;
    std::memset(static_cast<void*>(&pattern), 0xA5, sizeof pattern);
    for (Index n = 0; n < static_cast<Index>(memory.size()); ++n) {
      const Index inside = n - offset;
      if (inside >= 0 && inside < rows * stride && inside % stride < cols) continue;
      if (std::memcmp(&memory[static_cast<std::size_t>(n)], &pattern, sizeof pattern) != 0)
        return false;
    }
    return true;
  }
  bool same_bits(const Guarded& other) const {
    for (Index i = 0; i < rows; ++i) {
      if (std::memcmp(&memory[static_cast<std::size_t>(offset + i * stride)],
                      &other.memory[static_cast<std::size_t>(other.offset + i * other.stride)],
                      static_cast<std::size_t>(cols) * sizeof(S)) != 0)
        return false;
    }
    return rows == other.rows && cols == other.cols;
  }
};

/// How an operand is stored.
enum class Storage { contiguous, wide_rows, transposed, wide_transposed, every_other };
inline constexpr Storage all_storages[] = {Storage::contiguous, Storage::wide_rows,
                                           Storage::transposed, Storage::wide_transposed,
                                           Storage::every_other};

/// A (rows, cols) operand of normal numbers, equal for each storage, at an address aligned only to
/// S. NaN fills the space between its elements, and the memory ends with the last of them.
template <class S>
struct Operand {
  std::vector<S> memory;
  View<S> view;

  Operand(Index rows, Index cols, std::string_view name, Storage storage = Storage::contiguous) {
    Index rs = cols, cs = 1;
    if (storage == Storage::wide_rows) rs = cols + 3;
    if (storage == Storage::every_other) rs = 2 * cols + 5, cs = 2;
    if (storage == Storage::transposed) rs = 1, cs = rows;
    if (storage == Storage::wide_transposed) rs = 1, cs = rows + 3;
    const Index size = rows == 0 || cols == 0 ? 0 : (rows - 1) * rs + (cols - 1) * cs + 1;
    memory.assign(static_cast<std::size_t>(size + 1), S(std::numeric_limits<double>::quiet_NaN()));
    view = View<S>(memory.data() + 1, rows, cols, rs, cs);
    const lora::RandomStream stream(77, name);
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) {
        const auto at = static_cast<std::uint64_t>(2 * (i * cols + j));
        if constexpr (Wider<S>::is_complex)
          set(i, j, S(stream.normal(at), stream.normal(at + 1)));
        else
          set(i, j, static_cast<S>(stream.normal(at)));
      }
    }
  }
  void set(Index i, Index j, S x) {
    memory[static_cast<std::size_t>(1 + i * view.row_stride + j * view.col_stride)] = x;
  }
};

/// Whether each element of `actual` is within γ_roundings Σ|a||b| of the reference. Infinities and
/// NaN must match in kind. The message names the first mismatch.
template <class S>
testing::AssertionResult within(const MutableView<S>& actual, const Reference<S>& expected,
                                Index roundings) {
  using Real = typename Reference<S>::Real;
  if (actual.rows != expected.rows || actual.cols != expected.cols)
    return testing::AssertionFailure() << "another shape";
  // The reference itself is rounded in the wider type.
  const Real bound = static_cast<Real>(
      gamma(roundings, Wider<S>::roundoff) +
      gamma(roundings + 1000, static_cast<double>(std::numeric_limits<Real>::epsilon()) / 2));
  const auto good = [&](Real got, Real want, Real size) {
    if (std::isnan(want)) return std::isnan(got);
    if (std::isinf(want)) return got == want;
    return std::abs(got - want) <= bound * size;  // false for a NaN
  };
  for (Index i = 0; i < actual.rows; ++i) {
    for (Index j = 0; j < actual.cols; ++j) {
      const S got = actual.data[i * actual.row_stride + j];
      const std::size_t n = static_cast<std::size_t>(i * expected.cols + j);
      bool fine;
      if constexpr (Wider<S>::is_complex) {
        fine = good(got.real(), expected.value[n].real(), expected.magnitude[n].real()) &&
               good(got.imag(), expected.value[n].imag(), expected.magnitude[n].imag());
      } else {
        fine = good(got, expected.value[n], expected.magnitude[n]);
      }
      if (!fine) {
        return testing::AssertionFailure()
               << "element (" << i << ", " << j << ") is " << got << ", expected "
               << expected.value[n] << " within " << bound << " of " << expected.magnitude[n];
      }
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace lora_test
