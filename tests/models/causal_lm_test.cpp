// Language models: gradients of every tensor through the whole, decoding with a cache, sequences
// end to end, checkpointing, threads, adapters by name, and errors before anything changes.
#include <lora/adapters/lora_model.hpp>
#include <lora/models/causal_lm.hpp>

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "models/tiny_models.hpp"
#include "support/allocations.hpp"
#include "support/golden.hpp"
#include "support/threads.hpp"

namespace causal_lm_test {
using namespace lora;
using namespace lora_test;

template <class S>
typename CausalLM<S>::LossOptions options_of(bool gradient, bool checkpointing = false) {
  typename CausalLM<S>::LossOptions options;
  options.gradient = gradient;
  options.checkpointing = checkpointing;
  options.num_items = 5;
  return options;
}

// Each tensor's gradient against complex steps through the very code, all of them trained or each
// layer with an adapter.
template <class Prepare>
int check_model(const CausalLMConfig& config, Prepare&& prepare) {
  const TinyText text;
  CausalLM<double> model = tiny_model<double>(config);
  CausalLM<Complex> moved = tiny_model<Complex>(config);
  prepare(model);
  prepare(moved);
  CausalLM<double>::Tape tape;
  CausalLM<Complex>::Tape moved_tape;
  zero_grad(model);
  model.loss(text.batch(), text.labels, tape, options_of<double>(true));
  return check_parameter_gradients(model, moved, [&] {
    return moved.loss(text.batch(), text.labels, moved_tape, options_of<Complex>(false)).loss;
  });
}

TEST(CausalLM, GradientsOfEveryAdapterNormAndBias) {
  for (const auto& [name, config] : tiny_configs()) {
    SCOPED_TRACE(name);
    EXPECT_GE(check_model(config, [](auto& model) { adapt_everything(model); }), 2 * 11);
  }
}

TEST(CausalLM, GradientsOfFullFineTuning) {
  for (const auto& [name, config] : tiny_configs()) {
    SCOPED_TRACE(name);
    EXPECT_GE(check_model(config, [](auto& model) { train_everything(model); }), 13);
  }
}

// Backward ends at the lowest thing that is trained: each tensor by itself has the gradient that it
// has among all.
TEST(CausalLM, EachTensorAloneHasTheSameGradient) {
  const TinyText text;
  for (const auto& [name, config] : tiny_configs()) {
    SCOPED_TRACE(name);
    CausalLM<double> model = tiny_model<double>(config);
    adapt_everything(model);
    CausalLM<double>::Tape tape;
    zero_grad(model);
    model.loss(text.batch(), text.labels, tape);
    std::map<std::string, Matrix<double>> all;
    model.for_each_parameter(
        "", [&](const NamePath& path, const auto& p) { all[path.str()] = p.grad; });
    for (const auto& one : all) {
      const std::string& alone = one.first;
      model.for_each_parameter(
          "", [&](const NamePath& path, auto& p) { p.set_trainable(path.str() == alone); });
      zero_grad(model);
      CausalLM<double>::Tape fresh;
      model.loss(text.batch(), text.labels, fresh);
      EXPECT_TRUE(same_bits(parameter_of(model, alone).grad, one.second)) << alone;
    }
  }
}

TEST(CausalLM, LossIsTheMeanOverShiftedLabelsOfEachSequence) {
  const TinyText text;
  for (const auto& [name, config] : tiny_configs()) {
    CausalLM<double> model = tiny_model<double>(config);
    const Matrix<double> logits = model.logits(text.batch());
    double sum = 0;
    Index counted = 0, first = 0;
    for (const Index n : text.lengths) {
      for (Index t = first; t + 1 < first + n; ++t) {
        const std::int64_t label = text.labels[static_cast<std::size_t>(t) + 1];
        if (label == -100) continue;
        sum += std::log(logits.row(t).array().exp().sum()) - logits(t, label);
        ++counted;
      }
      first += n;
    }
    CausalLM<double>::Tape tape;
    const auto mean = model.loss(text.batch(), text.labels, tape);
    EXPECT_EQ(mean.counted, 5);
    EXPECT_EQ(mean.counted, counted);
    EXPECT_NEAR(mean.loss, sum / 5, 1e-12) << name;
    CausalLM<double>::LossOptions options;
    options.num_items = 20;
    EXPECT_NEAR(model.loss(text.batch(), text.labels, tape, options).loss, sum / 20, 1e-12);
  }
}

TEST(CausalLM, NothingToCountIsZero) {
  CausalLM<float> model = tiny_model<float>(tiny_llama());
  adapt_everything(model);
  zero_grad(model);
  CausalLM<float>::Tape tape;
  for (const std::size_t n : {0u, 1u, 4u}) {
    const std::vector<std::int64_t> ids(n, 3), labels(n, n == 1 ? 3 : -100);
    const auto result = model.loss({ids}, labels, tape);
    EXPECT_EQ(result.loss, 0);
    EXPECT_EQ(result.counted, 0);
    EXPECT_EQ(model.logits({ids}).rows(), static_cast<Index>(n));
  }
  model.for_each_parameter("", [](const auto&, auto& p) { EXPECT_TRUE(p.grad.isZero(0)); });
}

TEST(CausalLM, SequencesEndToEndAreEachAlone) {
  const TinyText text;
  for (const auto& [name, config] : tiny_configs()) {
    SCOPED_TRACE(name);
    CausalLM<float> model = tiny_model<float>(config);
    adapt_everything(model);
    const Matrix<float> all = model.logits(text.batch());
    Index first = 0;
    for (const Index n : text.lengths) {
      const std::span<const std::int64_t> ids(text.ids.data() + first, static_cast<std::size_t>(n));
      EXPECT_TRUE(same_bits(model.logits({ids}), Matrix<float>(all.middleRows(first, n))));
      first += n;
    }
  }
}

TEST(CausalLM, CheckpointingAndThreadsChangeNoBit) {
  const TinyText text;
  for (const auto& [name, config] : tiny_configs()) {
    SCOPED_TRACE(name);
    std::map<std::string, Matrix<float>> expected;
    for (const int threads : {1, 2, 5}) {
      for (const bool checkpointing : {false, true}) {
        const Threads use(threads);
        CausalLM<float> model = tiny_model<float>(config);
        adapt_everything(model);
        for_each_adapter_layer(model, [](const NamePath&, auto& layer) {
          if (std::string(layer.module_type()) != "Embedding")
            layer.adapters().get("a").dropout = 0.3;
        });
        zero_grad(model);
        CausalLM<float>::Tape tape;
        auto options = options_of<float>(true, checkpointing);
        options.pass.training = true;
        options.pass.seed = 9;
        model.loss(text.batch(), text.labels, tape, options);
        model.for_each_parameter("", [&](const NamePath& path, const auto& p) {
          const auto [place, fresh] = expected.emplace(path.str(), p.grad);
          EXPECT_TRUE(fresh || same_bits(p.grad, place->second)) << path.str();
        });
      }
    }
  }
}

TEST(CausalLM, CheckpointingKeepsTheInputsOfBlocksOnly) {
  LlamaConfig config = tiny_llama();
  config.num_hidden_layers = 5;
  CausalLM<float> model = tiny_model<float>(config);
  adapt_everything(model);
  const TinyText text;
  for (const bool checkpointing : {false, true}) {
    CausalLM<float>::Tape tape;
    model.loss(text.batch(), text.labels, tape, options_of<float>(true, checkpointing));
    const auto& stack = std::get<Llama<float>::Tape>(tape.model).stack;
    EXPECT_EQ(stack.blocks.size(), checkpointing ? 1u : 5u);
    EXPECT_EQ(stack.inputs.size(), 6u);
  }
}

// Prompts of different lengths, then token by token, some sequences by themselves: the same logits
// as the whole text at once, to the rounding of sums that are cut elsewhere.
TEST(CausalLM, DecodingWithACacheIsTheWholeText) {
  const std::vector<std::int64_t> a = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3}, b = {7, 0, 10, 2, 8};
  for (const auto& [name, config] : tiny_configs()) {
    // The angles of dynamic scaling depend on the length that is known when a key is made.
    if (name.find("dynamic") != name.npos) continue;
    SCOPED_TRACE(name);
    CausalLM<double> model = tiny_model<double>(config);
    adapt_everything(model);
    const Matrix<double> of_a = model.logits({a}), of_b = model.logits({b});
    KVCache<double> first, second;
    KVCache<double>* const both[] = {&first, &second};
    CausalLM<double>::Tape tape;
    Matrix<double> y(2, 11), one(1, 11);
    std::vector<std::int64_t> ids = {3, 1, 4, 7};
    const Index lengths[] = {3, 1}, single[] = {1, 1};
    model.decode({ids, lengths}, both, y, tape);
    expect_close(y.row(0), of_a.row(2), 1e-13);
    expect_close(y.row(1), of_b.row(0), 1e-13);
    for (std::size_t i = 0; i < 4; ++i) {
      ids = {a[3 + i], b[1 + i]};
      model.decode({ids, single}, both, y, tape);
      expect_close(y.row(0), of_a.row(static_cast<Index>(3 + i)), 1e-13);
      expect_close(y.row(1), of_b.row(static_cast<Index>(1 + i)), 1e-13);
    }
    EXPECT_EQ(first.length(), 7);
    EXPECT_EQ(second.length(), 5);
    KVCache<double>* const alone[] = {&first};
    model.decode({std::span(a).subspan(7)}, alone, one, tape);
    expect_close(one.row(0), of_a.row(9), 1e-13);
    first.truncate(4);
    model.decode({std::span(a).subspan(4, 3)}, alone, one, tape);
    expect_close(one.row(0), of_a.row(6), 1e-13);
  }
}

