// The named adapters of a layer: names, activation, scales, and ids that tapes can trust.
#include <lora/layers/adapter_set.hpp>

#include <gtest/gtest.h>

#include <limits>

#include "layers/layer_tools.hpp"

namespace adapter_set_test {
using namespace lora;
using namespace lora_test;
using Names = std::vector<std::string>;

Adapter<double> adapter_of(const std::string& name, Index r = 2) {
  Adapter<double> adapter = make_adapter<double>(name, rank(r, 5));
  adapter.A = Parameter<double>(Matrix<double>::Zero(r, 3));
  adapter.B = Parameter<double>(Matrix<double>::Zero(4, r));
  return adapter;
}
AdapterSet<double> set_of(const Names& names) {
  AdapterSet<double> set;
  for (const std::string& name : names) set.add(adapter_of(name));
  return set;
}

TEST(AdapterSet, KeepsTheOrderOfAdding) {
  AdapterSet<double> set = set_of({"z", "a", "m"});
  EXPECT_EQ(set.names(), (Names{"z", "a", "m"}));
  EXPECT_TRUE(set.contains("a"));
  EXPECT_FALSE(set.contains("b"));
  EXPECT_EQ(set.find("b"), nullptr);
  EXPECT_EQ(set.find("m")->name, "m");
  EXPECT_EQ(&set.get("a"), &set.all()[1]);
  EXPECT_TRUE(set.active().empty()) << "an adapter is added neither active ...";
  EXPECT_FALSE(set.get("a").trainable()) << "... nor trainable";
  EXPECT_TRUE(AdapterSet<double>().empty());
}

TEST(AdapterSet, UnknownNamesAreAnsweredWithTheKnown) {
  AdapterSet<double> set = set_of({"z", "a"});
  const AdapterSet<double>& read_only = set;
  EXPECT_TRUE(
      throws<ConfigError>([&] { set.get("b"); }, {"no adapter is called \"b\"; there are: z a"}));
  EXPECT_TRUE(throws<ConfigError>([&] { read_only.get("b"); },
                                  {"no adapter is called \"b\"; there are: z a"}));
  EXPECT_TRUE(throws<ConfigError>([&] { set.remove("b"); },
                                  {"no adapter is called \"b\"; there are: z a"}));
  EXPECT_TRUE(throws<ConfigError>([&] { set.set_scale("b", 1); }, {"no adapter is called \"b\""}));
  EXPECT_TRUE(throws<ConfigError>([] { AdapterSet<double>().get("b"); },
                                  {"\"b\"; the layer has no adapters"}));
}

TEST(AdapterSet, ANameIsThereOnce) {
  AdapterSet<double> set = set_of({"a"});
  EXPECT_TRUE(throws<ConfigError>([&] { set.add(adapter_of("a", 7)); },
                                  {"an adapter called \"a\" is already there"}));
  EXPECT_EQ(set.get("a").r, 2);
}

TEST(AdapterSet, ActiveAdaptersAreTrainedAndTheOthersFrozen) {
  AdapterSet<double> set = set_of({"a", "b", "c"});
  set.set_active({"c", "a"});
  EXPECT_EQ(set.active(), (Names{"c", "a"}));
  EXPECT_TRUE(set.is_active("a") && set.is_active("c") && !set.is_active("b"));
  EXPECT_TRUE(set.get("a").trainable() && set.get("c").trainable() && !set.get("b").trainable());
  set.set_active({"b"}, false);
  EXPECT_FALSE(set.get("a").trainable() || set.get("b").trainable() || set.get("c").trainable());
  EXPECT_EQ(set.get("a").A.grad.size(), 0) << "a frozen tensor has no gradient";
  set.set_active({});
  EXPECT_TRUE(set.active().empty());
}

TEST(AdapterSet, AWrongActivationChangesNothing) {
  AdapterSet<double> set = set_of({"a", "b"});
  set.set_active({"a"});
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        set.set_active({"b", "nobody"});
      },
      {"\"nobody\"", "there are: a b"}));
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        set.set_active({"b", "a", "b"});
      },
      {"adapter \"b\" is named twice"}));
  EXPECT_EQ(set.active(), Names{"a"});
  EXPECT_TRUE(set.get("a").trainable() && !set.get("b").trainable());
}

