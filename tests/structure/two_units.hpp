// What the translation units of two_units_test show each other. Nothing of the library's stands in
// these signatures: a unit built with OpenMP sees other types of the same name.
#pragma once

#include <string>
#include <vector>

namespace two_units {

/// What one unit sees of the library, and what comes out of it there.
struct Sight {
  std::string inner_namespace;         ///< "with_threads" or "with_openmp"
  const void* thread_limit = nullptr;  ///< where the number of threads is kept
  void (*set_threads)(int) = nullptr;
  int (*threads)() = nullptr;
  std::vector<double> result;  ///< a product through FrozenWeight
  std::string message;         ///< of a ShapeError that was caught
};

Sight second_unit();
Sight openmp_unit();

}  // namespace two_units