TEST(CausalLM, SequencesOfABatchHaveAdaptersOfTheirOwn) {
  LlamaConfig config = tiny_llama();
  CausalLM<double> model = tiny_model<double>(config);
  for_each_adapter_layer(model, [](const NamePath& path, auto& layer) {
    if (std::string(layer.module_type()) == "Embedding") return;
    for (const std::string name : {"one", "two"}) {
      AdapterOptions options = rank(2);
      options.path = path.str();
      add_full_adapter(layer, name, options);
    }
  });
  const auto activate = [&](const std::string& name) {
    for_each_adapter_layer(model, [&](const NamePath&, auto& layer) {
      if (!layer.adapters().empty())
        layer.adapters().set_active(name.empty() ? std::vector<std::string>()
                                                 : std::vector<std::string>{name});
    });
  };
  const std::vector<std::int64_t> ids = {3, 1, 4, 5, 9, 2, 6};
  const std::vector<Index> lengths = {3, 2, 2};
  const std::vector<std::string> names = {"one",      "one", "one", "__base__",
                                          "__base__", "two", "two"};
  Pass pass;
  pass.adapter_names = names;
  std::vector<KVCache<double>> memory(3);
  KVCache<double>* const caches[] = {&memory[0], &memory[1], &memory[2]};
  CausalLM<double>::Tape tape;
  Matrix<double> y(3, 11);
  model.decode({ids, lengths}, caches, y, tape, pass);
  const Matrix<double> all = model.logits({ids, lengths}, pass);
  Index first = 0;
  for (std::size_t n = 0; n < 3; ++n) {
    activate(n == 0 ? "one" : n == 1 ? "" : "two");
    const std::span<const std::int64_t> own(ids.data() + first,
                                            static_cast<std::size_t>(lengths[n]));
    const Matrix<double> alone = model.logits({own});
    expect_close(y.row(static_cast<Index>(n)), alone.bottomRows(1), 1e-13);
    expect_close(all.middleRows(first, lengths[n]), alone, 1e-13);
    first += lengths[n];
  }
  const std::vector<std::string> mistyped = {"one", "one", "oen", "two", "two", "two", "two"};
  pass.adapter_names = mistyped;
  EXPECT_TRUE(throws<ConfigError>(
      [&] {
        model.logits({ids, lengths}, pass);
      },
      {"CausalLM: adapter_names[2] is \"oen\", expected \"__base__\""}));
  CausalLM<double>::LossOptions options;
  options.pass = pass;
  EXPECT_TRUE(throws<Error>(
      [&] {
        model.loss({ids, lengths}, ids, tape, options);
      },
      {"CausalLM::loss: adapter_names is for inference"}));
}

