// Tests which sets of golden numbers the tests use, and that a set without cases is a failure.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <fstream>
#include <optional>
#include <set>
#include <string>

#include "support/golden.hpp"

namespace golden_sets_test {
using namespace lora_test;

/// Sets LORA_SHARED_DIR to this value, or unsets it, while it lives.
class SharedDir {
 public:
  explicit SharedDir(const std::optional<std::string>& value) {
    if (const char* const old = std::getenv(name)) before_ = old;
    set(value);
  }
  ~SharedDir() { set(before_); }
  SharedDir(const SharedDir&) = delete;
  SharedDir& operator=(const SharedDir&) = delete;

 private:
  static constexpr const char* name = "LORA_SHARED_DIR";
  static void set(const std::optional<std::string>& value) {
    value ? setenv(name, value->c_str(), 1) : unsetenv(name);
  }
  std::optional<std::string> before_;
};

const std::filesystem::path own = std::filesystem::path(LORA_SOURCE_DIR) / "tests" / "golden";

TEST(GoldenSets, TheRepositorysOwnAndThatOfTheEnvironment) {
  const TemporaryFolder folder;
  for (const std::optional<std::string>& value :
       {std::optional<std::string>(), {""}, {folder.path.string() + "/absent"}}) {
    const SharedDir shared(value);
    ASSERT_EQ(golden_sets().size(), 1u);
    EXPECT_EQ(golden_sets()[0].folder, own);
  }
  const SharedDir shared(folder.path.string());
  ASSERT_EQ(golden_sets().size(), 2u);
  EXPECT_EQ(golden_sets()[0].folder, own);
  EXPECT_EQ(golden_sets()[1].folder, folder.path / "golden");
  EXPECT_EQ(golden_sets()[1].data(), folder.path / "data");
}

TEST(GoldenSets, EveryCaseIsCheckedAndTraced) {
  const SharedDir shared(std::nullopt);
  std::set<std::string> models, cases;
  for_each_golden_model([&](const GoldenModel& model) {
    EXPECT_TRUE(std::filesystem::exists(model.folder / "golden.json"));
    models.insert(model.name);
  });
  for_each_golden_case("linear", [&](const GoldenCase& one) { cases.insert(one.name()); });
  EXPECT_TRUE(models.count("llama") == 1 && models.count("gpt2") == 1);
  EXPECT_TRUE(cases.count("linear_plain") == 1 && cases.size() > 5);
  const auto fail = [] {
    for_each_golden_model([](const GoldenModel& model) {
      if (model.name == "qwen2") throw std::runtime_error("is broken");
    });
  };
  EXPECT_NONFATAL_FAILURE(fail(), "is broken");
  EXPECT_NONFATAL_FAILURE(fail(), ": qwen2\n");
}

TEST(GoldenSets, ASetWithoutCasesFails) {
  const TemporaryFolder folder;
  const SharedDir shared(folder.path.string());
  const auto models = [] { for_each_golden_model([](const GoldenModel&) {}); };
  const auto linear = [] { for_each_golden_case("linear", [](const GoldenCase&) {}); };
  EXPECT_NONFATAL_FAILURE(models(), "has no models");
  EXPECT_NONFATAL_FAILURE(linear(), "cases.json: cannot open");
  std::filesystem::create_directories(folder.path / "golden" / "layers");
  std::ofstream(folder.path / "golden" / "layers" / "cases.json")
      << R"({"cases": [{"name": "a", "kind": "merge"}]})";
  EXPECT_NONFATAL_FAILURE(linear(), "has no case of kind \"linear\"");
}

// Their names give them the label.
TEST(GoldenSets, EveryTestOverThemIsCalledGolden) {
  int found = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(own.parent_path())) {
    if (!entry.path().filename().string().ends_with("_test.cpp")) continue;
    std::ifstream file(entry.path());
    std::string test;
    for (std::string line; std::getline(file, line);) {
      const bool begins = line.starts_with("TEST") || line.starts_with("TYPED_TEST(");
      if (begins) test = line;
      if (!test.empty() && line.find("for_each_golden") != line.npos) {
        EXPECT_NE(test.find("Golden"), test.npos) << entry.path() << ": " << test;
        ++found;
      }
      if (line == "}" || (begins && line.ends_with("}"))) test.clear();
    }
  }
  EXPECT_GT(found, 30);
}

}  // namespace golden_sets_test