TEST(AdapterSet, Scales) {
  AdapterSet<double> set = set_of({"a", "b"});
  set.set_active({"a"});
  set.set_scale("b", 4);
  set.set_scale("b", 3);
  EXPECT_EQ(set.get("b").scaling, 7.5) << "from the initial scaling, not from the last";
  set.scale_layer(2);
  set.scale_layer(3);
  EXPECT_EQ(set.get("a").scaling, 15);
  EXPECT_EQ(set.get("b").scaling, 7.5) << "the active ones alone";
  set.unscale_layer(3);
  EXPECT_EQ(set.get("a").scaling, 5);
  set.unscale_layer();
  EXPECT_EQ(set.get("a").scaling, 2.5);
  EXPECT_EQ(set.get("b").scaling, 7.5);
  EXPECT_EQ(set.get("b").initial_scaling, 2.5);
  set.set_scale("a", 0);
  EXPECT_EQ(set.get("a").scale(), 0);
}

TEST(AdapterSet, WrongScalesAreRefused) {
  AdapterSet<double> set = set_of({"a"});
  set.set_active({"a"});
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    EXPECT_TRUE(throws<ConfigError>([&] { set.set_scale("a", bad); },
                                    {"the scale of an adapter must be finite"}));
    EXPECT_TRUE(throws<ConfigError>([&] { set.scale_layer(bad); },
                                    {"the scale of an adapter must be finite"}));
    EXPECT_TRUE(throws<ConfigError>([&] { set.unscale_layer(bad); },
                                    {"the scale of an adapter must be finite"}));
  }
  EXPECT_TRUE(throws<ConfigError>([&] { set.unscale_layer(0.0); }, {"unscale_layer: factor is 0"}));
  EXPECT_EQ(set.get("a").scaling, 2.5);
}

TEST(AdapterSet, WhatIsMergedIsNotRescaledOrRemoved) {
  AdapterSet<double> set = set_of({"a", "b"});
  set.set_active({"b", "a"});
  set.set_merged({"a"});
  EXPECT_TRUE(set.is_merged("a") && !set.is_merged("b"));
  const char* scale = "adapter \"a\" is merged; unmerge it before its scale is changed";
  EXPECT_TRUE(throws<Error>([&] { set.set_scale("a", 2); }, {scale}));
  EXPECT_TRUE(throws<Error>([&] { set.scale_layer(2); }, {scale}));
  EXPECT_TRUE(throws<Error>([&] { set.unscale_layer(); }, {scale}));
  EXPECT_TRUE(throws<Error>([&] { set.remove("a"); },
                            {"adapter \"a\" is merged; unmerge it before it is deleted"}));
  EXPECT_EQ(set.get("b").scaling, 2.5) << "not even the one that is not merged";
  set.set_scale("b", 2);
  set.remove("b");
  EXPECT_EQ(set.names(), Names{"a"});
  EXPECT_EQ(set.active(), Names{"a"}) << "a removed adapter is not active";
}

