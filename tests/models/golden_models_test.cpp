// Whole models against PyTorch, transformers and PEFT: every architecture's logits, loss, gradients
// of all trained tensors, merged weights and generated ids.
#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/hf/hf_generation_config.hpp>
#include <lora/io/peft/pretrained.hpp>
#include <lora/models/causal_lm.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "layers/layer_tools.hpp"
#include "support/golden.hpp"

namespace golden_models_test {
using namespace lora;
using namespace lora_test;
namespace fs = std::filesystem;

/// One model of a set. Agreement is expected within 1e-4 of the largest logit and of a gradient's
/// norm in float. In double it is 1e-9 where the set's numbers are double throughout. transformers
/// by itself makes RMSNorm and the loss in float32 whatever the model is in: what goes through those
/// agrees to some units of 2^-24 only, and GPT-2's logits do not.
struct Case {
  GoldenModel files;
  SafetensorsFile tensors = SafetensorsFile::open(files.folder / "golden.safetensors");
  Json numbers = read_golden_json(files.folder / "golden.json");
  std::vector<std::int64_t> ids = tensors.integers("input_ids"),
                            labels = tensors.integers("labels");
  std::vector<Index> lengths;

  explicit Case(const GoldenModel& golden) : files(golden) {
    const std::vector<Index>& shape = tensors.info("input_ids").shape;
    lengths.assign(static_cast<std::size_t>(shape[0]), shape[1]);
  }
  TokenBatch batch() const { return {ids, lengths}; }
  /// A tensor (rows, tokens, n) as (T, n).
  template <class S>
  Matrix<S> flat(const std::string& key) const {
    const Matrix<S> m = tensors.matrix<S>(key);
    const Index T = static_cast<Index>(ids.size());
    return Eigen::Map<const Matrix<S>>(m.data(), T, m.size() / T);
  }
  bool all_double() const { return numbers.contains("f64"); }
};

template <class S>
LoRAModel<CausalLM<S>> adapted(const Case& one) {
  LoadOptions options;
  options.is_trainable = true;
  return from_pretrained(load_model<CausalLM<S>>(one.files.base), one.files.adapter, options).model;
}

/// |actual − expected| ≤ bound · |expected|, both as norms; a NaN fails.
testing::AssertionResult near_norm(const Matrix<double>& actual, const Matrix<double>& expected,
                                   double bound) {
  if (actual.rows() != expected.rows() || actual.cols() != expected.cols())
    return testing::AssertionFailure() << shape_text(actual.rows(), actual.cols()) << " beside "
                                       << shape_text(expected.rows(), expected.cols());
  const double error = (actual - expected).norm(), norm = expected.norm();
  if (error <= bound * norm) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "error " << error / norm << " of the norm " << norm;
}

/// The names that PEFT has for the trained tensors, with their gradients against those of the file.
template <class S>
void check_gradients(LoRAModel<CausalLM<S>>& model, const Case& one, const std::string& prefix,
                     double bound) {
  std::set<std::string> expected, found;
  for (const std::string& name : one.tensors.names()) {
    if (name.starts_with(prefix + ".")) expected.insert(name);
  }
  ASSERT_FALSE(expected.empty());
  model.for_each_parameter("", [&](const NamePath& path, const Parameter<S>& p) {
    if (!p.trainable) return;
    std::string name = path;
    if (const std::size_t at = name.find(".default"); at != name.npos) name.erase(at, 8);
    name = prefix + ".base_model.model." + name;
    found.insert(name);
    if (expected.count(name) == 0) return;
    EXPECT_TRUE(near_norm(p.grad.template cast<double>(), one.tensors.matrix<double>(name), bound))
        << name;
  });
  EXPECT_EQ(found, expected);
}

template <class S>
double loss_with_gradients(LoRAModel<CausalLM<S>>& model, const Case& one,
                           typename CausalLM<S>::Tape& tape) {
  zero_grad(model);
  return model.base().loss(one.batch(), one.labels, tape).loss;
}

void check_float(const Case& one) {
  const double bound = 1e-4;
  LoRAModel<CausalLM<float>> model = adapted<float>(one);
  EXPECT_EQ(model.get_nb_trainable_parameters().first, one.numbers.at("trainable").get<Index>());
  expect_close(model.base().logits(one.batch()), one.flat<float>("adapter_logits"), bound,
               "adapter_logits");
  CausalLM<float>::Tape tape;
  const double loss = loss_with_gradients(model, one, tape);
  EXPECT_NEAR(loss, one.numbers.at("adapter_loss").get<double>(), 1e-5 * std::abs(loss));
  check_gradients(model, one, "grad", 1e-4);
  expect_close(model.merge_and_unload().logits(one.batch()), one.flat<float>("merged_logits"),
               bound, "merged_logits");
}

/// The base by itself: an adapter that is disabled leaves the biases that it has trained.
void check_base(const Case& one) {
  CausalLM<float> base = load_model<CausalLM<float>>(one.files.base);
  expect_close(base.logits(one.batch()), one.flat<float>("base_logits"), 1e-4, "base_logits");
  CausalLM<float>::Tape tape;
  EXPECT_NEAR(base.loss(one.batch(), one.labels, tape).loss,
              one.numbers.at("base_loss").get<double>(), 1e-5);
  std::visit(
      [&](const auto& model) {
        typename std::remove_cvref_t<decltype(model)>::Tape kept;
        Matrix<float> hidden(one.batch().rows(), base.hidden_size());
        model.forward(one.batch(), hidden, kept, {}, Keep::inputs);
        expect_close(kept.stack.inputs[1], one.flat<float>("hidden_1"), 1e-4, "hidden_1");
      },
      base.architecture());
}

void check_double(const Case& one) {
  LoRAModel<CausalLM<double>> model = adapted<double>(one);
  const bool exact_logits = one.all_double() || model.base().model_type() == "gpt2";
  expect_close(model.base().logits(one.batch()), one.flat<double>("adapter_logits_f64"),
               exact_logits ? 1e-9 : 16 * 0x1.0p-24, "adapter_logits_f64");
  CausalLM<double>::Tape tape;
  const double loss = loss_with_gradients(model, one, tape);
  if (one.all_double()) {
    const double expected = one.numbers.at("adapter_loss_f64").get<double>();
    EXPECT_LE(std::abs(loss - expected), 1e-9 * expected);
  }
  check_gradients(model, one, "grad_f64",
                  one.all_double() ? 1e-9 : (exact_logits ? 4 : 32) * 0x1.0p-24);
}

/// Greedy ids, each from the logits of the whole text or, with a cache, of its new tokens.
std::vector<std::int64_t> generate(const CausalLM<float>& model, std::vector<std::int64_t> ids,
                                   std::size_t total, std::int64_t end, bool cached) {
  CausalLM<float>::Tape tape;
  KVCache<float> cache;
  KVCache<float>* const caches[] = {&cache};
  Matrix<float> y(1, model.vocab_size());
  std::size_t seen = 0;
  while (ids.size() < total) {
    if (cached) {
      model.decode({std::span(ids).subspan(seen)}, caches, y, tape);
      seen = ids.size();
    } else {
      y = model.logits({ids}).bottomRows(1);
    }
    Index best = 0;
    y.row(0).maxCoeff(&best);
    ids.push_back(best);
    if (best == end) break;
  }
  return ids;
}

void check_generation(const Case& one) {
  const auto prompt = static_cast<std::ptrdiff_t>(one.numbers.at("prompt_length").get<Index>());
  const std::int64_t end = read_generation_config(one.files.base).generation.eos_token_id.at(0);
  const auto check = [&](const CausalLM<float>& model, const char* key) {
    const auto expected = one.numbers.at(key).get<std::vector<std::int64_t>>();
    const std::vector<std::int64_t> begin(expected.begin(), expected.begin() + prompt);
    for (const bool cached : {false, true})
      EXPECT_EQ(generate(model, begin, expected.size(), end, cached), expected)
          << key << (cached ? " with a cache" : "");
  };
  check(adapted<float>(one).base(), "adapter_generated");
  check(load_model<CausalLM<float>>(one.files.base), "base_generated");
}

TEST(GoldenModels, EveryArchitecture) {
  for_each_golden_model([](const GoldenModel& golden) {
    const Case one(golden);
    check_float(one);
    check_base(one);
    check_double(one);
    check_generation(one);
  });
}

// A real model, trained by somebody else: its greedy text, its logits, and the derivative of its
// loss with respect to single weights, made by an independent program in double.
struct Stories {
  fs::path folder = shared_dir() / "data" / "stories260K-hf";
  std::vector<std::int64_t> ids = numbers<std::int64_t>("golden_ids.txt");