TEST(CausalLM, TiedHeadsShareTheTableAndAdaptersActByThemselves) {
  LlamaConfig config = tiny_llama();
  config.tie_word_embeddings = true;
  TestWeights<double> source;
  CausalLM<double> model(config, source);
  EXPECT_TRUE(model.lm_head().weight().shares_storage_with(model.embedding().weight()));
  EXPECT_EQ(std::count(source.asked.begin(), source.asked.end(), "lm_head.weight"), 0);
  EXPECT_EQ(std::set<std::string>(source.asked.begin(), source.asked.end()).size(),
            source.asked.size());
  const TinyText text;
  CausalLM<double> headed = model;
  add_full_adapter(headed.lm_head(), "a", rank(2));
  headed.lm_head().adapters().set_active({"a"});
  EXPECT_TRUE(headed.embedding().adapters().empty());
  EXPECT_FALSE(headed.logits(text.batch()).isApprox(model.logits(text.batch()), 1e-3));
}

// golden/layers/matching.json has the module names and types of transformers' own models.
void check_modules(const GoldenSet& set) {
  std::set<std::string> trees;
  for (const Json& row : read_golden_json(set.folder / "layers" / "matching.json")) {
    if (!row.contains("modules")) continue;
    const std::string tree = row.at("tree").get<std::string>();
    std::vector<std::string> expected, found;
    Index layers = 0;
    for (const Json& one : row.at("modules")) {
      const auto name = one.at("name").get<std::string>();
      expected.push_back(name + " " + one.at("type").get<std::string>());
      layers += name.ends_with("mlp.down_proj") || name.ends_with("mlp.c_proj");
    }
    CausalLMConfig config;
    if (tree == "gpt2") {
      GPT2Config c = tiny_gpt2();
      c.n_layer = layers;
      config = c;
    } else if (tree == "llama" || tree == "qwen2") {
      LlamaConfig c = tiny_llama();
      c.model_type = tree, c.num_hidden_layers = layers;
      config = c;
    } else {
      continue;
    }
    trees.insert(tree);
    CausalLM<float> model = tiny_model<float>(config);
    model.for_each_module("", [&](const NamePath& path, auto& module) {
      found.push_back(path.str() + " " + module.module_type());
    });
    EXPECT_EQ(found, expected) << tree;
    EXPECT_EQ(model.model_type(), tree);
    EXPECT_EQ(model.output_module(), "lm_head");
  }
  EXPECT_EQ(trees, (std::set<std::string>{"gpt2", "llama", "qwen2"}));
}

