#include <lora/core/namespace.hpp>

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "support/shared.hpp"

namespace LORA_NAMESPACE {
inline int namespace_test_number() { return 17; }
}  // namespace LORA_NAMESPACE
namespace LORA_NAMESPACE::kernels {
inline int namespace_test_number() { return 18; }
}  // namespace LORA_NAMESPACE::kernels

namespace {

TEST(Namespace, UsersSeeLora) {
  EXPECT_EQ(lora::namespace_test_number(), 17);
  EXPECT_EQ(lora::kernels::namespace_test_number(), 18);
}

// The inner name is what keeps units apart that were built differently.
TEST(Namespace, ItsInnerNameSaysHowThreadsAreMade) {
#if defined(_OPENMP)
  EXPECT_EQ(lora::with_openmp::namespace_test_number(), 17);
#else
  EXPECT_EQ(lora::with_threads::namespace_test_number(), 17);
#endif
}

#if defined(LORA_CXX_COMPILER)
struct Compiled {
  bool accepted;
  std::string text;
};

// What this program's compiler says to a unit that includes namespace.hpp and nothing else.
Compiled compile(const std::string& flags) {
  const lora_test::TemporaryFolder folder;
  const std::string source = (folder.path / "unit.cpp").string(),
                    log = (folder.path / "log").string();
  std::ofstream(source) << "#include <lora/core/namespace.hpp>\n"
                           "namespace LORA_NAMESPACE { int f() { return 1; } }\n"
                           "int main() { return lora::f() - 1; }\n";
  std::string command = "'" LORA_CXX_COMPILER "' -std=c++20 -fsyntax-only -I '" LORA_SOURCE_DIR;
  command += "/include' " + flags + " '" + source + "' > '" + log + "' 2>&1";
  const bool accepted = std::system(command.c_str()) == 0;
  std::ifstream in(log);
  return {accepted, std::string(std::istreambuf_iterator<char>(in), {})};
}

TEST(Namespace, PlainFlagsAreAccepted) {
  for (const char* flags : {"", "-O3", "-O2 -fno-math-errno -fno-trapping-math"}) {
    const Compiled result = compile(flags);
    EXPECT_TRUE(result.accepted) << flags << ": " << result.text;
  }
}

TEST(Namespace, FlagsThatDoAwayWithNaNAreRefused) {
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

}  // namespace
