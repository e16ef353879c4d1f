// Checks whether text can be stored in JSON.
#pragma once

#include <lora/text/unicode.hpp>

#include <string_view>

namespace tools {

/// Whether all of `text` is UTF-8.
inline bool is_utf8(std::string_view text) { return lora::first_invalid_utf8(text) == text.size(); }

}  // namespace tools
