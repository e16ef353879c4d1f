// The loss over a vocabulary in parts: which tokens count, that parts change nothing, and memory.
#include <lora/models/language_model_head.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"
#include "support/allocations.hpp"
#include "support/golden.hpp"
#include "support/threads.hpp"

namespace language_model_head_test {
using namespace lora;
using namespace lora_test;

TEST(LanguageModelHead, ListsTheTokensWhoseNextOneCounts) {
  LossTape<float> tape;
  const std::vector<std::int64_t> ids = {0, 1, 2, 3, 4, 5}, labels = {0, 1, -100, 3, 4, 5};
  const Index lengths[] = {4, 2};
  list_counted<float>("here", {ids}, lengths, labels, 6, tape);
  EXPECT_EQ(tape.rows, (std::vector<Index>{0, 2, 4}));
  EXPECT_EQ(tape.labels, (std::vector<std::int64_t>{1, 3, 5}));
  EXPECT_TRUE(throws<Error>([&] { list_counted<float>("here", {ids}, lengths, labels, 5, tape); },
                            {"here: labels[5] is 5, expected 0 to 4 or -100"}));
  const std::vector<std::int64_t> negative = {0, 1, -1, 3, 4, 5};
  EXPECT_TRUE(throws<Error>([&] { list_counted<float>("here", {ids}, lengths, negative, 6, tape); },
                            {"here: labels[2] is -1"}));
}

TEST(LanguageModelHead, LogitsTakeLittleWhateverTheVocabulary) {
  EXPECT_EQ(logit_rows(10), 128);
  EXPECT_EQ(logit_rows(32000), 128);
  EXPECT_EQ(logit_rows(50257), 83);
  EXPECT_EQ(logit_rows(151936), 48);
  EXPECT_LE(10 * logit_rows(151936), 512) << "a tenth of 512 rows";
}

// 300 tokens in parts of 128 against all logits at once, with an adapter on the head.
TEST(LanguageModelHead, PartsAreTheWhole) {
  const Index T = 300, D = 7, V = 13;
  LoRALinear<double> head(random_matrix(V, D, "head"));
  AdapterOptions options = rank(2);
  add_full_adapter(head, "a", options);
  head.adapters().set_active({"a"});
  head.adapters().get("a").set_trainable(true);
  LoRALinear<double> whole = head;
  const Matrix<double> hidden = random_matrix(T, D, "hidden");
  std::vector<std::int64_t> ids, labels;
  for (Index t = 0; t < T; ++t) {
    ids.push_back(t % V);
    labels.push_back(t % 5 == 0 ? -100 : t * 7 % V);
  }
  LossTape<double> tape;
  const Index lengths[] = {T};
  list_counted<double>("here", {ids}, lengths, labels, V, tape);
  Matrix<double> dhidden;
  zero_grad(head);
  const auto result = head_loss<double>(head, hidden, 50, {}, true, &dhidden, tape);

  std::vector<std::int64_t> shifted(labels.begin() + 1, labels.end());
  shifted.push_back(-100);
  Matrix<double> logits(T, V), dwhole;
  LoRALinear<double>::Tape whole_tape;
  whole.forward(hidden, logits, &whole_tape);
  CrossEntropyOptions of;
  of.num_items = 50;
  const auto expected = cross_entropy<double>(logits, shifted, logits, of);
  zero_grad(whole);
  whole.backward(hidden, logits, whole_tape, &dwhole);
  EXPECT_NEAR(result.loss, expected.loss, 1e-12);
  EXPECT_EQ(result.counted, expected.counted);
  expect_close(dhidden, dwhole, golden_bound(V));
  expect_close(head.adapters().get("a").A.grad, whole.adapters().get("a").A.grad, golden_bound(T));
  expect_close(head.adapters().get("a").B.grad, whole.adapters().get("a").B.grad, golden_bound(T));

  zero_grad(head);
  EXPECT_EQ(head_loss<double>(head, hidden, 50, {}, false, nullptr, tape).loss, result.loss);
  EXPECT_TRUE(head.adapters().get("a").A.grad.isZero(0));
  EXPECT_EQ(head_loss<double>(head, hidden, 50, {}, true, nullptr, tape).loss, result.loss);
  EXPECT_FALSE(head.adapters().get("a").A.grad.isZero(0));
}

// 299 tokens count: two parts of 128 and one of 43.
TEST(LanguageModelHead, ASteadyCallAllocatesNothingWhateverTheLastPartIs) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const Threads use(1);
  const Index T = 300, D = 7, V = 13;
  Matrix<float> weight(V, D), hidden(T, D), dhidden;
  fill_normal(weight, RandomStream(1, "weight"), 1.0);
  fill_normal(hidden, RandomStream(1, "hidden"), 1.0);
  LoRALinear<float> head(weight);
  head.add_adapter("a", rank(2));
  head.adapters().set_active({"a"});
  head.adapters().get("a").set_trainable(true);
  std::vector<std::int64_t> ids;
  for (Index t = 0; t < T; ++t) ids.push_back(t % V);
  const Index lengths[] = {T};
  LossTape<float> tape;
  const auto step = [&] {
    list_counted<float>("here", {ids}, lengths, ids, V, tape);
    return head_loss<float>(head, hidden, 299, {}, true, &dhidden, tape).loss;
  };
  const double loss = step();
  AllocationCounter counter;
  EXPECT_EQ(step(), loss);
  EXPECT_EQ(counter.stop().calls, 0u);
}

}  // namespace language_model_head_test
