// A frozen weight packed in the order in which its products read it, as float32 or bfloat16.
#pragma once

#include <lora/core/aligned_array.hpp>
#include <lora/core/half.hpp>
#include <lora/kernels/dispatch.hpp>
#include <lora/weights/dense_weight.hpp>
#include <lora/weights/pair_product.hpp>
#include <lora/weights/pieces.hpp>
#include <lora/weights/turned_product.hpp>

#include <cmath>
#include <memory>
#include <span>
#include <type_traits>

namespace lora {

/// How a packed weight stores its values. Products are summed in float32 either way.
enum class Precision {
  float32,
  bfloat16,  ///< each value rounded once, to nearest even
};

/// How many packed copies of a weight are kept.
enum class Orientations {
  one,   ///< one copy serves both products
  both,  ///< one copy per product: dx = dy W runs as fast as x Wᵀ, for twice the memory
};

/// W (O, D) in packed panels of 48 outputs. For each input d, panel p holds W(48p … 48p+47, d)
/// contiguously, so y = x Wᵀ reads W from begin to end. dx = dy W is computed as its transpose and
/// reads the same panels in blocks: one copy serves both products.
/// The last panel holds the remaining outputs, padded with zeros to a multiple of 16. Long panels
/// are padded too: at distances of a power of two they would evict each other from the cache.
/// S, the type of the sums, is float; Stored is S or kernels::BF16. From D = 64 on, packing takes 1
/// to 1.05 times the memory of the values for O ≥ 640, and up to 1.07 times for O ≥ 320; a last
/// panel of few outputs takes the memory of 16. FrozenWeight documents what the functions compute
/// and checks the shapes.
template <class S, class Stored = S>
class PackedWeight {
  static constexpr bool is_bf16 = std::is_same_v<Stored, kernels::BF16>;

 public:
  /// Packs w, (O, D) with any strides. `layout` is the orientation that stored() returns.
  PackedWeight(const View<S>& w, Layout layout)
      : PackedWeight(w.rows, w.cols, layout, [&](Index o, Index d) {
          return rounded(w.data[o * w.row_stride + d * w.col_stride]);
        }) {}

  /// Packs W (O, D), where `value(o, d)` returns W(o, d) as it is stored. Calls it panel by panel,
  /// and in a panel row by row. Allocates: the packed values only.
  template <class Value>
  PackedWeight(Index rows, Index cols, Layout layout, Value&& value)
      : PackedWeight(rows, cols, layout) {
    parallel_for(panels(), 1, [&](Index begin, Index end) {
      for (Index p = begin; p < end; ++p) {
        Stored* panel = values_.data() + p * stride_;
        const Index width = panel_width(p), used = std::min(wide, rows_ - p * wide);
        for (Index d = 0; d < cols_; ++d) {
          for (Index j = used; j < width; ++j) panel[d * width + j] = Stored{};
        }
        for (Index j = 0; j < used; ++j) {
          for (Index d = 0; d < cols_; ++d) panel[d * width + j] = value(p * wide + j, d);
        }
      }
    });
  }

  /// Packs Wᵀ as well, so that dx = dy W reads its panels as x Wᵀ does: the same bits in less time,
  /// for twice the memory.
  void add_transposed() {
    transposed_ = std::make_shared<const PackedWeight>(
        cols_, rows_, layout_, [this](Index d, Index o) { return values_.data()[place(o, d)]; });
  }

  Layout layout() const { return layout_; }
  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  Index bytes() const {
    return values_.size() * static_cast<Index>(sizeof(Stored)) +
           (transposed_ ? transposed_->bytes() : 0);
  }
  Precision precision() const { return is_bf16 ? Precision::bfloat16 : Precision::float32; }

