#include <lora/core/isa.hpp>

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace isa_test {
using namespace lora;

template <class Fn>
std::string config_error(Fn fn) {
  try {
    fn();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "nothing thrown";
}
/// LORA_ISA for as long as it lives.
struct Environment {
  std::string before;
  bool had;
  explicit Environment(const char* value) {
    const char* old = std::getenv("LORA_ISA");
    had = old != nullptr;
    if (had) before = old;
    setenv("LORA_ISA", value, 1);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() { had ? setenv("LORA_ISA", before.c_str(), 1) : unsetenv("LORA_ISA"); }
};

TEST(Isa, PortableIsAlwaysThere) {
  EXPECT_TRUE(isa_supported(Isa::portable));
  EXPECT_TRUE(isa_supported(isa()));
}

TEST(Isa, EachIncludesTheOnesBefore) {
  EXPECT_LE(isa_supported(Isa::avx512), isa_supported(Isa::avx2));
  EXPECT_LE(isa_supported(Isa::avx512bf16), isa_supported(Isa::avx512));
}

TEST(Isa, CanBePinned) {
  const Isa before = isa();
  set_isa(Isa::portable);
  EXPECT_EQ(isa(), Isa::portable);
  set_isa(before);
  EXPECT_EQ(isa(), before);
}

TEST(Isa, WhatTheProcessorLacksIsRefused) {
  const Isa before = isa();
  for (const Isa one : all_isas) {
    if (isa_supported(one)) continue;
    const std::string error = config_error([&] { set_isa(one); });
    EXPECT_NE(error.find(isa_name(one)), std::string::npos) << error;
    EXPECT_NE(error.find("not supported"), std::string::npos) << error;
  }
  EXPECT_EQ(isa(), before);
}

TEST(Isa, TheEnvironmentChooses) {
  for (const Isa one : all_isas) {
    if (!isa_supported(one)) continue;
    const Environment use(isa_name(one));
    EXPECT_EQ(detail::default_isa(), one);
  }
  {
    const Environment use("portable");
    EXPECT_EQ(detail::default_isa(), Isa::portable);
  }
  {
    const Environment use("");
    EXPECT_EQ(detail::default_isa(), detail::best_isa());
  }
  const Environment use("avx9000");
  EXPECT_EQ(config_error([] { detail::default_isa(); }),
            "LORA_ISA is \"avx9000\", expected portable, avx2, avx512 or avx512bf16");
}

// By itself (as ctest runs it) nothing has asked for the default yet.
TEST(Isa, AProgramMaySetItWhateverTheEnvironmentSays) {
  const Environment use("avx9000");
  set_isa(Isa::portable);
  EXPECT_EQ(isa(), Isa::portable);
}

}  // namespace isa_test
