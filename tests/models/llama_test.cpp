// Llama below its head: gradients of hidden states, tapes, checkpointing and errors. The whole with
// its head is causal_lm_test, its numbers golden_models_test.
#include <lora/models/llama.hpp>

#include <gtest/gtest.h>

#include "models/tiny_models.hpp"

namespace llama_test {
using namespace lora;
using namespace lora_test;

template <class S>
Llama<S> trained(const LlamaConfig& config) {
  TestWeights<S> source;
  Llama<S> model(config, source);
  model.for_each_module("", [](const NamePath&, auto& module) {
    if constexpr (requires { module.train_base(); }) module.train_base();
  });
  return model;
}
Matrix<double>& gradient_of(Llama<double>& model, const std::string& name) {
  Matrix<double>* found = nullptr;
  model.for_each_module("", [&](const NamePath& path, auto& module) {
    module.for_each_parameter(path, [&](const NamePath& own, auto& p) {
      if (own.str() == name) found = &p.grad;
    });
  });
  return *found;
}

TEST(Llama, BackwardTwiceAddsTheSameAgain) {
  for (const Keep keep : {Keep::inputs, Keep::everything}) {
    Llama<double> model = trained<double>(tiny_llama());
    const TinyText text;
    const Matrix<double> dhidden = random_matrix(9, 7, "dhidden");
    Matrix<double> hidden(9, 7);
    Llama<double>::Tape tape;
    model.forward(text.batch(), hidden, tape, {}, keep);
    model.backward(text.batch(), dhidden, tape);
    const std::string name = "layers.0.self_attn.k_proj.weight";
    const Matrix<double> once = gradient_of(model, name);
    EXPECT_GT(once.norm(), 0);
    model.backward(text.batch(), dhidden, tape);
    EXPECT_TRUE(gradient_of(model, name).isApprox(2 * once, 1e-14));
  }
}

TEST(Llama, WithoutLayersItIsTheNormOfTheTable) {
  LlamaConfig config = tiny_llama();
  config.num_hidden_layers = 0;
  Llama<double> model = trained<double>(config);
  const TinyText text;
  Matrix<double> hidden(9, 7);
  Llama<double>::Tape tape;
  model.forward(text.batch(), hidden, tape);
  EXPECT_TRUE(same_bits(Matrix<double>(hidden.row(1)), Matrix<double>(hidden.row(3))));
  model.backward(text.batch(), hidden, tape);
  EXPECT_GT(gradient_of(model, "embed_tokens.weight").norm(), 0);
}

TEST(LlamaErrors, TapesAndShapes) {
  Llama<double> model = trained<double>(tiny_llama());
  const TinyText text;
  Matrix<double> hidden(9, 7), wrong(9, 6);
  Llama<double>::Tape tape;
  EXPECT_TRUE(throws<ShapeError>([&] { model.forward(text.batch(), wrong, tape); },
                                 {"Llama::forward: hidden is (9, 6), expected (9, 7)"}));
  const char* unseen = "Llama::backward: the tape has seen no forward of this model that kept";
  EXPECT_TRUE(throws<Error>([&] { model.backward(text.batch(), hidden, tape); }, {unseen}));
  model.forward(text.batch(), hidden, tape, {}, Keep::nothing);
  EXPECT_TRUE(throws<Error>([&] { model.backward(text.batch(), hidden, tape); }, {unseen}));
  model.forward(text.batch(), hidden, tape);
  EXPECT_TRUE(throws<ShapeError>([&] { model.backward(text.batch(), wrong, tape); },
                                 {"Llama::backward: dhidden is (9, 6), expected (9, 7)"}));
  const std::vector<std::int64_t> fewer = {1, 2};
  EXPECT_TRUE(throws<ShapeError>([&] { model.backward({fewer}, hidden.topRows(2), tape); },
                                 {"Llama::backward: dhidden is (2, 7), expected (9, 7)"}));
  Llama<double> other = trained<double>(tiny_llama());
  EXPECT_TRUE(throws<Error>([&] { other.backward(text.batch(), hidden, tape); },
                            {"LoRALinear::backward: the tape was made by another layer"}));
  EXPECT_TRUE(gradient_of(other, "layers.1.mlp.down_proj.weight").isZero(0));
  const std::vector<std::int64_t> bad = {1, 99};
  EXPECT_TRUE(throws<ShapeError>(
      [&] {
        Matrix<double> y(2, 7);
        model.forward({bad}, y, tape);
      },
      {"ids[1] is 99"}));
  EXPECT_TRUE(throws<Error>([&] { model.backward(text.batch(), hidden, tape); }, {unseen}));
  KVCache<double> cache;
  KVCache<double>* const caches[] = {&cache};
  EXPECT_TRUE(throws<ShapeError>(
      [&] { model.forward(text.batch(), hidden, tape, {}, Keep::nothing, caches); },
      {"Llama::forward: there are 1 caches, expected one for each of 3 sequences"}));
  LlamaConfig config = tiny_llama();
  config.head_dim = 3;
  TestWeights<double> source;
  EXPECT_TRUE(
      throws<ConfigError>([&] { Llama<double>(config, source); }, {"LlamaConfig: head_dim is 3"}));
}

}  // namespace llama_test