  Matrix<S> stored() const {
    const bool as_is = layout_ == Layout::out_in;
    Matrix<S> out(as_is ? rows_ : cols_, as_is ? cols_ : rows_);
    for (Index o = 0; o < rows_; ++o) {
      for (Index d = 0; d < cols_; ++d) (as_is ? out(o, d) : out(d, o)) = at(o, d);
    }
    return out;
  }
  bool all_finite() const {
    for (Index o = 0; o < rows_; ++o) {
      for (Index d = 0; d < cols_; ++d) {
        if (!std::isfinite(at(o, d))) return false;
      }
    }
    return true;
  }
  void copy_row(Index row, S* out) const {
    for (Index d = 0; d < cols_; ++d) out[d] = at(row, d);
  }
  Matrix<WideOf<S>> squares(Side side) const {
    using Wide = WideOf<S>;
    const bool by_input = side == Side::inputs;
    Matrix<Wide> sums = Matrix<Wide>::Zero(1, by_input ? cols_ : rows_);
    const auto add = [&](Index p, Index d) {
      const Index used = std::min(wide, rows_ - p * wide);
      const Stored* values = values_.data() + p * stride_ + d * panel_width(p);
      for (Index j = 0; j < used; ++j) {
        const auto value = static_cast<Wide>(kernels::to_scalar<S>(values[j]));
        sums(0, by_input ? d : p * wide + j) += value * value;
      }
    };
    // Threads share the sums and never the terms of one sum.
    const Index outer = by_input ? cols_ : panels(), inner = by_input ? panels() : cols_;
    parallel_for(outer, by_input ? 64 : 1, [&](Index begin, Index end) {
      for (Index a = begin; a < end; ++a) {
        for (Index b = 0; b < inner; ++b) by_input ? add(b, a) : add(a, b);
      }
    });
    return sums;
  }

  void multiply(In<S> x, Out<S> y, std::span<const LowRank<S>> terms,
                InputRounding rounding = InputRounding::allowed,
                Accumulate accumulate = Accumulate::no) const {
    const bool add = accumulate == Accumulate::yes;
    const View<S> in(x);
    const MutableView<S> out(y);
    if constexpr (is_bf16) {
      const auto pairs = kernels::pair_kernels<>();
      if (pairs.multiply != nullptr && cols_ > 0 && rounding == InputRounding::allowed) {
        detail::multiply_pairs(
            pairs, in, out, terms, add, [&](Index k, Index depth, Index p, kernels::BF16Pair* to) {
              const Index width = panel_width(p);
              pairs.pair_rows(depth, width, values_.data() + p * stride_ + k * width, to);
              return width;
            });
        return;
      }
    }
    const auto with = kernels::product_kernels<S>();
    const auto stored = kernels::bf16_kernels<S>();
    Pieces::for_each(rows_, out.rows, [&](Index i, Index count, Index p, Memory& memory) {
      const Index width = panel_width(p), cols = std::min(wide, rows_ - p * wide);
      const auto c = out.middle_rows(i, count).middle_cols(p * wide, cols);
      const Stored* panel = values_.data() + p * stride_;
      const auto in_place = [&](Index d, Index) {
        return detail::Slab<Stored>{panel + d * width, width};
      };
      const Index next = later(p, panels(), i + count < out.rows);
      const auto ahead = [&](Index d) {
        return d < cols_ ? slab_source(p, d) : next < 0 ? kernels::Ahead{} : slab_source(next, 0);
      };
      if (!is_bf16 || count <= kernels::few_rows) {
        Pieces::multiply(with, in.middle_rows(i, count), terms, i, p * wide, c, add, memory,
                         in_place, ahead);
        return;
      }
      // With many rows, widen the slab to float once instead of once per tile.
      Pieces::multiply(
          with, in.middle_rows(i, count), terms, i, p * wide, c, add, memory,
          [&](Index d, Index depth) {
            if constexpr (is_bf16)
              stored.widen(depth * width, panel + d * width, memory.slab.values);
            return detail::Slab<S>{memory.slab.values, width};
          },
          ahead);
    });
  }

