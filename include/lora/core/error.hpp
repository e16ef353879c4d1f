// The one family of exceptions, and the shape check that public functions begin with.
#pragma once

#include <lora/core/types.hpp>

#include <stdexcept>
#include <string>

namespace LORA_NAMESPACE {

/// Base of everything this library throws; the text says what was wrong, where, and what was
/// expected. Thrown itself when an object is asked for something its state does not allow (merging
/// twice, an adapter that was deleted). After any of these the object is as it was before the call.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// A matrix has another shape than the call needs.
struct ShapeError : Error {
  using Error::Error;
};
/// An option or a name is not valid or not supported.
struct ConfigError : Error {
  using Error::Error;
};
/// A file's content breaks its format.
struct FormatError : Error {
  using Error::Error;
};
/// The operating system could not read or write a file.
struct IoError : Error {
  using Error::Error;
};

/// "(rows, cols)".
inline std::string shape_text(Index rows, Index cols) {
  std::string text("(");
  text.append(std::to_string(rows)).append(", ").append(std::to_string(cols)).append(")");
  return text;
}

namespace detail {
// Apart from the checks, so that these stay small where they are inlined.
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

/// Throws ShapeError "where: name is (rows, cols), expected `expected`" unless `ok`. O(1).
inline void check_shape(bool ok, const char* where, const char* name, Index rows, Index cols,
                        const std::string& expected) {
  if (!ok) detail::throw_shape(where, name, rows, cols, expected);
}

/// Throws ShapeError unless m is (rows, cols); a negative number stands for "any" and prints as T.
/// O(1), no allocation.
template <class M>
void expect_shape(const char* where, const char* name, const M& m, Index rows, Index cols) {
  if ((rows < 0 || m.rows() == rows) && (cols < 0 || m.cols() == cols)) return;
  detail::throw_expected_shape(where, name, m.rows(), m.cols(), rows, cols);
}

}  // namespace LORA_NAMESPACE