TEST(CausalLM, ModulesAreThoseOfTheGoldenTrees) { for_each_golden_set(check_modules); }

TEST(CausalLM, LoRAModelAdaptsAllLinearLayersButTheHead) {
  static_assert(Adaptable<CausalLM<float>>);
  LoRAConfig config;
  config.target_modules = "all-linear";
  const LoRAModel<CausalLM<float>> model(tiny_model<float>(tiny_llama()), config);
  EXPECT_EQ(model.get_layer_status().size(), 14u);
  LoRAConfig defaults;
  const LoRAModel<CausalLM<float>> by_type(tiny_model<float>(tiny_llama()), defaults);
  EXPECT_EQ(by_type.get_layer_status().size(), 4u) << "llama's default is q_proj and v_proj";
}

TEST(CausalLM, ASteadyStepAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const Threads use(1);
  const TinyText text;
  for (const auto& [name, config] : tiny_configs()) {
    for (const bool checkpointing : {false, true}) {
      CausalLM<float> model = tiny_model<float>(config);
      adapt_everything(model);
      CausalLM<float>::Tape tape;
      const auto step = [&] {
        zero_grad(model);
        model.loss(text.batch(), text.labels, tape, options_of<float>(true, checkpointing));
      };
      step();
      AllocationCounter counter;
      step();
      const Allocations made = counter.stop();
      EXPECT_EQ(made.calls, 0u) << name << ", " << made.bytes << " bytes";
    }
  }
}

