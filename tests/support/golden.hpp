// Golden numbers from PyTorch and PEFT: iterates over the cases of every set, and compares results
// with them.
#pragma once

#include <lora/io/safetensors/safetensors.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "support/golden_sets.hpp"

namespace lora_test {

/// Reads a JSON file: "layers/cases.json" of a set, "golden.json" of a model, ...
inline lora::Json read_golden_json(const std::filesystem::path& path) {
  const auto bytes = lora::read_file(path, std::uint64_t{1} << 30);
  return lora::parse_json(lora::as_text(bytes), path.string());
}

/// One case of layers/cases.json or variants/cases.json.
struct GoldenCase {
  lora::Json fields;
  std::filesystem::path folder;  // the folder of cases.json

  std::string name() const { return fields.at("name").get<std::string>(); }
  const lora::Json& at(const std::string& field) const { return fields.at(field); }
  std::filesystem::path path() const { return folder / fields.at("file").get<std::string>(); }
  lora::SafetensorsFile tensors() const { return lora::SafetensorsFile::open(path()); }
  lora::Json json() const { return read_golden_json(path()); }
};

/// Returns the cases of one part of a set, or those of one kind if `kind` is given. The test fails
/// if there is none.
inline std::vector<GoldenCase> golden_cases(const GoldenSet& set, const std::string& kind = "",
                                            const std::string& part = "layers") {
  const auto folder = set.folder / part;
  const lora::Json all = read_golden_json(folder / "cases.json");
  std::vector<GoldenCase> chosen;
  for (const lora::Json& one : all.at("cases")) {
    if (kind.empty() || one.at("kind").get<std::string>() == kind) chosen.push_back({one, folder});
  }
  if (chosen.empty()) ADD_FAILURE() << folder << " has no case of kind \"" << kind << '"';
  return chosen;
}

/// Calls check(one) for every case of a kind in every set.
template <class Check>
void for_each_golden_case(const std::string& kind, Check check,
                          const std::string& part = "layers") {
  for_each_golden_set([&](const GoldenSet& set) {
    for (const GoldenCase& one : golden_cases(set, kind, part))
      check_golden_part(one.name(), [&] { check(one); });
  });
}

/// The bound in double for sums of n terms: 10 · n · 2^-53, relative to the largest element.
inline double golden_bound(lora::Index n) { return 10.0 * static_cast<double>(n) * 0x1.0p-53; }

/// Whether |actual - expected| <= bound · max|expected| everywhere. A NaN on either side fails, an
/// infinity must match exactly, and an expected matrix of zeros requires zeros. The message shows
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

/// Records a failure at the caller's line unless is_close. `what` names the tensor.
template <class A, class E>
void expect_close(const Eigen::MatrixBase<A>& actual, const Eigen::MatrixBase<E>& expected,
                  double bound, const std::string& what = "", const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  const testing::AssertionResult result = is_close(actual, expected, bound);
  if (!result) ADD_FAILURE_AT(file, line) << what << (what.empty() ? "" : ": ") << result.message();
}

}  // namespace lora_test
