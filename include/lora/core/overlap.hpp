// Checks that a function's outputs do not overlap its inputs.
#pragma once

#include <lora/core/error.hpp>

#include <cstdint>

namespace lora {

/// Whether two row-major matrices, or blocks of one, share an element. O(1). For interleaved blocks
/// with different row strides the answer is always yes.
template <class S>
bool overlap(const View<S>& a, const View<S>& b) {
  if (a.rows == 0 || a.cols == 0 || b.rows == 0 || b.cols == 0) return false;
  const auto address = [](const S* at) { return reinterpret_cast<std::uintptr_t>(at); };
  const auto end = [](const View<S>& v) { return v.data + (v.rows - 1) * v.row_stride + v.cols; };
  if (address(end(a)) <= address(b.data) || address(end(b)) <= address(a.data)) return false;
  if (a.row_stride != b.row_stride || a.row_stride < a.cols || a.row_stride < b.cols) return true;
  // Blocks of one matrix may stand side by side, so compare where the rows of b begin and end
  // within the rows of a.
  const Index width = a.row_stride, shift = ((b.data - a.data) % width + width) % width;
  return shift < a.cols || shift + b.cols > width;
}

/// Checks that two matrices share no element.
/// Throws: Error "where: name overlaps other, …" if they do.
template <class S>
void expect_apart(const char* where, const char* name, const View<S>& a, const char* other,
                  const View<S>& b) {
  if (!overlap(a, b)) return;
  throw Error(std::string(where) + ": " + name + " overlaps " + other +
              ", which is still read when it is written; expected a matrix of its own");
}

/// Checks that two matrices are the same matrix or share no element, as elementwise and row-wise
/// functions in place require.
/// Throws: Error "where: name overlaps other in part, …" otherwise.
template <class S>
void expect_same_or_apart(const char* where, const char* name, const View<S>& a, const char* other,
                          const View<S>& b) {
  const bool same = a.data == b.data && a.rows == b.rows && a.cols == b.cols &&
                    (a.row_stride == b.row_stride || a.rows <= 1);
  if (same || !overlap(a, b)) return;
  throw Error(std::string(where) + ": " + name + " overlaps " + other +
              " in part, which is still read when it is written; expected " + other +
              " itself or a matrix of its own");
}

}  // namespace lora
