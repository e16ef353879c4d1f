// How a unit of two_units_test looks at the library. Included by each unit after
// lora_everything.hpp; everything has internal linkage, so that each has its own.
#pragma once

#include <lora_everything.hpp>  // every header of the library; made by structure.cmake

#include "structure/two_units.hpp"

namespace {

[[maybe_unused]] two_units::Sight look() {
  two_units::Sight sight;
  sight.thread_limit = &lora::detail::thread_limit();
  sight.set_threads = &lora::set_num_threads;
  sight.threads = &lora::num_threads;

  lora::Matrix<double> w(5, 3), x(4, 3), y(4, 5);
  lora::fill_normal(w, lora::RandomStream(1, "w"), 1.0);
  lora::fill_normal(x, lora::RandomStream(1, "x"), 1.0);
  const lora::FrozenWeight<double> weight(w);
  weight.multiply(x, y);
  sight.result.assign(y.data(), y.data() + y.size());
  try {
    weight.multiply(y, y);
  } catch (const lora::Error& e) {
    sight.message = e.what();
  }
  return sight;
}

}  // namespace
