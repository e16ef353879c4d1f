// The library's exceptions and the shape checks that public functions begin with.
#pragma once

#include <lora/core/printable.hpp>
#include <lora/core/types.hpp>

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace lora {

namespace detail {
/// Makes `text` safe to read on a terminal, whatever a file put into it: escapes control characters
/// except line ends, cuts each line after 2000 bytes, and counts the lines after the 48th instead
/// of showing them.
inline std::string readable_message(std::string_view text) {
  constexpr std::size_t most_lines = 48, most_bytes = 2000;
  std::string out;
  std::size_t at = 0;
  for (std::size_t line = 0; line < most_lines && at <= text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    if (line > 0) out += '\n';
    out += printable(text.substr(at, end - at), most_bytes);
    at = end + 1;
  }
  if (at <= text.size())
    out += "\n  ... and " +
           std::to_string(
               1 + std::count(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), '\n')) +
           " more lines";
  return out;
}
}  // namespace detail

/// The base of everything that this library throws. The text says what was wrong, where, and what
/// was expected. Error itself is thrown when an object's state does not allow a call (merging
/// twice, using a deleted adapter). A function that throws leaves the object as it was before the
/// call. The text passes through detail::readable_message(), since parts of it may come from files.
struct Error : std::runtime_error {
  explicit Error(const std::string& what) : std::runtime_error(detail::readable_message(what)) {}
  explicit Error(const char* what) : Error(std::string(what)) {}
};
/// A matrix has the wrong shape.
struct ShapeError : Error {
  using Error::Error;
};
/// An option or a name is invalid or not supported.
struct ConfigError : Error {
  using Error::Error;
};
/// The content of a file breaks its format.
struct FormatError : Error {
  using Error::Error;
};
/// The operating system could not read or write a file.
struct IoError : Error {
  using Error::Error;
};

/// Returns "(rows, cols)".
inline std::string shape_text(Index rows, Index cols) {
  std::string text("(");
  text.append(std::to_string(rows)).append(", ").append(std::to_string(cols)).append(")");
  return text;
}

namespace detail {
// Kept out of the checks, so that these stay small where they are inlined.
[[noreturn, gnu::cold, gnu::noinline]] inline void throw_shape(const char* where, const char* name,
                                                               Index rows, Index cols,
                                                               const std::string& expected) {
  std::string text(where);
  text.append(": ")
      .append(name)
      .append(" is ")
      .append(shape_text(rows, cols))
      .append(", expected ")
      .append(expected);
  throw ShapeError(text);
}
[[noreturn, gnu::cold, gnu::noinline]] inline void throw_expected_shape(
    const char* where, const char* name, Index rows, Index cols, Index want_rows, Index want_cols) {
  const auto letter = [](Index n) { return n < 0 ? std::string("T") : std::to_string(n); };
  std::string expected("(");
  expected.append(letter(want_rows)).append(", ").append(letter(want_cols)).append(")");
  throw_shape(where, name, rows, cols, expected);
}
}  // namespace detail

/// Checks a shape in O(1).
/// Throws: ShapeError "where: name is (rows, cols), expected `expected`" unless `ok`.
inline void check_shape(bool ok, const char* where, const char* name, Index rows, Index cols,
                        const std::string& expected) {
  if (!ok) detail::throw_shape(where, name, rows, cols, expected);
}

/// Checks in O(1) that m is (rows, cols). A negative size matches any and prints as T.
/// Throws: ShapeError.
/// Allocates: nothing unless it throws.
template <class M>
void expect_shape(const char* where, const char* name, const M& m, Index rows, Index cols) {
  if ((rows < 0 || m.rows() == rows) && (cols < 0 || m.cols() == cols)) return;
  detail::throw_expected_shape(where, name, m.rows(), m.cols(), rows, cols);
}

/// Returns the product of the sizes, or -1 if one is negative or the product does not fit into an
/// Index. O(1).
inline Index product_of_sizes(std::initializer_list<Index> sizes) {
  Index product = 1;
  for (const Index size : sizes) {
    if (size < 0 || __builtin_mul_overflow(product, size, &product)) return -1;
  }
  return product;
}

}  // namespace lora
