// A frozen (O, D) matrix, whatever it is stored as.
#pragma once

#include <lora/core/overlap.hpp>
#include <lora/weights/dense_weight.hpp>
#include <lora/weights/packed_weight.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

namespace lora {

/// A weight that training never changes: an immutable value with shared ownership. A copy costs
/// nothing, tied layers hold the same one, and unmerging is going back to the handle that was kept.
/// Sharing one between threads is safe. One that was moved from throws Error until it is given
/// another value.
///
/// Everything outside weights/ works through the functions below, so that another storage needs no
/// change anywhere else.
template <class S>
class FrozenWeight {
 public:
  /// An empty (0, 0) weight.
  FrozenWeight() : FrozenWeight(Matrix<S>()) {}

  /// Keeps `values` as they are: (O, D), or (D, O) with Layout::in_out.
  explicit FrozenWeight(Matrix<S> values, Layout layout = Layout::out_in)
      : storage_(std::make_shared<const Storage>(DenseWeight<S>(std::move(values), layout))) {}

  /// W prepared once for its products, in float32 or, in half the memory, rounded to bfloat16.
  /// `w` (O, D), or (D, O) with Layout::in_out; it is not needed afterwards. Allocates the packed
  /// values alone. See PackedWeight; for Orientations::both, PackedWeight::add_transposed.
  static FrozenWeight pack(
      In<S> w, Precision precision = Precision::float32, Layout layout = Layout::out_in,
      Orientations orientations = Orientations::one) requires(std::is_same_v<S, float>) {
    const View<S> given(w), values = layout == Layout::out_in ? given : given.transposed();
    if (precision == Precision::float32)
      return packed(PackedWeight<S>(values, layout), orientations);
    return packed(PackedWeight<S, kernels::BF16>(values, layout), orientations);
  }

  /// The same from row-major bfloat16 or IEEE half values as a checkpoint has them, rows · cols of
  /// them: no float copy is made. bfloat16 to bfloat16 is exact.
  static FrozenWeight pack(
      const std::uint16_t* values, HalfFormat format, Index rows, Index cols,
      Precision precision = Precision::bfloat16, Layout layout = Layout::out_in,
      Orientations orientations = Orientations::one) requires(std::is_same_v<S, float>) {
    const bool as_is = layout == Layout::out_in;
    const auto at = [=](Index o, Index d) { return values[as_is ? o * cols + d : d * cols + o]; };
    const auto number = [=](Index o, Index d) {
      return format == HalfFormat::bfloat16 ? bf16_to_float(at(o, d)) : f16_to_float(at(o, d));
    };
    const Index O = as_is ? rows : cols, D = as_is ? cols : rows;
    if (precision == Precision::float32)
      return packed(PackedWeight<S>(O, D, layout, number), orientations);
    using kernels::BF16;
    if (format == HalfFormat::bfloat16)
      return packed(
          PackedWeight<S, BF16>(O, D, layout, [=](Index o, Index d) { return BF16{at(o, d)}; }),
          orientations);
    return packed(
        PackedWeight<S, BF16>(O, D, layout,
                              [=](Index o, Index d) { return BF16{float_to_bf16(number(o, d))}; }),
        orientations);
  }

  /// The same from values that are brought one by one: `value(o, d)` is W(o, d), asked for on
  /// several threads, in panels of 48 neighbouring o, and in each row by row. Rounded as above.
  template <class Value>
  static FrozenWeight pack_values(Index O, Index D, Precision precision, Layout layout,
                                  Orientations orientations,
                                  Value&& value) requires(std::is_same_v<S, float>) {
    if (precision == Precision::float32)
      return packed(PackedWeight<S>(O, D, layout, value), orientations);
    using kernels::BF16;
    return packed(
        PackedWeight<S, BF16>(O, D, layout,
                              [&](Index o, Index d) { return BF16{float_to_bf16(value(o, d))}; }),
        orientations);
  }

  Index rows() const {  ///< O
    return visit([](const auto& w) { return w.rows(); });
  }
  Index cols() const {  ///< D
    return visit([](const auto& w) { return w.cols(); });
  }
  Index size() const { return rows() * cols(); }
  /// How the checkpoint's matrix is oriented; stored() gives it back that way.
  Layout layout() const {
    return visit([](const auto& w) { return w.layout(); });
  }
  /// Memory that the values take, with what packing adds.
  Index bytes() const {
    return visit([](const auto& w) { return w.bytes(); });
  }
  bool all_finite() const {
    return visit([](const auto& w) { return w.all_finite(); });
  }

  /// y = x Wᵀ + Σ left · right; x (T, D), y (T, O), each term's left (its rows, R) and
  /// right (R, O). Each element is summed in an order that depends on D and the ranks alone. y must
  /// not overlap x. Throws ShapeError, and Error when y overlaps x. Allocates nothing once the
  /// workers run.
  void multiply(In<S> x, Out<S> y, std::span<const LowRank<S>> terms = {},
                InputRounding rounding = InputRounding::allowed) const {
    expect_shape("FrozenWeight::multiply", "x", x, -1, cols());
    expect_shape("FrozenWeight::multiply", "y", y, x.rows(), rows());
    expect_apart<S>("FrozenWeight::multiply", "y", y, "x", x);
    check_terms("FrozenWeight::multiply", terms, y.rows(), y.cols());
    visit([&](const auto& w) { w.multiply(x, y, terms, rounding); });
  }