  void multiply_transposed(In<S> dy, Out<S> dx, Accumulate accumulate,
                           std::span<const LowRank<S>> terms,
                           InputRounding rounding = InputRounding::allowed) const {
    if (transposed_) return transposed_->multiply(dy, dx, terms, rounding, accumulate);
    const View<S> in(dy);
    const MutableView<S> out(dx);
    if constexpr (is_bf16) {
      const auto pairs = kernels::pair_kernels<>();
      if (pairs.multiply != nullptr && rows_ > 0 && rounding == InputRounding::allowed) {
        const bool add = accumulate == Accumulate::yes;
        detail::multiply_pairs(pairs, in, out, terms, add,
                               [&](Index o, Index depth, Index block, kernels::BF16Pair* to) {
                                 const Index d = block * wide, cols = std::min(wide, cols_ - d);
                                 for (Index q = 0; q < depth; q += wide, to += wide / 2 * wide) {
                                   const Index p = (o + q) / wide, width = panel_width(p);
                                   pairs.transpose(width, cols,
                                                   values_.data() + p * stride_ + d * width, to);
                                 }
                                 return wide;
                               });
        return;
      }
    }
    const bool add = accumulate == Accumulate::yes;
    if (is_few(out.rows)) {
      multiply_few_transposed(in, out, add, terms);
      return;
    }
    detail::multiply_turned(
        in, out, terms, add,
        [&](Index p, Index count, Index d, Index rows, S* to) -> detail::PanelBlock<S> {
          const Index width = panel_width(p);
          const Stored* from = values_.data() + p * stride_ + d * width;
          if constexpr (is_bf16) {
            const auto stored = kernels::bf16_kernels<S>();
            for (Index q = 0; q < count; ++q)
              stored.widen(rows * width, from + q * stride_, to + q * rows * width);
            return {to, rows * width};
          } else {
            return {from, stride_};
          }
        },
        [&](Index p, Index count, Index d, Index rows) {
          return kernels::Ahead{address(p, d * panel_width(p)), lines(rows * panel_width(p)), count,
                                stride_ * static_cast<Index>(sizeof(Stored))};
        });
  }

  /// See FrozenWeight.
  void prepare_multiply_transposed(Index rows) const {
    if (!transposed_ && rows > 0 && cols_ > 0 && turns(rows))
      detail::TurnedMemory<S>::of_this_thread(num_threads());
  }

  /// Returns scale ∘ W + Σ delta.scale · left · right, summed in float32 and rounded once.
  PackedWeight plus(std::span<const LowRankDelta<S>> deltas, const SideScale<S>& scale = {}) const {
    PackedWeight sum(rows_, cols_, layout_);
    const auto with = kernels::merge_kernels<S, Stored>();
    constexpr auto order = detail::BlockOrder::panels;
    detail::for_changes(deltas, cols_, rows_, true, order, [&](const detail::Change<S>& change) {
      const Index p = change.j / wide, width = panel_width(p);
      const Index at = p * stride_ + change.i * width;
      Stored* to = sum.values_.data() + at;
      if (scale.factors.empty()) {
        with.add({change.rows, change.cols, values_.data() + at, width}, change.data, wide, to,
                 width);
      } else {
        const bool by_input = scale.side == Side::inputs;
        detail::add_scaled(change, scale.factors.data() + (by_input ? change.i : change.j),
                           by_input, values_.data() + at, to, width);
      }
      for (Index i = 0; i < change.rows; ++i)
        std::fill(to + i * width + change.cols, to + (i + 1) * width, Stored{});
    });
    if (transposed_) sum.add_transposed();
    return sum;
  }

 private:
  using Pieces = detail::Pieces<S>;
  using Memory = typename Pieces::Memory;
  static constexpr Index wide = kernels::slab_columns, deep = kernels::slab_depth<S>;

  /// Allocates the values and leaves them unset.
  PackedWeight(Index rows, Index cols, Layout layout)
      : rows_(checked(rows, rows, cols)),
        cols_(checked(cols, rows, cols)),
        layout_(layout),
        stride_(distance(cols)),
        values_(size()) {}
  /// Returns `size`. Throws: ShapeError if no (rows, cols) matrix can exist.
  static Index checked(Index size, Index rows, Index cols) {
    constexpr Index most = Index{1} << 31, elements = Index{1} << 56;
    check_shape(rows >= 0 && cols >= 0 && rows < most && cols < most && rows * cols <= elements,
                "FrozenWeight::pack", "W", rows, cols,
                "sizes from 0 to below 2^31, and at most 2^56 values");
    return size;
  }

