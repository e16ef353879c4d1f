// Golden numbers made by PyTorch and PEFT: loading them, and holding a result against them.
#pragma once

#include <lora/io/safetensors/safetensors.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "support/shared.hpp"

namespace lora_test {

/// The tensors of one case. `file` is cases.json's field of that name, or the name without its
/// ending.
inline lora::SafetensorsFile load_golden(std::string file) {
  if (file.find(".safetensors") == std::string::npos) file += ".safetensors";
  return lora::SafetensorsFile::open(shared_dir() / "golden" / "layers" / file);
}

/// A JSON file of golden/layers: "matching.json", "schedules.json", ...
inline lora::Json load_golden_json(const std::string& file) {
  const auto path = shared_dir() / "golden" / "layers" / file;
  const auto bytes = lora::read_file(path, std::uint64_t{1} << 30);
  return lora::parse_json(lora::as_text(bytes), path.string());
}

/// The cases of cases.json, those of one kind when it is given; a test that asks for a kind that is
/// not there fails.
inline std::vector<lora::Json> golden_cases(const std::string& kind = "") {
  const lora::Json all = load_golden_json("cases.json");
  std::vector<lora::Json> chosen;
  for (const lora::Json& one : all.at("cases")) {
    if (kind.empty() || one.at("kind").get<std::string>() == kind) chosen.push_back(one);
  }
  if (chosen.empty()) ADD_FAILURE() << "cases.json has no case of kind " << kind;
  return chosen;
}
inline lora::Json golden_case(const std::string& name) {
  for (const lora::Json& one : golden_cases()) {
    if (one.at("name").get<std::string>() == name) return one;
  }
  throw std::runtime_error("cases.json has no case " + name);
}

/// golden/README.md's bound in double for sums of n terms: 10 · n · 2^-53, relative to the largest
/// element.
inline double golden_bound(lora::Index n) { return 10.0 * static_cast<double>(n) * 0x1.0p-53; }

/// Whether |actual - expected| <= bound · max|expected| everywhere; a NaN on either side fails, an
/// infinity must be met exactly, and an expected matrix of zeros asks for zeros. The message shows
/// the worst element.
template <class A, class E>
testing::AssertionResult is_close(const Eigen::MatrixBase<A>& actual,
                                  const Eigen::MatrixBase<E>& expected, double bound) {
  const lora::Matrix<double> a = actual.template cast<double>(),
                             e = expected.template cast<double>();
  if (a.rows() != e.rows() || a.cols() != e.cols()) {
    return testing::AssertionFailure() << "shape is " << lora::shape_text(a.rows(), a.cols())
                                       << ", expected " << lora::shape_text(e.rows(), e.cols());
  }
  double scale = 0;
  for (lora::Index i = 0; i < e.size(); ++i) {
    if (std::isfinite(e.data()[i])) scale = std::max(scale, std::abs(e.data()[i]));
  }
  double worst_error = -1;
  lora::Index worst = 0, wrong = 0;
  for (lora::Index i = 0; i < e.size(); ++i) {
    const double x = a.data()[i], y = e.data()[i];
    const double error = x == y ? 0 : std::abs(x - y);
    if (!(error <= bound * scale)) ++wrong;
    if (worst_error >= 0 && !(error > worst_error) &&
        !(std::isnan(error) && !std::isnan(worst_error)))
      continue;
    if (std::isnan(worst_error)) continue;
    worst_error = error;
    worst = i;
  }
  if (wrong == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << wrong << " of " << e.size() << " elements are off; worst at (" << worst / e.cols()
         << ", " << worst % e.cols() << "): " << a.data()[worst] << ", expected " << e.data()[worst]
         << ", error " << worst_error << " = " << worst_error / scale << " of the largest, bound "
         << bound;
}

/// Records a failure at the caller's line unless is_close; `what` names the tensor.
template <class A, class E>
void expect_close(const Eigen::MatrixBase<A>& actual, const Eigen::MatrixBase<E>& expected,
                  double bound, const std::string& what = "", const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  const testing::AssertionResult result = is_close(actual, expected, bound);
  if (!result) ADD_FAILURE_AT(file, line) << what << (what.empty() ? "" : ": ") << result.message();
}

}  // namespace lora_test
