// GPT-2 below its head: positions, also of a cached sequence, their limit, and errors. The whole
// with its head is causal_lm_test, its numbers golden_models_test.
#include <lora/models/gpt2.hpp>

#include <gtest/gtest.h>

#include "models/tiny_models.hpp"

namespace gpt2_test {
using namespace lora;
using namespace lora_test;

TEST(GPT2, PositionsStartAnewInEachSequenceAndGoOnWithACache) {
  TestWeights<double> source;
  const GPT2<double> model(tiny_gpt2(), source);
  const TinyText text;
  Matrix<double> hidden(9, 6), two(2, 6);
  GPT2<double>::Tape tape;
  model.forward(text.batch(), hidden, tape);
  EXPECT_EQ(tape.positions, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 0, 0, 1, 2}));
  KVCache<double> cache;
  KVCache<double>* const caches[] = {&cache};
  const std::span<const std::int64_t> ids(text.ids);
  Matrix<double> three(3, 6);
  model.forward({ids.first(3)}, three, tape, {}, Keep::nothing, caches);
  EXPECT_EQ(cache.length(), 3);
  model.forward({ids.subspan(3, 2)}, two, tape, {}, Keep::nothing, caches);
  EXPECT_EQ(tape.positions, (std::vector<std::int64_t>{3, 4}));
  EXPECT_TRUE(two.isApprox(hidden.middleRows(3, 2), 1e-13));
}

TEST(GPT2Errors, PositionsShapesAndTapes) {
  TestWeights<double> source;
  GPT2<double> model(tiny_gpt2(), source);
  const std::vector<std::int64_t> ids(41, 1);
  const Index lengths[] = {1, 40}, longer[] = {0, 41};
  Matrix<double> hidden(41, 6), wrong(41, 5);
  GPT2<double>::Tape tape;
  EXPECT_NO_THROW(model.forward({ids, lengths}, hidden, tape));
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        model.forward({ids, longer}, hidden, tape);
      },
      {"GPT2::forward: sequence 0 has 41 tokens, expected at most "
       "n_positions, 40"}));
  EXPECT_TRUE(throws<Error>(
      [&] {
        model.backward({ids, lengths}, hidden, tape);
      },
      {"GPT2::backward: the tape has seen no forward of this model"}));
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        model.forward({ids, lengths}, wrong, tape);
      },
      {"GPT2::forward: hidden is (41, 5), expected (41, 6)"}));
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        model.backward({ids, lengths}, wrong, tape);
      },
      {"GPT2::backward: dhidden is (41, 5), expected (41, 6)"}));
  KVCache<double> cache;
  KVCache<double>* const caches[] = {&cache};
  const std::span<const std::int64_t> all(ids);
  Matrix<double> y(39, 6), two(2, 6);
  model.forward({all.first(39)}, y, tape, {}, Keep::nothing, caches);
  EXPECT_TRUE(throws<ShapeError>(
      [&] { model.forward({all.first(2)}, two, tape, {}, Keep::nothing, caches); },
      {"sequence 0 has 41 tokens"}));
  EXPECT_EQ(cache.length(), 39);
  GPT2Config config = tiny_gpt2();
  config.n_head = 4;
  EXPECT_TRUE(
      throws<ConfigError>([&] { GPT2<double>(config, source); }, {"GPT2Config: n_embd is 6"}));
}

}  // namespace gpt2_test
