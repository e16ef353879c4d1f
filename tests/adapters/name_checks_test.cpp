#include <lora/adapters/name_checks.hpp>

#include <gtest/gtest.h>

#include "support/messages.hpp"

namespace name_checks_test {
using namespace lora;
using lora_test::message_of;

TEST(NameChecks, SayWhichNameIsWrongAndWhere) {
  EXPECT_NO_THROW(detail::expect_known({}, {}, "f"));
  EXPECT_NO_THROW(detail::expect_known({"b", "a"}, {"a", "b"}, "f"));
  EXPECT_EQ(message_of<ConfigError>([] {
              detail::expect_known({"a", "c"}, {"a", "b"}, "f");
            }),
            "LoRAModel::f: no adapter is called \"c\"; there are: a b");
  EXPECT_EQ(message_of<ConfigError>([] { detail::expect_known({"c"}, {}, "f"); }),
            "LoRAModel::f: no adapter is called \"c\"; there are: none");

  EXPECT_NO_THROW(detail::expect_not_merged({"a"}, {"b"}, "f"));
  EXPECT_EQ(message_of<Error>([] {
              detail::expect_not_merged({"a", "b"}, {"b"}, "f");
            }),
            "LoRAModel::f: adapter \"b\" is merged; call unmerge_adapter first");

  EXPECT_NO_THROW(detail::expect_named_once({"a", "b"}, "f"));
  EXPECT_EQ(message_of<ConfigError>([] {
              detail::expect_named_once({"a", "b", "a"}, "f");
            }),
            "LoRAModel::f: adapter \"a\" is named twice");
}

}  // namespace name_checks_test
