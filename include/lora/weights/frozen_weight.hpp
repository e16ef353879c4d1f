// A frozen (O, D) matrix that hides how it is stored.
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

/// A weight that training never changes: an immutable value with shared ownership. Copies share the
/// values, tied layers hold the same weight, and unmerging restores the handle that was kept. All
/// other code uses the functions below, so a new storage changes only weights/.
///
///   const auto w = FrozenWeight<float>::pack(values, Precision::bfloat16);  // values: (O, D)
///   Matrix<float> x = Matrix<float>::Random(8, w.cols()), y(8, w.rows()), dx(8, w.cols());
///   w.multiply(x, y);              // y = x Wᵀ
///   w.multiply_transposed(y, dx);  // dx = y W
///   const LowRankDelta<float> delta{scale, B, A};  // B (O, R), A (R, D)
///   const auto merged = w.plus(std::span(&delta, 1));  // W + scale B A; w stays as it is
///
/// Throws: Error from any function of a weight that was moved from and not assigned since.
/// Threads: several threads may use one weight.
template <class S>
class FrozenWeight {
 public:
  /// Creates an empty (0, 0) weight.
  FrozenWeight() : FrozenWeight(Matrix<S>()) {}

  /// Stores `values` as they are: (O, D), or (D, O) with Layout::in_out.
  explicit FrozenWeight(Matrix<S> values, Layout layout = Layout::out_in)
      : storage_(std::make_shared<const Storage>(DenseWeight<S>(std::move(values), layout))) {}

  /// Packs W once for both products, as float32 or, in half the memory, rounded to bfloat16. `w` is
  /// (O, D), or (D, O) with Layout::in_out, and may be freed afterwards. PackedWeight describes the
  /// format; Orientations::both packs Wᵀ too.
  /// Throws: ShapeError for more than 2^56 values or a size of 2^31 or above.
  /// Allocates: the packed values only.
  static FrozenWeight pack(
      In<S> w, Precision precision = Precision::float32, Layout layout = Layout::out_in,
      Orientations orientations = Orientations::one) requires(std::is_same_v<S, float>) {
    const View<S> given(w), values = layout == Layout::out_in ? given : given.transposed();
    if (precision == Precision::float32)
      return packed(PackedWeight<S>(values, layout), orientations);
    return packed(PackedWeight<S, kernels::BF16>(values, layout), orientations);
  }

  /// Packs `rows · cols` row-major bfloat16 or IEEE half values of a checkpoint without making a
  /// float copy. Converting bfloat16 to bfloat16 is exact.
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

  /// Packs values that are produced one by one: `value(o, d)` returns W(o, d). Several threads call
  /// it, each for a panel of 48 consecutive o, and in that panel row by row. Rounds as pack() does.
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
  /// The orientation of the matrix that stored() returns.
  Layout layout() const {
    return visit([](const auto& w) { return w.layout(); });
  }
  /// Bytes that the values take, with the padding of packing.
  Index bytes() const {
    return visit([](const auto& w) { return w.bytes(); });
  }
  bool all_finite() const {
    return visit([](const auto& w) { return w.all_finite(); });
  }

  /// Computes y = x Wᵀ + Σ left · right. x is (T, D), y is (T, O); each term's left is (its rows,
  /// R) and its right (R, O). The order in which an element is summed depends only on D and the
  /// ranks.
  /// Throws: ShapeError; Error when y overlaps x.
  /// Allocates: nothing once the workers run.
  void multiply(In<S> x, Out<S> y, std::span<const LowRank<S>> terms = {},
                InputRounding rounding = InputRounding::allowed) const {
    expect_shape("FrozenWeight::multiply", "x", x, -1, cols());
    expect_shape("FrozenWeight::multiply", "y", y, x.rows(), rows());
    expect_apart<S>("FrozenWeight::multiply", "y", y, "x", x);
    check_terms("FrozenWeight::multiply", terms, y.rows(), y.cols());
    visit([&](const auto& w) { w.multiply(x, y, terms, rounding); });
  }

