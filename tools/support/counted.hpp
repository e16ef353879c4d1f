// Formats a count with its noun.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tools {

/// Returns "1 record", "2 records".
template <class Count>
std::string counted(Count count, std::string_view thing) {
  return std::to_string(count) + " " + std::string(thing) + (count == Count{1} ? "" : "s");
}

}  // namespace tools