  /// dx = dy W + Σ left · right, added to what dx holds with Accumulate::yes; dy (T, O), dx (T, D),
  /// right (R, D). When W is packed, the calling thread keeps 0.7 MB for each of num_threads(), which
  /// the first call allocates unless T is small; throws std::bad_alloc before dx is touched. Otherwise
  /// as multiply().
  void multiply_transposed(In<S> dy, Out<S> dx, Accumulate accumulate = Accumulate::no,
                           std::span<const LowRank<S>> terms = {},
                           InputRounding rounding = InputRounding::allowed) const {
    expect_shape("FrozenWeight::multiply_transposed", "dy", dy, -1, rows());
    expect_shape("FrozenWeight::multiply_transposed", "dx", dx, dy.rows(), cols());
    expect_apart<S>("FrozenWeight::multiply_transposed", "dx", dx, "dy", dy);
    check_terms("FrozenWeight::multiply_transposed", terms, dx.rows(), dx.cols());
    visit([&](const auto& w) { w.multiply_transposed(dy, dx, accumulate, terms, rounding); });
  }

  /// Allocates what multiply_transposed() of so many rows needs, so that it cannot fail afterwards on
  /// this thread.
  void prepare_multiply_transposed(Index row_count) const {
    visit([&](const auto& w) {
      if constexpr (requires { w.prepare_multiply_transposed(row_count); })
        w.prepare_multiply_transposed(row_count);
    });
  }

  /// Row o of W to out[0 … D-1]: an embedding's lookup. Throws ShapeError unless 0 ≤ o < O.
  void copy_row(Index row, S* out) const {
    if (row < 0 || row >= rows()) {
      throw ShapeError("FrozenWeight::copy_row: row is " + std::to_string(row) +
                       ", expected 0 to " + std::to_string(rows() - 1));
    }
    visit([&](const auto& w) { w.copy_row(row, out); });
  }

  /// Exactly what is stored, in the orientation layout(). Allocates the result.
  Matrix<S> stored() const {
    return visit([](const auto& w) { return Matrix<S>(w.stored()); });
  }
  /// Exactly what is stored, as (O, D). Allocates the result.
  Matrix<S> dense() const {
    if (layout() == Layout::out_in) return stored();
    return stored().transpose();
  }

  /// The sum of the squares of each row of W (1, O), or with Side::inputs of each column (1, D).
  /// Allocates the result.
  Matrix<WideOf<S>> squares(Side side = Side::outputs) const {
    return visit([&](const auto& w) { return w.squares(side); });
  }

  /// A new weight scale ∘ W + Σ delta.scale · left · right in the same storage and orientation: the
  /// changes are summed in S, added and rounded once. `scale` multiplies the rows or the columns of
  /// W; none is the default. This one is not touched. Throws ShapeError. Allocates the result and up
  /// to three dense matrices of its shape.
  FrozenWeight plus(std::span<const LowRankDelta<S>> deltas, const SideScale<S>& scale = {}) const {
    const Index factors = static_cast<Index>(scale.factors.size());
    check_shape(factors == 0 || factors == (scale.side == Side::outputs ? rows() : cols()),
                "FrozenWeight::plus", "scale", 1, factors,
                scale.side == Side::outputs ? "a factor for each row of W"
                                            : "a factor for each column of W");
    for (const LowRankDelta<S>& delta : deltas) {
      check_shape(delta.left.rows == rows(), "FrozenWeight::plus", "left", delta.left.rows,
                  delta.left.cols, "(" + std::to_string(rows()) + ", R)");
      check_shape(delta.right.rows == delta.left.cols && delta.right.cols == cols(),
                  "FrozenWeight::plus", "right", delta.right.rows, delta.right.cols,
                  shape_text(delta.left.cols, cols()));
    }
    return visit([&](const auto& w) {
      return FrozenWeight(std::make_shared<const Storage>(w.plus(deltas, scale)));
    });
  }

  /// Whether both are the same weight in memory, as tied layers are.
  bool shares_storage_with(const FrozenWeight& other) const { return storage_ == other.storage_; }

 private:
  using Storage = std::conditional_t<
      std::is_same_v<S, float>,
      std::variant<DenseWeight<S>, PackedWeight<S>, PackedWeight<S, kernels::BF16>>,
      std::variant<DenseWeight<S>>>;

  explicit FrozenWeight(std::shared_ptr<const Storage> storage) : storage_(std::move(storage)) {}

  template <class Packed>
  static FrozenWeight packed(Packed&& weight, Orientations orientations) {
    if (orientations == Orientations::both) weight.add_transposed();
    return FrozenWeight(std::make_shared<const Storage>(std::move(weight)));
  }

  /// Before anything is written: a term outside the (rows, cols) result would leave it half done,
  /// or write beside it.
  static void check_terms(const char* where, std::span<const LowRank<S>> terms, Index rows,
                          Index cols) {
    for (const LowRank<S>& term : terms) {
      if (term.first_row < 0 || term.left.rows > rows - term.first_row) {
        throw ShapeError(std::string(where) + ": a term's left is " +
                         shape_text(term.left.rows, term.left.cols) + " from row " +
                         std::to_string(term.first_row) + " on, the result has " +
                         std::to_string(rows) + " rows");
      }
      if (term.right.rows != term.left.cols || term.right.cols != cols) {
        check_shape(false, where, "a term's right", term.right.rows, term.right.cols,
                    shape_text(term.left.cols, cols));
      }
    }
  }

  template <class Fn>
  decltype(auto) visit(Fn&& fn) const {
    if (storage_ == nullptr) throw_moved_from();
    return std::visit(fn, *storage_);
  }
  [[noreturn, gnu::cold, gnu::noinline]] static void throw_moved_from() {
    throw Error(
        "FrozenWeight: the weight, or the layer that it belongs to, was moved from; expected one "
        "that "
        "was given a new value since");
  }

  std::shared_ptr<const Storage> storage_;
};

}  // namespace lora
