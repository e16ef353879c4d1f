// The README shows programs and commands that exist and work: its lines are those of
// examples/quickstart.cpp (which ctest's `quickstart` runs), and what it points at is there.
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>

#include "structure/source_tree.hpp"

namespace readme_test {

std::filesystem::path root() { return LORA_SOURCE_DIR; }

std::string text_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// The heart of the quickstart: its lines, in its order.
TEST(Readme, ShowsLinesOfTheQuickstart) {
  const std::string readme = text_of(root() / "README.md"),
                    open = "<!-- quickstart begin -->\n```cpp\n";
  const std::size_t begin = readme.find(open);
  ASSERT_NE(begin, std::string::npos);
  const std::size_t end = readme.find("```\n<!-- quickstart end -->", begin);
  ASSERT_NE(end, std::string::npos);
  const auto shown =
      lora_test::lines_of(readme.substr(begin + open.size(), end - begin - open.size()));
  EXPECT_GE(shown.size(), 8u);
  EXPECT_LE(shown.size(), 14u);
  const std::string program = text_of(root() / "examples" / "quickstart.cpp");
  std::size_t at = 0;
  for (const std::string& line : shown) {
    const std::size_t found = program.find("\n" + line + "\n", at);
    EXPECT_NE(found, std::string::npos) << line;
    if (found != std::string::npos) at = found + 1;
  }
}

TEST(Readme, IsReadInOneSitting) {
  EXPECT_LE(lora_test::lines_of(text_of(root() / "README.md")).size(), 150u);
}

TEST(Readme, QuickstartHasAtMostSixtyLines) {
  EXPECT_LE(lora_test::lines_of(text_of(root() / "examples" / "quickstart.cpp")).size(), 60u);
}

TEST(Readme, PagesPointAtFilesThatAreThere) {
  int links = 0;
  for (const char* page : {"README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/math.md",
                           "docs/configuration.md", "docs/performance.md", "docs/adding-a-model.md",
                           "docs/language-models.md", "docs/digits.md", "docs/files.md"}) {
    const std::string text = text_of(root() / page);
    const std::regex link(R"(\]\(([^)#: ]+)(#[^)]*)?\))");
    for (auto it = std::sregex_iterator(text.begin(), text.end(), link);
         it != std::sregex_iterator(); ++it, ++links) {
      EXPECT_TRUE(std::filesystem::exists((root() / page).parent_path() / (*it)[1].str()))
          << page << ": " << (*it)[1];
    }
  }
  EXPECT_GE(links, 5);
}

TEST(Readme, NamesItsTwoCommands) {
  const std::string readme = text_of(root() / "README.md");
  for (const char* script : {"examples/run.sh", "tests/run.sh"}) {
    EXPECT_NE(readme.find(std::string("bash ") + script), std::string::npos);
    EXPECT_TRUE(std::filesystem::exists(root() / script));
  }
  EXPECT_NE(text_of(root() / ".ci" / "run").find("bash tests/run.sh"), std::string::npos);
  EXPECT_NE(text_of(root() / "examples" / "CMakeLists.txt").find("add_test(NAME quickstart "),
            std::string::npos);
}

}  // namespace readme_test