TEST(AdapterSet, AnIdIsNeverUsedTwice) {
  AdapterSet<double> set = set_of({"a", "b"});
  const std::uint64_t first = set.get("a").id, second = set.get("b").id;
  EXPECT_EQ(set.by_id(second).name, "b");
  set.remove("a");
  set.add(adapter_of("a"));
  const std::uint64_t third = set.get("a").id;
  EXPECT_TRUE(first != second && third != first && third != second);
  EXPECT_TRUE(throws<Error>(
      [&] { set.by_id(first); },
      {"backward: an adapter that forward used has been deleted since; there are: b a"}));
  set.set_active({"a"});
  set.set_merged({"a"});
  set.set_enabled(false);
  set.clear();
  EXPECT_TRUE(set.empty() && set.active().empty() && set.merged().empty() && set.enabled());
  set.add(adapter_of("a"));
  for (const std::uint64_t used : {first, second, third}) EXPECT_NE(set.get("a").id, used);
  EXPECT_TRUE(throws<Error>([&] { std::as_const(set).by_id(second); }, {"has been deleted since"}));
  EXPECT_EQ(set.by_id(set.get("a").id).name, "a");
}

TEST(AdapterSet, AScaleThatBecomesInfiniteIsRefused) {
  AdapterSet<double> set = set_of({"a", "b"});
  set.set_active({"a", "b"});
  const double before = set.get("a").scaling;
  set.set_scale("b", 1e300);
  const double large = set.get("b").scaling;
  const char* text = "the scale of adapter \"b\" would be inf, expected a number that is finite";
  EXPECT_TRUE(throws<ConfigError>([&] { set.scale_layer(1e200); }, {text}));
  EXPECT_TRUE(throws<ConfigError>([&] { set.unscale_layer(1e-200); }, {text}));
  EXPECT_TRUE(throws<ConfigError>([&] { set.set_scale("b", 1.7e308); }, {text}));
  EXPECT_EQ(set.get("a").scaling, before) << "not even the first, which would be finite";
  EXPECT_EQ(set.get("b").scaling, large);

  AdapterSet<float> floats;  // whose products would see an infinity
  Adapter<float> adapter = make_adapter<float>("a", {.r = 1, .lora_alpha = 4});
  adapter.A = adapter.B = Parameter<float>(Matrix<float>::Zero(1, 1));
  floats.add(adapter);
  floats.set_active({"a"});
  EXPECT_TRUE(throws<ConfigError>([&] { floats.set_scale("a", 1e38); }, {"would be 4e+38"}));
  EXPECT_TRUE(throws<ConfigError>([&] { floats.scale_layer(-1e38); }, {"would be -4e+38"}));
  EXPECT_EQ(floats.get("a").scaling, 4);
  floats.set_scale("a", 0.5e38);
  EXPECT_TRUE(std::isfinite(floats.get("a").scale()));
}

// A name may be the very text that is changed: of an adapter, or in one of the lists.
TEST(AdapterSet, NamesOfItsOwn) {
  const Names names = {"a_name_that_needs_the_heap", "b_name_that_needs_the_heap", "c"};
  for (std::size_t i = 0; i < names.size(); ++i) {
    AdapterSet<double> set = set_of(names);
    set.set_active(names);
    Names left = names;
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(i));
    set.remove(set.all()[i].name);
    EXPECT_EQ(set.names(), left);
    EXPECT_EQ(set.active(), left);
    set.remove(set.active()[0]);
    EXPECT_EQ(set.active(), set.names());
    EXPECT_EQ(set.active(), Names{left[1]});

    set = set_of(names);
    set.set_active(names);
    set.set_merged({names[i]});
    Names renamed = names;
    renamed[i] = "x";
    set.rename(set.all()[i].name, "x");
    EXPECT_EQ(set.names(), renamed);
    EXPECT_EQ(set.active(), renamed);
    EXPECT_EQ(set.merged(), Names{"x"});
    set.rename(set.merged()[0], "y");
    set.rename(set.active()[i], "z");
    EXPECT_EQ(set.merged(), Names{"z"});
    EXPECT_EQ(set.active(), set.names());
    set.set_merged({});
    set.set_active(set.active());
    EXPECT_EQ(set.active(), set.names());
    set.discard(set.active()[0]);
    EXPECT_EQ(set.active(), set.names());
    set.set_scale(set.all()[0].name, 2);
  }
}

}  // namespace adapter_set_test