  /// Computes dx = dy W + Σ left · right, or adds it to dx with Accumulate::yes. dy is (T, O), dx
  /// is (T, D), right is (R, D).
  /// Throws: as multiply(); std::bad_alloc before dx is touched.
  /// Allocates: for a packed W, a workspace of 0.7 MB for each of num_threads(), unless T is small.
  ///   The first call allocates it and the calling thread keeps it.
  void multiply_transposed(In<S> dy, Out<S> dx, Accumulate accumulate = Accumulate::no,
                           std::span<const LowRank<S>> terms = {},
                           InputRounding rounding = InputRounding::allowed) const {
    expect_shape("FrozenWeight::multiply_transposed", "dy", dy, -1, rows());
    expect_shape("FrozenWeight::multiply_transposed", "dx", dx, dy.rows(), cols());
    expect_apart<S>("FrozenWeight::multiply_transposed", "dx", dx, "dy", dy);
    check_terms("FrozenWeight::multiply_transposed", terms, dx.rows(), dx.cols());
    visit([&](const auto& w) { w.multiply_transposed(dy, dx, accumulate, terms, rounding); });
  }

  /// Allocates the workspace of multiply_transposed() for `row_count` rows, so that a later call on
  /// this thread cannot fail.
  void prepare_multiply_transposed(Index row_count) const {
    visit([&](const auto& w) {
      if constexpr (requires { w.prepare_multiply_transposed(row_count); })
        w.prepare_multiply_transposed(row_count);
    });
  }

  /// Copies row `row` of W to out[0 … D-1], as an embedding's lookup does.
  /// Throws: ShapeError unless 0 ≤ row < O.
  void copy_row(Index row, S* out) const {
    if (row < 0 || row >= rows()) {
      throw ShapeError("FrozenWeight::copy_row: row is " + std::to_string(row) +
                       ", expected 0 to " + std::to_string(rows() - 1));
    }
    visit([&](const auto& w) { w.copy_row(row, out); });
  }

  /// Returns the stored values exactly, oriented as layout() says.
  /// Allocates: the result.
  Matrix<S> stored() const {
    return visit([](const auto& w) { return Matrix<S>(w.stored()); });
  }
  /// Returns the stored values exactly, as (O, D).
  /// Allocates: the result.
  Matrix<S> dense() const {
    if (layout() == Layout::out_in) return stored();
    return stored().transpose();
  }

  /// Returns the sums of squares of the rows of W (1, O), or with Side::inputs of its columns (1,
  /// D).
  /// Allocates: the result.
  Matrix<WideOf<S>> squares(Side side = Side::outputs) const {
    return visit([&](const auto& w) { return w.squares(side); });
  }

  /// Returns scale ∘ W + Σ delta.scale · left · right as a new weight in the same storage and
  /// orientation. Sums the changes in S, adds them to the scaled value and rounds once. `scale`
  /// multiplies the rows or the columns of W; by default there is none. Leaves this weight
  /// unchanged.
  /// Throws: ShapeError.
  /// Allocates: the result.
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

  /// Whether both share one weight in memory, as tied layers do.
  bool shares_storage_with(const FrozenWeight& other) const { return storage_ == other.storage_; }
  /// Returns a handle by which is() knows this weight again, and which does not keep its values.
  std::weak_ptr<const void> handle() const { return storage_; }
  /// Whether the handle is that of this weight in memory.
  bool is(const std::weak_ptr<const void>& handle) const {
    return !handle.expired() && !handle.owner_before(storage_) && !storage_.owner_before(handle);
  }

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

  /// Checks every term before anything is written: a term outside the (rows, cols) result would
  /// leave it half written or write past its end.
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
        "FrozenWeight: the weight, or the layer that it belongs to, was moved from; assign a new "
        "value first");
  }

  std::shared_ptr<const Storage> storage_;
};

}  // namespace lora
