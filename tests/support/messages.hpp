// Reads the messages of errors.
#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <string>

namespace lora_test {

/// Returns the message of the E that `call` throws. A call that throws nothing or something else is
/// a failure.
template <class E, class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "threw another type: " << error.what();
    return error.what();
  }
  ADD_FAILURE() << "did not throw";
  return "";
}

/// Whether `text` contains `part`.
inline testing::AssertionResult has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << text << "\" lacks \"" << part << "\"";
}
#define EXPECT_HAS(text, part) EXPECT_TRUE(lora_test::has(text, part))

}  // namespace lora_test