  template <class T>
  std::vector<T> numbers(const char* file) const {
    std::ifstream in(folder / file);
    std::vector<T> all;
    for (T value; in >> value;) all.push_back(value);
    return all;
  }
};

TEST(Stories260K, GreedyTextLogitsAndLossOfARealModel) {
  LORA_NEEDS_SHARED("data/stories260K-hf");
  const Stories stories;
  ASSERT_GT(stories.ids.size(), 190u);
  const CausalLM<float> model = load_model<CausalLM<float>>(stories.folder);
  EXPECT_EQ(generate(model, {1}, stories.ids.size(), 2, true), stories.ids);
  CausalLM<double> exact = load_model<CausalLM<double>>(stories.folder);
  const Matrix<double> logits = exact.logits({std::span(stories.ids).first(4)});
  // From golden_std.txt, whose angles are those of double: the difference is that of float32
  // angles.
  EXPECT_NEAR(logits(1, 1), 3.8412757396018273, 1e-5);
  EXPECT_NEAR(logits.row(2).sum(), -2808.6860779880039, 1e-2);
  EXPECT_NEAR(logits.row(3).squaredNorm(), 15356.98071078459, 1e-1);
  CausalLM<double>::Tape tape;
  const double sum = 0.47341766144909114 * 200;
  EXPECT_NEAR(exact.loss({stories.ids}, stories.ids, tape).loss *
                  static_cast<double>(stories.ids.size() - 1),
              sum, 1e-4 * sum);
}

TEST(Stories260K, DerivativesOfSingleWeights) {
  LORA_NEEDS_SHARED("data/stories260K-hf");
  const Stories stories;
  CausalLM<double> model = load_model<CausalLM<double>>(stories.folder);
  model.for_each_module("", [](const NamePath&, auto& module) {
    if constexpr (requires { module.train_base(); }) module.train_base();
  });
  model.for_each_parameter("", [](const auto&, auto& p) { p.set_trainable(true); });
  zero_grad(model);
  CausalLM<double>::Tape tape;
  model.loss({stories.ids}, stories.ids, tape);
  std::ifstream in(stories.folder / "golden_grads_hf_layout.txt");
  std::string line;
  Index checked = 0;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    std::string name, place, what;
    double expected = 0;
    if (!(words >> name >> place >> what >> expected) || what != "dL/dw") continue;
    Index row = 0, col = 0;
    char mark = 0;
    std::istringstream at(place);
    at >> mark >> row >> mark;
    if (mark == ',') {
      at >> col;
    } else {
      col = std::exchange(row, 0);
    }
    const bool tied = name.ends_with("(tied)");
    if (tied) name.erase(name.size() - 6);
    double gradient = parameter_of(model, name).grad(row, col);
    if (tied) gradient += parameter_of(model, "lm_head.weight").grad(row, col);
    EXPECT_NEAR(gradient, expected, 1e-4 * std::abs(expected) + 1e-7) << line;
    ++checked;
  }
  EXPECT_EQ(checked, 41);
}

}  // namespace golden_models_test
