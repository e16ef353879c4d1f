#include <lora/core/on_use.hpp>

#include <gtest/gtest.h>

#include <type_traits>

namespace on_use_test {
using lora::OnUse;

struct Later;

/// Compiles only because the members of Later are looked up at the call below.
template <class Tag>
int answer(const OnUse<Later, Tag>& later) {
  return later.answer;
}
struct Later {
  int answer = 42;
};

TEST(OnUse, IsTheTypeItself) {
  static_assert(std::is_same_v<OnUse<int, void>, int>);
  static_assert(std::is_same_v<OnUse<const char*, double>, const char*>);
}

TEST(OnUse, IsLookedUpWhereTheTemplateIsUsed) { EXPECT_EQ(answer<void>(Later{}), 42); }

}  // namespace on_use_test
