// What the translation units of two_units_test show each other. Nothing of the library's stands in
// these signatures.
#pragma once

#include <string>
#include <vector>

namespace two_units {

/// What one unit sees of the library, and what comes out of it there.
struct Sight {
  const void* thread_limit = nullptr;  ///< where the number of threads is kept
  void (*set_threads)(int) = nullptr;
  int (*threads)() = nullptr;
  std::vector<double> result;  ///< a product through FrozenWeight
  std::string message;         ///< of a ShapeError that was caught
};

Sight second_unit();

}  // namespace two_units