TEST(CausalLM, AStepNeverMakesAllLogitsNorAWeight) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  LlamaConfig config = tiny_llama();
  config.vocab_size = 60000;
  CausalLM<float> model = tiny_model<float>(config);
  for_each_adapter_layer(model, [](const NamePath& path, auto& layer) {
    if (std::string(layer.module_type()) == "Embedding" || path == "lm_head") return;
    layer.add_adapter("a", rank(2));
    layer.adapters().set_active({"a"});
  });
  std::vector<std::int64_t> ids(600, 5);
  AllocationCounter counter;
  CausalLM<float>::Tape tape;
  model.loss({ids}, ids, tape);
  EXPECT_LE(counter.stop().largest, 4u * 60000 * 69);
}

TEST(CausalLMErrors, NothingIsTouched) {
  CausalLM<float> model = tiny_model<float>(tiny_llama());
  adapt_everything(model);
  zero_grad(model);
  CausalLM<float>::Tape tape;
  const std::vector<std::int64_t> ids = {1, 2, 3}, far = {1, 11, 3}, labels = {1, 2, 11},
                                  fewer = {1, 2};
  const auto loss = [&](const TokenBatch& batch, const std::vector<std::int64_t>& of) {
    model.loss(batch, of, tape);
  };
  EXPECT_TRUE(throws<ShapeError>([&] { loss({far}, ids); },
                                 {"LoRAEmbedding: ids[1] is 11, expected 0 to 10"}));
  EXPECT_TRUE(throws<Error>([&] { loss({ids}, labels); },
                            {"CausalLM::loss: labels[2] is 11, expected 0 to 10 or -100"}));
  EXPECT_TRUE(throws<ShapeError>([&] { loss({ids}, fewer); },
                                 {"there are 2 labels, expected one for each of 3 ids"}));
  const Index lengths[] = {2, 2};
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        loss({ids, lengths}, ids);
      },
      {"CausalLM::loss: lengths[1] is 2, expected 0 to 1"}));
  CausalLM<float>::LossOptions options;
  options.num_items = -1;
  EXPECT_TRUE(throws<ConfigError>([&] { model.loss({ids}, ids, tape, options); },
                                  {"CausalLM::loss: num_items is -1, expected 0 or more"}));
  model.for_each_parameter("", [](const auto&, auto& p) { EXPECT_TRUE(p.grad.isZero(0)); });

  KVCache<float> cache;
  KVCache<float>* const caches[] = {&cache, &cache};
  Matrix<float> y(1, 11), wrong(2, 11);
  const auto one = std::span<KVCache<float>* const>(caches, 1);
  EXPECT_TRUE(
      throws<ShapeError>([&] { model.decode({ids}, caches, wrong, tape); },
                         {"CausalLM::decode: there are 2 caches, expected one for each of 1 "
                          "sequences, each of at least one token"}));
  EXPECT_TRUE(throws<ShapeError>([&] { model.decode({ids}, one, wrong, tape); },
                                 {"CausalLM::decode: y is (2, 11), expected (1, 11)"}));
  EXPECT_TRUE(throws<ShapeError>([&] { model.decode({far}, one, y, tape); }, {"ids[1] is 11"}));
  EXPECT_EQ(cache.length(), 0);
}

}  // namespace causal_lm_test
