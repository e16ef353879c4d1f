// What is on which layer: LayerStatus, ModelStatus, and the text with the numbers of parameters.
#include <lora/adapters/lora_model.hpp>

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adapters/small_model.hpp"

namespace status_test {
using namespace lora;
using namespace lora_test;
using Names = std::vector<std::string>;
using Small = SmallModel<float>;
using Model = LoRAModel<Small>;

/// "a" on everything, active, and "b" on q and head.
Model two_adapters() {
  Model model(Small{}, everything(), "a");
  model.add_adapter("b", config_for({"q", "head"}, 3, 2));
  return model;
}

TEST(Status, TrainableText) {
  EXPECT_EQ(trainable_text(9175040, 3221924864),
            "trainable params: 9,175,040 || all params: 3,221,924,864 || trainable%: 0.2848");
  EXPECT_EQ(trainable_text(0, 0), "trainable params: 0 || all params: 0 || trainable%: 0.0000");
  EXPECT_EQ(trainable_text(999, 999),
            "trainable params: 999 || all params: 999 || trainable%: 100.0000");
  EXPECT_EQ(trainable_text(1000, 123456),
            "trainable params: 1,000 || all params: 123,456 || trainable%: 0.8100");
}

LayerStatus status_of(Names available, Names active, Names merged,
                      std::optional<bool> trained = true) {
  LayerStatus status;
  status.available_adapters = available;
  status.active_adapters = active;
  status.merged_adapters = merged;
  for (const std::string& name : available) status.requires_grad[name] = trained;
  return status;
}

TEST(Status, AnAdapterThatALayerLacksIsNotIrregularThere) {
  const ModelStatus status =
      summarize({status_of({"a"}, {"a"}, {"a"}), status_of({"b"}, {"b"}, {"b"}),
                 status_of({"a", "b"}, {"a", "b"}, {"b", "a"})});
  EXPECT_EQ(status.num_adapter_layers, 3);
  EXPECT_EQ(status.active_adapters, (Names{"a", "b"}));
  EXPECT_EQ(status.merged_adapters, (Names{"a", "b"}));
  EXPECT_EQ(status.requires_grad.at("a"), true);
}

TEST(Status, WhatDiffersIsEmptyWhereverTheDifferenceLies) {
  const LayerStatus on = status_of({"a"}, {"a"}, {"a"}), off = status_of({"a"}, {}, {}, false);
  for (const auto& layers :
       {std::vector{on, on, off}, std::vector{off, on, on}, std::vector{on, off, on}}) {
    const ModelStatus status = summarize(layers);
    EXPECT_EQ(status.active_adapters, std::nullopt);
    EXPECT_EQ(status.merged_adapters, std::nullopt);
    EXPECT_EQ(status.requires_grad.at("a"), std::nullopt);
    EXPECT_EQ(status.enabled, true);
  }
  EXPECT_EQ(summarize({on, status_of({"a"}, {"a"}, {"a"}, std::nullopt)}).requires_grad.at("a"),
            std::nullopt);
  EXPECT_EQ(summarize({off, off}).requires_grad.at("a"), false);
  LayerStatus disabled = on;
  disabled.enabled = false;
  EXPECT_EQ(summarize({disabled, on, disabled}).enabled, std::nullopt);
  EXPECT_EQ(summarize({disabled, disabled}).enabled, false);
}

TEST(Status, EveryAdaptedLayerTellsWhatItHas) {
  Model model = two_adapters();
  LoRAConfig saved = config_for({"v"});
  saved.modules_to_save = {"grouped"};
  model.add_adapter("0", saved);
  model.set_adapter({"b", "a"});
  model.merge_adapter({"a"});
  const std::vector<LayerStatus> layers = model.get_layer_status();
  Names names, types;
  for (const LayerStatus& layer : layers) {
    names.push_back(layer.name);
    types.push_back(layer.module_type);
    EXPECT_TRUE(layer.enabled);
    EXPECT_EQ(layer.merged_adapters, Names{"a"});
  }
  EXPECT_EQ(names, (Names{"embed", "block.0.q", "block.0.v", "block.0.c", "lora_A.default", "conv",
                          "head"}));
  EXPECT_EQ(types, (Names{"lora.Embedding", "lora.Linear", "lora.Linear", "lora.Linear",
                          "lora.Linear", "lora.Conv2d", "lora.Linear"}));
  EXPECT_EQ(layers[1].active_adapters, (Names{"b", "a"}));
  EXPECT_EQ(layers[2].active_adapters, Names{"a"});
  EXPECT_EQ(layers[2].available_adapters, (Names{"0", "a"}));
  EXPECT_EQ(layers[2].requires_grad.at("a"), true);
  EXPECT_EQ(layers[2].requires_grad.at("0"), false);
  const ModelStatus status = model.get_model_status();
  EXPECT_EQ(status.num_adapter_layers, 7);
  EXPECT_EQ(status.enabled, true);
  EXPECT_EQ(status.active_adapters, (Names{"a", "b"}));
  EXPECT_EQ(status.merged_adapters, Names{"a"});
  EXPECT_EQ(status.available_adapters, (Names{"0", "a", "b"}));
  EXPECT_EQ(status.requires_grad.at("b"), true);
  EXPECT_EQ(std::pair(status.trainable_params, status.total_params),
            model.get_nb_trainable_parameters());
}

TEST(Status, AModelShowsWhatIsIrregular) {
  Model model = two_adapters();
  model.base().v.adapters().set_enabled(false);
  EXPECT_EQ(model.get_model_status().enabled, std::nullopt);
  model.base().v.adapters().set_enabled(true);
  model.base().c.adapters().set_active({});
  EXPECT_EQ(model.get_model_status().active_adapters, std::nullopt);
  EXPECT_EQ(model.get_model_status().requires_grad.at("a"), std::nullopt);
  EXPECT_EQ(model.get_model_status().requires_grad.at("b"), false);
  model.set_adapter("a");
  EXPECT_EQ(model.get_model_status().active_adapters, Names{"a"});
  model.base().head.merge({"b"});
  EXPECT_EQ(model.get_model_status().merged_adapters, std::nullopt);
  EXPECT_EQ(model.merged_adapters(), Names{"b"});
  model.unmerge_adapter();
  model.base().q.adapters().get("a").A.set_trainable(false);
  EXPECT_EQ(model.get_layer_status()[1].requires_grad.at("a"), std::nullopt);
}

TEST(Status, AModelWithoutAdaptersHasAnEmptyStatus) {
  const Model model(Small{});
  EXPECT_TRUE(model.get_layer_status().empty());
  const ModelStatus status = model.get_model_status();
  EXPECT_EQ(status.num_adapter_layers, 0);
  EXPECT_EQ(status.enabled, true);
  EXPECT_EQ(status.active_adapters, Names{});
  EXPECT_EQ(status.total_params, 359);
}

}  // namespace status_test
