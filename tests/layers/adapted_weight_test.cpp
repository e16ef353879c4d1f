// What all adapted layers share: their list of parameters, full fine-tuning, deletion and
// unloading.
#include <lora/layers/lora_conv2d.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/lora_linear.hpp>

#include <gtest/gtest.h>

#include "layers/layer_tools.hpp"

namespace adapted_weight_test {
using namespace lora;
using namespace lora_test;
using Names = std::vector<std::string>;

LoRALinear<double> layer_of(bool bias = true) {
  return LoRALinear<double>(random_matrix(5, 7, "W"),
                            bias ? random_matrix(1, 5, "b") : Matrix<double>());
}
template <class Layer>
Names names_of(Layer& layer, const std::string& prefix = "m") {
  Names names;
  layer.for_each_parameter(prefix, [&](const NamePath& name, auto&) { names.push_back(name); });
  return names;
}
Matrix<double> output_of(const LoRALinear<double>& layer) {
  Matrix<double> y(4, 5);
  layer.forward(random_matrix(4, 7, "x"), y);
  return y;
}

TEST(AdaptedWeight, ParametersUnderPeftsNames) {
  LoRALinear<double> layer = layer_of(), bare = layer_of(false);
  EXPECT_EQ(names_of(layer), Names{"m.bias"});
  EXPECT_TRUE(names_of(bare).empty());
  AdapterOptions biased = rank(2);
  biased.lora_bias = true;
  layer.add_adapter("z", biased);
  layer.add_adapter("a", rank(3));
  bare.add_adapter("z", rank(3));
  EXPECT_EQ(names_of(layer), (Names{"m.base_layer.bias", "m.lora_A.z.weight", "m.lora_B.z.weight",
                                    "m.lora_B.z.bias", "m.lora_A.a.weight", "m.lora_B.a.weight"}));
  EXPECT_EQ(names_of(layer, "").front(), "base_layer.bias");
  EXPECT_EQ(names_of(bare), (Names{"m.lora_A.z.weight", "m.lora_B.z.weight"}));
  LoRAEmbedding<double> embedding(random_matrix(9, 4, "E"));
  embedding.add_adapter("z", rank(3));
  EXPECT_EQ(names_of(embedding), (Names{"m.lora_embedding_A.z", "m.lora_embedding_B.z"}));
}

TEST(AdaptedWeight, TrainedCopiesAreParametersToo) {
  LoRALinear<double> layer = layer_of(), bare = layer_of(false);
  layer.add_trained_copy("z");
  EXPECT_EQ(names_of(layer),
            (Names{"m.bias", "m.modules_to_save.z.weight", "m.modules_to_save.z.bias"}));
  layer.delete_adapter("z");
  layer.train_base();
  EXPECT_EQ(names_of(layer), (Names{"m.weight", "m.bias"}))
      << "the frozen bias is not listed beside the trained one";
  bare.train_base();
  EXPECT_EQ(names_of(bare), Names{"m.weight"});
}

TEST(AdaptedWeight, Counts) {
  LoRALinear<double> layer = layer_of();
  layer.add_adapter("a", rank(2));
  EXPECT_EQ(layer.frozen_size(), 35);
  EXPECT_EQ(count_parameters(layer).listed, 5 + 14 + 10);
  EXPECT_EQ(count_parameters(layer).trainable, 0);
  layer.adapters().set_active({"a"});
  EXPECT_EQ(count_parameters(layer).trainable, 24);
  layer.delete_adapter("a");
  layer.train_base();
  EXPECT_EQ(layer.frozen_size(), 0);
  EXPECT_EQ(count_parameters(layer).listed, 35 + 5);
}

TEST(AdaptedWeight, FullFineTuningBeginsAtTheBaseAndBecomesIt) {
  LoRALinear<double> layer = layer_of();
  const FrozenWeight<double> before = layer.weight();
  const Matrix<double> y = output_of(layer);
  EXPECT_TRUE(
      throws<Error>([&] { layer.freeze_base(); }, {"freeze_base: the base is not being trained"}));
  layer.train_base();
  EXPECT_TRUE(throws<ConfigError>([&] { layer.train_base(); },
                                  {"a trained copy called \"__base__\" is already there"}));
  EXPECT_TRUE(same_bits(output_of(layer), y));
  parameter_of(layer, "weight").value *= 2;
  parameter_of(layer, "bias").value *= 2;
  const Matrix<double> trained = output_of(layer);
  EXPECT_TRUE(same_bits(trained, Matrix<double>(2 * y))) << "doubling is exact";
  EXPECT_TRUE(layer.weight().shares_storage_with(before));
  layer.freeze_base();
  EXPECT_TRUE(same_bits(output_of(layer), trained));
  EXPECT_FALSE(layer.weight().shares_storage_with(before));
  EXPECT_TRUE(layer.trained_copies().empty());
  EXPECT_EQ(count_parameters(layer).trainable, 0);
}

// An adapter on a base that is trained whole would do nothing and learn nothing, and merging it
// would be lost.
TEST(AdaptedWeight, FullFineTuningAndAdaptersDoNotMeet) {
  const auto check = [](auto layer, const char* where) {
    layer.train_base();
    EXPECT_TRUE(layer.base_trained());
    EXPECT_TRUE(
        throws<Error>([&] { layer.add_adapter("a", rank(2)); },
                      {where, "add_adapter: the base of this layer is being trained (train_base)",
                       "call freeze_base() first"}));
    EXPECT_TRUE(throws<Error>([&] { layer.add_trained_copy("a"); },
                              {"add_trained_copy: the base of this layer is being trained"}));
    EXPECT_FALSE(layer.knows("a"));
    layer.freeze_base();
    EXPECT_FALSE(layer.base_trained());
    layer.add_adapter("a", rank(2));
    const auto refuses = [&] {
      return throws<Error>([&] { layer.train_base(); },
                           {"train_base: the layer has adapters or trained copies",
                            "delete them or unload() first"});
    };
    EXPECT_TRUE(refuses());
    layer.merge({"a"});
    EXPECT_TRUE(refuses());
    layer.unmerge();
    layer.delete_adapter("a");
    layer.add_trained_copy("a");
    EXPECT_TRUE(refuses());
    EXPECT_FALSE(layer.base_trained());
    layer.unload();
    EXPECT_NO_THROW(layer.train_base());
  };
  check(layer_of(), "LoRALinear");
  check(LoRAEmbedding<double>(random_matrix(9, 4, "E")), "LoRAEmbedding");
  check(LoRAConv2d<double>(random_matrix(3, 4, "W"), {.kernel = {2, 2}}), "LoRAConv2d");
}

TEST(AdaptedWeight, FullFineTuningIsNotDeletedLikeAnAdapter) {
  LoRALinear<double> layer = layer_of();
  layer.train_base();
  parameter_of(layer, "weight").value.setOnes();
  const Matrix<double> y = output_of(layer);
  EXPECT_TRUE(
      throws<ConfigError>([&] { layer.delete_adapter("__base__"); },
                          {"delete_adapter: \"__base__\" is not an adapter; freeze_base() or "
                           "unload() ends full fine-tuning"}));
  EXPECT_TRUE(same_bits(output_of(layer), y));
}

TEST(AdaptedWeight, ABiasThatIsTrainedWhileMergedActsAndStays) {
  AdapterOptions options = rank(2);
  for (const bool lora_bias : {false, true}) {
    options.lora_bias = lora_bias;
    LoRALinear<double> layer = layer_of(), later = layer_of();
    add_full_adapter(layer, "a", options);
    add_full_adapter(later, "a", options);
    layer.merge({"a"});
    const Matrix<double> x = random_matrix(4, 7, "x"), dy = random_matrix(4, 5, "dy"),
                         before = output_of(layer), bias = layer.bias().value;
    Matrix<double> y(4, 5);
    LoRALinear<double>::Tape tape;
    layer.bias().set_trainable(true);
    layer.forward(x, y, &tape);
    layer.backward(x, dy, tape, nullptr);
    EXPECT_TRUE(same_bits(layer.bias().grad, Matrix<double>(dy.colwise().sum())));
    layer.bias().value -= layer.bias().grad;
    later.bias().value = layer.bias().value;
    later.merge({"a"});
    EXPECT_TRUE(same_bits(output_of(layer), output_of(later))) << "whether before or after merging";
    EXPECT_GT((output_of(layer) - before).cwiseAbs().maxCoeff(), 0.1);
    LoRALinear<double> unmerged = layer;
    unmerged.unmerge();
    EXPECT_TRUE(same_bits(unmerged.bias().value, Matrix<double>(bias - dy.colwise().sum())));
    EXPECT_TRUE(same_bits(output_of(unmerged),
                          output_of(LoRALinear<double>(layer.weight(), layer.bias().value))));
    const Matrix<double> merged = output_of(layer);
    layer.unload();
    EXPECT_TRUE(same_bits(output_of(layer), merged)) << "unloaded";
    EXPECT_TRUE(same_bits(layer.bias().value, unmerged.bias().value) != lora_bias);
  }
}

TEST(AdaptedWeight, ConvOneDKeepsItsOrientationWhenTheBaseIsTrained) {
  LoRALinear<double> layer(FrozenWeight<double>(random_matrix(7, 5, "W"), Layout::in_out));
  layer.train_base();
  EXPECT_EQ(parameter_of(layer, "weight").shape, (std::vector<Index>{7, 5}));
  EXPECT_TRUE(same_bits(parameter_of(layer, "weight").value, random_matrix(7, 5, "W")));
  const Matrix<double> y = output_of(layer);
  layer.freeze_base();
  EXPECT_EQ(layer.weight().layout(), Layout::in_out);
  EXPECT_TRUE(same_bits(output_of(layer), y));
}

TEST(AdaptedWeight, DeletingAnAdapterDeletesItsCopy) {
  LoRALinear<double> layer = layer_of();
  add_full_adapter(layer, "a", rank(2));
  add_full_adapter(layer, "b", rank(2));
  layer.add_trained_copy("b");
  layer.add_trained_copy("only a copy");
  const auto unknown = [&](const char* name) {
    return throws<ConfigError>([&] { layer.delete_adapter(name); },
                               {"no adapter is called \"", name, "there are: a"});
  };
  EXPECT_TRUE(unknown("nobody"));
  layer.delete_adapter("b");
  EXPECT_EQ(layer.adapters().names(), Names{"a"});
  EXPECT_EQ(layer.trained_copies().find("b"), nullptr);
  layer.delete_adapter("only a copy");
  EXPECT_TRUE(layer.trained_copies().empty());
  EXPECT_TRUE(unknown("b"));
}

TEST(AdaptedWeight, UnloadingGivesBackTheBase) {
  LoRALinear<double> layer = layer_of();
  const Matrix<double> y = output_of(layer);
  const FrozenWeight<double> weight = layer.weight();
  add_full_adapter(layer, "a", rank(2));
  layer.add_trained_copy("a");
  layer.adapters().set_active({"a"});
  layer.adapters().set_enabled(false);
  layer.bias().set_trainable(true);
  layer.unload();
  EXPECT_TRUE(layer.adapters().empty() && layer.trained_copies().empty() &&
              layer.adapters().enabled());
  EXPECT_TRUE(layer.weight().shares_storage_with(weight));
  EXPECT_TRUE(same_bits(output_of(layer), y));
  EXPECT_EQ(count_parameters(layer).trainable, 0);
}

TEST(AdaptedWeight, UnloadingKeepsWhatIsMergedOrTheCopyAskedFor) {
  LoRALinear<double> layer = layer_of();
  AdapterOptions options = rank(2);
  options.lora_bias = true;
  add_full_adapter(layer, "a", options);
  LoRALinear<double> copied = layer;
  layer.merge({"a"});
  const Matrix<double> merged = output_of(layer);
  layer.unload();
  EXPECT_TRUE(same_bits(output_of(layer), merged));
  copied.add_trained_copy("a");
  copied.trained_copies().activate("a");
  copied.trained_copies().find("a")->weight.value.setOnes();
  copied.trained_copies().find("a")->bias.value.setOnes();
  const Matrix<double> saved = output_of(copied);
  copied.unload("a");
  EXPECT_TRUE(same_bits(output_of(copied), saved));
}

TEST(AdaptedWeight, NamesOfItsOwn) {
  const std::string a = "a_name_that_needs_the_heap", b = "b_name_that_needs_the_heap";
  const auto make = [&] {
    LoRALinear<double> layer(Matrix<double>::Constant(2, 3, 0.5));
    for (const std::string& name : {a, b}) layer.add_adapter(name, {.r = 1});
    layer.adapters().set_active({a, b});
    return layer;
  };
  Matrix<double> x = Matrix<double>::Ones(2, 3), y(2, 2), expected(2, 2);
  LoRALinear<double> layer = make();
  for (auto& adapter : layer.adapters().all())
    layer.rename_adapter(adapter.name, "x_" + adapter.name);
  EXPECT_EQ(layer.adapters().active(), layer.adapters().names());
  layer.forward(x, y);
  layer.delete_adapter(layer.adapters().all()[0].name);
  EXPECT_EQ(layer.adapters().active(), std::vector<std::string>{"x_" + b});
  layer.forward(x, y);
  layer.merge(layer.adapters().active());
  layer.rename_adapter(layer.adapters().merged()[0], "m");
  EXPECT_EQ(layer.adapters().merged(), std::vector<std::string>{"m"});
  layer.unmerge();
  layer.rename_adapter("m", layer.adapters().all()[0].name);  // the new name too
  layer.add_adapter(std::string(layer.adapters().all()[0].name) + "2", {.r = 1});

  LoRALinear<double> saved(Matrix<double>::Constant(2, 3, 0.5));
  saved.add_trained_copy(a);
  saved.trained_copies().activate(saved.trained_copies().all()[0].name);
  saved.trained_copies().all()[0].weight.value.setZero();
  saved.forward(x, expected);
  EXPECT_EQ(expected.norm(), 0);
  saved.rename_adapter(saved.trained_copies().all()[0].name, "z");
  saved.forward(x, y);
  EXPECT_EQ(y, expected) << "the copy acts still";
  saved.add_trained_copy(b);
  saved.delete_adapter(saved.trained_copies().all()[0].name);
  ASSERT_EQ(saved.trained_copies().all().size(), 1u);
  EXPECT_EQ(saved.trained_copies().all()[0].name, b);
  saved.unload(saved.trained_copies().all()[0].name);
  EXPECT_TRUE(saved.trained_copies().empty());
}

template <class Layer>
void expect_moved_from(Layer layer, typename Layer::Tape tape) {
  const char* text = "was moved from";
  const Layer elsewhere = std::move(layer);
  Matrix<double> none(0, 0);
  EXPECT_TRUE(throws<Error>([&] { layer.weight().rows(); }, {text}));
  EXPECT_TRUE(throws<Error>([&] { layer.add_adapter("c", {.r = 1}); }, {text}));
  EXPECT_TRUE(throws<Error>([&] { layer.train_base(); }, {text}));
  EXPECT_TRUE(throws<Error>([&] { layer.module_type(), layer.weight().stored(); }, {text}));
  EXPECT_TRUE(throws<Error>([&] { layer.frozen_size(); }, {text}));
  EXPECT_TRUE(throws<ConfigError>([&] { layer.delete_adapter("a"); }, {"no adapter is called"}));
  EXPECT_TRUE(throws<Error>([&] { layer.unmerge(); }, {"no adapter is merged"}));
  EXPECT_NO_THROW(layer.rename_adapter("a", "b"));
  const Layer copy = layer;
  EXPECT_TRUE(throws<Error>([&] { copy.weight().cols(); }, {text}));
  if constexpr (std::is_same_v<Layer, LoRAConv2d<double>>) {
    EXPECT_TRUE(throws<Error>([&] { layer.forward(none, {1, 1}, none); }, {text}));
    EXPECT_TRUE(throws<Error>([&] { layer.backward(none, none, tape, nullptr); }, {text}));
  } else if constexpr (std::is_same_v<Layer, LoRAEmbedding<double>>) {
    EXPECT_TRUE(throws<Error>([&] { layer.forward({}, none); }, {text}));
    EXPECT_TRUE(throws<Error>([&] { layer.backward({}, none, tape); }, {text}));
  } else {
    EXPECT_TRUE(throws<Error>([&] { layer.forward(none, none); }, {text}));
    EXPECT_TRUE(throws<Error>([&] { layer.backward(none, none, tape, &none); },
                              {"the tape was made by another layer"}));
  }
  layer = elsewhere;  // good again
  EXPECT_EQ(layer.weight().rows(), elsewhere.weight().rows());
  EXPECT_TRUE(layer.adapters().contains("a"));
}

TEST(AdaptedWeight, AMovedFromLayerThrows) {
  Matrix<double> x = Matrix<double>::Ones(1, 3), y(1, 2), image(1, 3), out(1, 2);
  LoRALinear<double> linear(Matrix<double>::Constant(2, 3, 0.5));
  linear.add_adapter("a", {.r = 1});
  linear.adapters().set_active({"a"});
  LoRALinear<double>::Tape tape;
  linear.forward(x, y, &tape);
  expect_moved_from(linear, tape);
  LoRAEmbedding<double> embedding(Matrix<double>::Constant(2, 3, 0.5));
  embedding.add_adapter("a", {.r = 1});
  embedding.adapters().set_active({"a"});
  LoRAEmbedding<double>::Tape embedding_tape;
  const std::vector<std::int64_t> ids = {1};
  embedding.forward(ids, x, &embedding_tape);
  expect_moved_from(embedding, embedding_tape);
  LoRAConv2d<double> conv(Matrix<double>::Constant(2, 3, 0.5), {});
  conv.add_adapter("a", {.r = 1});
  conv.adapters().set_active({"a"});
  LoRAConv2d<double>::Tape conv_tape;
  conv.forward(image, {1, 1}, out, &conv_tape);
  expect_moved_from(conv, conv_tape);

  // A tape that was moved from has lost what it counts.
  const auto moved = std::move(tape);
  const auto moved_embedding = std::move(embedding_tape);
  const auto moved_conv = std::move(conv_tape);
  const char* text = "the tape has seen no forward";
  EXPECT_TRUE(throws<Error>([&] { linear.backward(x, y, tape, nullptr); }, {text}));
  EXPECT_TRUE(throws<Error>([&] { embedding.backward(ids, x, embedding_tape); }, {text}));
  EXPECT_TRUE(throws<Error>([&] { conv.backward(image, out, conv_tape, nullptr); }, {text}));
}

}  // namespace adapted_weight_test
