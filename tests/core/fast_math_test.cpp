// Flags under which NaN and infinity are not looked for are refused when the library is compiled.

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "support/shared.hpp"

namespace fast_math_test {

#if defined(LORA_CXX_COMPILER)
struct Compiled {
  bool accepted;
  std::string text;
};

// What this program's compiler says to a unit that includes core/types.hpp and nothing else.
Compiled compile(const std::string& flags) {
  const lora_test::TemporaryFolder folder;
  const std::string source = (folder.path / "unit.cpp").string(),
                    log = (folder.path / "log").string();
  std::ofstream(source) << "#include <lora/core/types.hpp>\n"
                           "int main() { return 0; }\n";
  std::string command = "'" LORA_CXX_COMPILER "' -std=c++20 -fsyntax-only -I '" LORA_SOURCE_DIR;
  command += "/include' -isystem '" LORA_EIGEN_FOLDER "' " + flags + " '" + source + "' > '" + log +
             "' 2>&1";
  const bool accepted = std::system(command.c_str()) == 0;
  std::ifstream in(log);
  return {accepted, std::string(std::istreambuf_iterator<char>(in), {})};
}

TEST(FastMath, PlainFlagsAreAccepted) {
  for (const char* flags : {"", "-O3", "-O2 -fno-math-errno -fno-trapping-math"}) {
    const Compiled result = compile(flags);
    EXPECT_TRUE(result.accepted) << flags << ": " << result.text;
  }
}

TEST(FastMath, FlagsThatDoAwayWithNaNAreRefused) {
  for (const char* flags : {"-ffast-math", "-Ofast", "-O2 -ffinite-math-only"}) {
    const Compiled result = compile(flags);
    EXPECT_FALSE(result.accepted) << flags;
    EXPECT_NE(result.text.find("lora: -ffast-math (or -ffinite-math-only) breaks the checks for "
                               "NaN and infinity; build without it"),
              std::string::npos)
        << flags << ": " << result.text;
  }
}
#endif

}  // namespace fast_math_test
