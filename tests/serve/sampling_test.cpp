// Filters and draws against transformers' probabilities, by hand at the edges, and what is refused.
#include <lora/serve/sampling.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "support/allocations.hpp"
#include "support/golden.hpp"

namespace sampling_test {
using namespace lora;
using namespace lora_test;

GenerationConfig sampling() {
  GenerationConfig config;
  config.do_sample = true;
  config.top_k = 0;
  return config;
}

template <class S = double>
std::vector<double> probabilities(const GenerationConfig& config, const std::vector<S>& logits,
                                  const std::vector<std::int64_t>& ids = {}) {
  std::vector<double> p(logits.size());
  Sampler<S>(config).probabilities(logits, ids, p);
  return p;
}

// Logits whose softmax is p.
std::vector<double> logits_of(std::vector<double> p) {
  for (double& x : p) x = std::log(x);
  return p;
}

void expect_near(const std::vector<double>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i)
    EXPECT_NEAR(actual[i], expected[i], 8 * 0x1p-53) << i;
}

std::string refusal(const GenerationConfig& config, std::vector<double> logits = {0, 1},
                    std::vector<std::int64_t> ids = {}) {
  try {
    Sampler<double>(config).next(logits, ids, 0.5);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void check_golden_set(const GoldenSet& set) {
  const auto folder = set.folder / "models" / "sampling";
  const auto tensors = SafetensorsFile::open(folder / "sampling.safetensors");
  const Json cases = read_golden_json(folder / "sampling.json");
  const Matrix<float> logits = tensors.matrix<float>("logits");
  const auto all_ids = tensors.integers("input_ids");
  const Index V = logits.cols(), T = static_cast<Index>(all_ids.size()) / logits.rows();
  ASSERT_FALSE(cases.empty());
  ASSERT_GE(logits.size(), 1);
  for (const Json& one : cases) {
    GenerationConfig config = sampling();
    for (const Json& step : one.at("processors_in_order")) {
      const std::string name = step[0].get<std::string>();
      if (name == "temperature") config.temperature = step[1].get<double>();
      if (name == "top_k") config.top_k = step[1].get<Index>();
      if (name == "top_p") config.top_p = step[1].get<double>();
      if (name == "min_p") config.min_p = step[1].get<double>();
      if (name == "repetition_penalty") config.repetition_penalty = step[1].get<double>();
    }
    const std::string key = "probabilities_" + std::to_string(one.at("case").get<int>());
    const Matrix<float> expected = tensors.matrix<float>(key);
    Sampler<float> sampler(config);
    for (Index row = 0; row < logits.rows(); ++row) {
      std::vector<double> p(static_cast<std::size_t>(V));
      sampler.probabilities({logits.row(row).data(), p.size()},
                            std::span(all_ids).subspan(static_cast<std::size_t>(row * T),
                                                       static_cast<std::size_t>(T)),
                            p);
      for (Index v = 0; v < V; ++v) {
        const double actual = p[static_cast<std::size_t>(v)], theirs = expected(row, v);
        EXPECT_EQ(actual == 0, theirs == 0) << key << " row " << row << " token " << v;
        // float32 exponentials of logits below 2^5 and a sum of V of them
        EXPECT_NEAR(actual, theirs, 64 * 0x1p-24 * theirs) << key << " " << row << " " << v;
      }
    }
  }
}

TEST(Sampling, GoldenProbabilitiesOfTransformers) { for_each_golden_set(check_golden_set); }

TEST(Sampling, FiltersByHand) {
  const std::vector<double> logits = logits_of({0.1, 0.4, 0.2, 0.3});
  GenerationConfig config = sampling();
  expect_near(probabilities(config, logits), {0.1, 0.4, 0.2, 0.3});
  config.top_k = 2;
  expect_near(probabilities(config, logits), {0, 4. / 7, 0, 3. / 7});
  config.top_k = 9;
  expect_near(probabilities(config, logits), {0.1, 0.4, 0.2, 0.3});
  config = sampling();
  config.top_p = 0.6;  // 0.4 is less, 0.4 + 0.3 is not
  expect_near(probabilities(config, logits), {0, 4. / 7, 0, 3. / 7});
  config.top_p = 0;
  expect_near(probabilities(config, logits), {0, 1, 0, 0});
  config.top_p = 0.6, config.top_k = 3;  // of 4/9, 3/9 and 2/9
  expect_near(probabilities(config, logits), {0, 4. / 7, 0, 3. / 7});
  config.top_p = 0.45;
  expect_near(probabilities(config, logits), {0, 4. / 7, 0, 3. / 7});
  config = sampling();
  config.min_p = 0.45;
  expect_near(probabilities(config, logits), {0, 4. / 9, 2. / 9, 3. / 9});
  config.min_p = 1;
  expect_near(probabilities(config, logits), {0, 1, 0, 0});
  // min-p cuts a part of what top-p has left, and the sum of top-p is that before min-p.
  config.min_p = 0.6, config.top_p = 0.95;
  expect_near(probabilities(config, logits), {0, 4. / 7, 0, 3. / 7});
  config.min_p = 0.6, config.top_p = 0.35;
  expect_near(probabilities(config, logits), {0, 1, 0, 0});
  config = sampling();
  config.temperature = 0.5;
  expect_near(probabilities(config, logits), {1. / 30, 16. / 30, 4. / 30, 9. / 30});
}

TEST(Sampling, TiesAtTheEdgeOfTopKStay) {
  GenerationConfig config = sampling();
  config.top_k = 2;
  expect_near(probabilities<double>(config, {1, 2, 1, 0, 1}), [] {
    const double e = std::exp(-1.0), sum = 1 + 3 * e;
    return std::vector<double>{e / sum, 1 / sum, e / sum, 0, e / sum};
  }());
}

// Quotients that overflow made every probability NaN, and top-p then took from an empty heap.
TEST(Sampling, NoTemperatureIsTooSmall) {
  GenerationConfig config = sampling();
  config.top_p = 0.9;
  for (const double temperature : {0.6, 1e-30, 1e-50, 5e-324}) {
    config.temperature = temperature;
    expect_near(probabilities<float>(config, {1e30f, -1e30f, 3e38f, 3e38f}), {0, 0, 0.5, 0.5});
    expect_near(probabilities<float>(config, {0, -1, 0}),
                temperature == 0.6 ? probabilities<double>(config, {0, -1, 0})
                                   : std::vector<double>{0.5, 0, 0.5});
  }
}

TEST(Sampling, PenaltyMakesWhatWasThereLessProbableOnce) {
  GenerationConfig config;
  config.repetition_penalty = 2;
  Sampler<double> greedy(config);
  const std::vector<double> logits = {3, 2, -1};
  const auto next = [&](std::vector<std::int64_t> ids) { return greedy.next(logits, ids, 0); };
  EXPECT_EQ(next({}), 0);
  EXPECT_EQ(next({0}), 1);
  EXPECT_EQ(next({0, 0, 1}), 0);  // 1.5, 1, -1
  EXPECT_EQ(next({1, 1, 1, 0}), 0);
  config.do_sample = true, config.top_k = 0;
  const auto p = probabilities(config, logits, {2, 2, 0});
  const double sum = std::exp(1.5) + std::exp(2.0) + std::exp(-2.0);
  expect_near(p, {std::exp(1.5) / sum, std::exp(2.0) / sum, std::exp(-2.0) / sum});
}

TEST(Sampling, GreedyTakesTheFirstOfTheLargest) {
  GenerationConfig config;
  config.temperature = 7;
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(Sampler<double>(config).next(std::vector<double>{-inf, 5, 5, 4}, {}, 0.99), 1);
  expect_near(probabilities<double>(config, {1, 5, 5}), {0, 1, 0});
}

TEST(Sampling, DrawsByTheRunningSum) {
  const std::vector<double> logits = logits_of({0.125, 0.5, 0.375});
  Sampler<double> sampler(sampling());
  const auto at = [&](double u) { return sampler.next(logits, {}, u); };
  EXPECT_EQ(at(0), 0);
  EXPECT_EQ(at(0.124), 0);
  EXPECT_EQ(at(0.126), 1);
  EXPECT_EQ(at(0.624), 1);
  EXPECT_EQ(at(0.626), 2);
  EXPECT_EQ(at(std::nextafter(1.0, 0.0)), 2);
  // What cannot be is never drawn, also not where rounding leaves the sum short.
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(sampler.next(std::vector<double>{-inf, 0, -inf}, {}, 0), 1);
  EXPECT_EQ(sampler.next(std::vector<double>{-inf, 0, -inf}, {}, std::nextafter(1.0, 0.0)), 1);
}

TEST(Sampling, AllocatesNothingAfterTheFirstToken) {
  GenerationConfig config = sampling();
  config.top_k = 50, config.top_p = 0.9, config.min_p = 0.01, config.repetition_penalty = 1.1;
  std::vector<float> logits(1000);
  for (std::size_t i = 0; i < logits.size(); ++i)
    logits[i] = static_cast<float>(std::sin(static_cast<double>(i * i)));
  const std::vector<std::int64_t> ids = {1, 2, 3};
  Sampler<float> sampler(config);
  sampler.next(logits, ids, 0.3);
  LORA_NEEDS_ALLOCATION_COUNTS();
  AllocationCounter counter;
  sampler.next(logits, ids, 0.7);
  EXPECT_EQ(counter.stop().calls, 0u);
}

TEST(Sampling, Refuses) {
  GenerationConfig config;
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  EXPECT_EQ(refusal(config, {}), "Sampler: there are no logits");
  EXPECT_EQ(refusal(config, {0, nan}), "Sampler: a logit is NaN, expected numbers");
  EXPECT_EQ(refusal(config, {nan, 0}), "Sampler: a logit is NaN, expected numbers");
  EXPECT_EQ(refusal(config, {0, inf}), "Sampler: the largest logit is infinite, expected numbers");
  EXPECT_EQ(refusal(config, {-inf}), "Sampler: the largest logit is infinite, expected numbers");
  config.repetition_penalty = 1.5;
  EXPECT_EQ(refusal(config, {0, 1}, {2}), "Sampler: an id is 2, expected 0 to 1");
  EXPECT_EQ(refusal(config, {0, 1}, {-1}), "Sampler: an id is -1, expected 0 to 1");
  config.top_k = -1;
  EXPECT_EQ(refusal(config), "GenerationConfig: top_k is -1, expected at least 0");
  const std::vector<double> logits = {0, 1};
  std::vector<double> p(3);
  try {
    Sampler<double>(sampling()).probabilities(logits, {}, p);
    ADD_FAILURE();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(), "Sampler::probabilities: p has 3 elements, expected 2");
  }
}

}  // namespace sampling_test
