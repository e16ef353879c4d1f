#include <support/allocations.hpp>

#include <lora/core/name_path.hpp>
#include <lora/core/random.hpp>

#include <gtest/gtest.h>

#include <deque>
#include <limits>
#include <map>
#include <vector>

namespace name_path_test {
using namespace lora;

TEST(NamePath, OnePart) {
  EXPECT_EQ(NamePath("weight").str(), "weight");
  EXPECT_EQ(NamePath(std::string("weight")).str(), "weight");
  EXPECT_EQ(NamePath(std::string_view("weights").substr(0, 6)).str(), "weight");
  EXPECT_EQ(NamePath("").str(), "");
}

TEST(NamePath, PartsAreJoinedByDots) {
  const NamePath model("model"), layers(model, "layers", 3), proj(layers, "q_proj");
  EXPECT_EQ(layers.str(), "model.layers.3");
  EXPECT_EQ(proj.str(), "model.layers.3.q_proj");
  EXPECT_EQ(NamePath(model, "a.b").str(), "model.a.b");
}

TEST(NamePath, AnEmptyParentOrPartLeavesNoDot) {
  const NamePath root("");
  EXPECT_EQ(NamePath(root, "weight").str(), "weight");
  EXPECT_EQ(NamePath(root, "layers", 0).str(), "layers.0");
  EXPECT_EQ(NamePath(root, "", 4).str(), "4");
  EXPECT_EQ(NamePath(root, "").str(), "");
  const NamePath model("model"), same(model, ""), empty(root, "");
  EXPECT_EQ(same.str(), "model");
  EXPECT_EQ(NamePath(same, "x").str(), "model.x");
  EXPECT_EQ(NamePath(model, "", 7).str(), "model.7");
  EXPECT_EQ(NamePath(empty, "x").str(), "x");
}

TEST(NamePath, OnlyIndicesFromZeroOnAreWritten) {
  const NamePath model("m");
  EXPECT_EQ(NamePath(model, "a", -1).str(), "m.a");
  EXPECT_EQ(NamePath(model, "a", std::numeric_limits<Index>::min()).str(), "m.a");
  EXPECT_EQ(NamePath(model, "a", 0).str(), "m.a.0");
  EXPECT_EQ(NamePath(model, "a", 10).str(), "m.a.10");
  EXPECT_EQ(NamePath(model, "a", std::numeric_limits<Index>::max()).str(),
            "m.a.9223372036854775807");
}

TEST(NamePath, IsAStringWhereOneIsWanted) {
  const NamePath model("model"), path(model, "layers", 12);
  const std::string text = path;
  EXPECT_EQ(text, "model.layers.12");
  std::map<std::string, int> numbers;
  numbers[path] = 5;
  EXPECT_EQ(numbers.at("model.layers.12"), 5);
}

TEST(NamePath, EqualsItsTextAndNothingElse) {
  const NamePath model("model"), layers(model, "layers", 12), path(layers, "q_proj");
  EXPECT_TRUE(path == "model.layers.12.q_proj");
  EXPECT_TRUE("model.layers.12.q_proj" == path);
  EXPECT_TRUE(path == std::string("model.layers.12.q_proj"));
  EXPECT_TRUE(path == std::string_view("model.layers.12.q_proj"));
  EXPECT_TRUE(path != "model.layers.12.q_pro");
  EXPECT_FALSE(path == "odel.layers.12.q_proj");
  EXPECT_FALSE(path == "model.layers.12.q_proj.");
  EXPECT_FALSE(path == ".model.layers.12.q_proj");
  EXPECT_FALSE(path == "model.layers.2.q_proj");
  EXPECT_FALSE(path == "model.layers.112.q_proj");
  EXPECT_FALSE(path == "model.layers.012.q_proj");
  EXPECT_FALSE(path == "model.layers12.q_proj");
  EXPECT_FALSE(path == "modellayers.12.q_proj");
  EXPECT_FALSE(path == "model.layers.12.q_proj" + std::string(1, '\0'));
  EXPECT_FALSE(path == "layers.12.q_proj");
  EXPECT_FALSE(path == "x.model.layers.12.q_proj");
  EXPECT_FALSE(path == "");
  EXPECT_TRUE(NamePath("") == "");
  EXPECT_FALSE(NamePath("") == ".");
}

// A chain of parts drawn at random; all are alive as long as the chain.
struct Chain {
  std::deque<NamePath> parts;
  Chain(const RandomStream& stream, std::uint64_t& at) {
    const char* names[] = {"", "a", "b", "ab", "a.b", "1", "layers"};
    parts.emplace_back(names[stream.below(at++, 7)]);
    for (Index n = stream.below(at++, 5); n > 0; --n) {
      const char* name = names[stream.below(at++, 7)];
      const Index index = stream.below(at++, 3) == 0 ? stream.below(at++, 30) : -1;
      parts.emplace_back(parts.back(), std::string_view(name), index);
    }
  }
  const NamePath& path() const { return parts.back(); }
};

TEST(NamePath, EqualityIsThatOfTheTexts) {
  const RandomStream stream(3, "chains");
  std::uint64_t at = 0;
  int equal = 0;
  for (int repeat = 0; repeat < 20000; ++repeat) {
    const Chain one(stream, at), other(stream, at);
    const std::string text = one.path().str(), another = other.path().str();
    ASSERT_TRUE(one.path() == text) << text;
    ASSERT_EQ(one.path() == another, text == another) << text << " and " << another;
    ASSERT_FALSE(one.path() == text + "x");
    ASSERT_FALSE(one.path() == "." + text);
    ASSERT_FALSE(one.path() == text + ".");
    if (text == another) ++equal;
    if (!text.empty()) {
      std::string changed = text;
      changed[static_cast<std::size_t>(stream.below(at++, static_cast<Index>(text.size())))] = '#';
      ASSERT_FALSE(one.path() == changed);
      ASSERT_FALSE(one.path() == text.substr(1));
      ASSERT_FALSE(one.path() == text.substr(0, text.size() - 1));
    }
  }
  EXPECT_GT(equal, 100);  // so that both answers were asked for
}

TEST(NamePath, NoDotIsDoubledLeadingOrTrailing) {
  const RandomStream stream(4, "chains");
  std::uint64_t at = 0;
  for (int repeat = 0; repeat < 5000; ++repeat) {
    const std::string text = Chain(stream, at).path().str();
    ASSERT_EQ(text.find(".."), std::string::npos) << text;
    ASSERT_TRUE(text.empty() || (text.front() != '.' && text.back() != '.')) << text;
  }
}

TEST(NamePath, WalkingAndComparingAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const std::string text = "base_model.model.layers.1234567.self_attention.q_projection.weight";
  lora_test::AllocationCounter counter;
  const NamePath base("base_model"), model(base, "model"), layer(model, "layers", 1234567),
      attention(layer, "self_attention"), proj(attention, "q_projection"), path(proj, "weight");
  const bool same = path == text, other = path == "something.else";
  const lora_test::Allocations made = counter.stop();
  EXPECT_TRUE(same);
  EXPECT_FALSE(other);
  EXPECT_EQ(made.calls, 0u);
}

}  // namespace name_path_test