  /// Whether multiply_few_transposed() computes a dx of `rows` rows.
  bool is_few(Index rows) const {
    constexpr Index group = kernels::slab_group;
    return rows <= kernels::few_rows && rows_ > 0 && rows_ % group == 0 && cols_ % group == 0;
  }
  /// Whether multiply_turned() computes a dx of `rows` rows.
  bool turns(Index rows) const {
    if constexpr (is_bf16) {
      if (kernels::pair_kernels<>().multiply != nullptr && rows_ > 0) return false;
    }
    return !is_few(rows);
  }
  static Stored rounded(S x) {
    if constexpr (is_bf16) {
      return {float_to_bf16(x)};
    } else {
      return x;
    }
  }
  Index place(Index o, Index d) const {
    const Index p = o / wide;
    return p * stride_ + d * panel_width(p) + o % wide;
  }
  S at(Index o, Index d) const { return kernels::to_scalar<S>(values_.data()[place(o, d)]); }
  Index panels() const { return (rows_ + wide - 1) / wide; }
  Index panel_width(Index p) const {
    constexpr Index group = kernels::slab_group;
    return std::min(wide, (rows_ - p * wide + group - 1) / group * group);
  }
  /// The distance between panels, in values. It is a panel's length, unless that is long and would
  /// put the beginnings of consecutive panels into nearly the same sets of the first-level cache
  /// (64 sets of 64 bytes). Such panels are padded until 20 sets lie between their beginnings.
  static Index distance(Index cols) {
    constexpr Index line = 64 / static_cast<Index>(sizeof(Stored));
    const Index lines = (cols * wide + line - 1) / line, set = lines % 64;
    if (lines < 1280 || (set >= 8 && set <= 56)) return lines * line;
    return (lines + (64 + 20 - set) % 64) * line;
  }
  Index size() const {
    return panels() == 0 ? 0 : (panels() - 1) * stride_ + panel_width(panels() - 1) * cols_;
  }

  /// The block that a thread takes after `block` if all threads are equally fast; -1: none.
  static Index later(Index block, Index blocks, bool more_rows) {
    const Index next = block + num_threads();
    return next < blocks ? next : more_rows ? next % blocks : -1;
  }
  /// The memory that a slab of x Wᵀ is read from: columns d … of W in panel p.
  kernels::Ahead slab_source(Index p, Index d) const {
    const Index width = panel_width(p), depth = std::min(deep, cols_ - d);
    return {address(p, d * width), lines(depth * width), 1, 0};
  }
  const char* address(Index p, Index in_panel) const {
    return reinterpret_cast<const char*>(values_.data() + p * stride_ + in_panel);
  }
  static Index lines(Index values) {
    return (values * static_cast<Index>(sizeof(Stored)) + 63) / 64;
  }

  /// Computes dx (+)= dy W + Σ terms for at most few_rows rows; slab_group divides O and D.
  void multiply_few_transposed(const View<S>& dy, const MutableView<S>& dx, bool add,
                               std::span<const LowRank<S>> terms) const {
    const auto with = kernels::product_kernels<S>();
    const auto stored = kernels::bf16_kernels<S>();
    Pieces::for_each(cols_, dx.rows, [&](Index, Index count, Index block, Memory& memory) {
      const Index d = block * wide, cols = std::min(wide, cols_ - d);
      const auto c = dx.middle_cols(d, cols);
      for (Index p = 0; p < panels(); ++p) {
        const Index width = panel_width(p);
        const kernels::FewRows<S, Stored> few = {
            count,         cols,
            width,         dy.data + p * wide,
            dy.row_stride, values_.data() + p * stride_ + d * width,
            width,         c.data,
            c.row_stride,  add || p > 0};
        if constexpr (is_bf16) {
          stored.few(few);
        } else {
          with.few(few);
        }
      }
      Pieces::add_terms(with, terms, nullptr, 0, d, c, memory.slab);
    });
  }

  Index rows_, cols_;
  Layout layout_;
  Index stride_;
  AlignedArray<Stored> values_;
  std::shared_ptr<const PackedWeight> transposed_;  ///< null unless add_transposed() was called
};

}  // namespace lora
