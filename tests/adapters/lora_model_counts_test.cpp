// LoRAModel: how many parameters there are and how many are trained.
#include <lora/adapters/lora_model.hpp>
#include <lora/models/mlp.hpp>

#include <gtest/gtest.h>

#include <sstream>

#include <string>
#include <vector>

#include "adapters/small_model.hpp"

namespace lora_model_counts_test {
using namespace lora;
using namespace lora_test;
using Small = SmallModel<float>;
using Model = LoRAModel<Small>;

// ---- counting ----

TEST(LoRAModel, CountsAreTheClosedForm) {
  const Index r = 3;
  LoRAConfig config = everything(r);
  config.target_modules = {"embed", "q", "v", "c", "default", "conv", "grouped", "head"};
  config.rank_pattern = {{"grouped", 4}};
  Model plain(Small{}), model(Small{}, config);
  const auto [none, base] = plain.get_nb_trainable_parameters();
  const Index weights = 11 * 6 + 6 * 6 + 6 * 6 + 6 * 7 + 7 * 7 + 7 * 5 + 3 * 12 + 4 * 6,
              biases = 6 + 7 + 5 + 3, norm = 14;
  EXPECT_EQ(none, 0);
  EXPECT_EQ(base, weights + biases + norm);
  // r (in + out); a convolution's A sees in channels · kernel, with groups B has r / groups
  // columns.
  const Index adapters =
      r * ((11 + 6) + (6 + 6) + (6 + 6) + (6 + 7) + (7 + 7) + (12 + 3) + (7 + 5)) + 4 * 12 + 4 * 2;
  const auto [trained, all] = model.get_nb_trainable_parameters();
  EXPECT_EQ(trained, adapters);
  EXPECT_EQ(all, base + adapters);

  LoRAConfig more = config_for({"q", "v"}, r);
  more.lora_bias = true;
  more.modules_to_save = {"head"};
  more.bias = "lora_only";
  Model rich(Small{}, more);
  const Index own = r * 24 + 6 + 6 + (35 + 5);
  EXPECT_EQ(rich.get_nb_trainable_parameters(), (std::pair<Index, Index>(own + 6, base + own)));
  const ModelStatus status = rich.get_model_status();
  EXPECT_EQ(status.trainable_params, own + 6);
  EXPECT_EQ(status.total_params, base + own);
  EXPECT_EQ(status.num_adapter_layers, 2);
}

TEST(LoRAModel, PrintsWhatPeftPrints) {
  LoRAModel<MLP<float>> model(MLP<float>({300, 200, 10}), config_for({"layers.0"}, 8, 8));
  const Index trained = 8 * 500, all = trained + 300 * 200 + 200 + 2000 + 10;
  EXPECT_EQ(trained, 4000);
  EXPECT_EQ(all, 66210);
  EXPECT_EQ(model.trainable_parameters_text(),
            "trainable params: 4,000 || all params: 66,210 || trainable%: 6.0414");
  EXPECT_EQ(LoRAModel<MLP<float>>(MLP<float>({3, 2})).trainable_parameters_text(),
            "trainable params: 0 || all params: 8 || trainable%: 0.0000");
  std::ostringstream out;
  model.print_trainable_parameters(out);
  EXPECT_EQ(out.str(), model.trainable_parameters_text() + "\n");
}

/// A linear layer or embedding that has the sizes of a large model and the memory of a small one: W
/// is not there.
struct NominalLayer : LoRALinear<float> {
  Index out = 0, in = 0;
  const char* type = "Linear";
  NominalLayer() = default;
  NominalLayer(Index o, Index d, const char* t = "Linear")
      : LoRALinear<float>(Matrix<float>(1, 1)), out(o), in(d), type(t) {}
  const char* module_type() const { return type; }
  Index frozen_size() const { return out * in; }
  Adapter<float> new_adapter(const std::string& name, const AdapterOptions& options = {}) const {
    Adapter<float> adapter = make_adapter<float>(name, options);
    adapter.A = Parameter<float>(Matrix<float>::Zero(options.r, in));
    adapter.B = Parameter<float>(Matrix<float>::Zero(out, options.r));
    return adapter;
  }
};
/// Llama-3.2-3B: 28 layers, hidden 3072, key and value 1024, feed-forward 8192, vocabulary 128256,
/// tied head.
struct Llama3B {
  using Scalar = float;
  static constexpr Index hidden = 3072;
  struct Block {
    NominalLayer q{hidden, hidden}, k{1024, hidden}, v{1024, hidden}, o{hidden, hidden},
        gate{8192, hidden}, up{8192, hidden}, down{hidden, 8192};
    Parameter<float> norms{Matrix<float>(2, hidden)};
  };
  NominalLayer embed{128256, hidden, "Embedding"}, head = embed;
  std::vector<Block> blocks = std::vector<Block>(28);
  Parameter<float> norm{Matrix<float>(1, hidden)};

  Llama3B() { head.type = "Linear"; }
  std::string output_module() const { return "lm_head"; }
  std::string model_type() const { return "llama"; }
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    fn(NamePath(prefix, "model.embed_tokens"), embed);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const NamePath block(prefix, "model.layers", static_cast<Index>(i));
      fn(NamePath(block, "self_attn.q_proj"), blocks[i].q);
      fn(NamePath(block, "self_attn.k_proj"), blocks[i].k);
      fn(NamePath(block, "self_attn.v_proj"), blocks[i].v);
      fn(NamePath(block, "self_attn.o_proj"), blocks[i].o);
      fn(NamePath(block, "mlp.gate_proj"), blocks[i].gate);
      fn(NamePath(block, "mlp.up_proj"), blocks[i].up);
      fn(NamePath(block, "mlp.down_proj"), blocks[i].down);
    }
    fn(NamePath(prefix, "lm_head"), head);
  }
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    for_each_module(prefix,
                    [&](const NamePath& name, auto& layer) { layer.for_each_parameter(name, fn); });
    for (Block& block : blocks) fn(NamePath(prefix, "norms"), block.norms);
    fn(NamePath(prefix, "model.norm.weight"), norm);
  }
};

TEST(LoRAModel, CountsLlama32AsPeftPublishedIt) {
  LoRAConfig config;
  config.r = 32;
  config.lora_alpha = 64;
  const LoRAModel<Llama3B> qv(Llama3B{}, config);  // the default targets of its type
  EXPECT_EQ(qv.trainable_parameters_text(),
            "trainable params: 9,175,040 || all params: 3,221,924,864 || trainable%: 0.2848");
  const LoRAModel<Llama3B> mlp(Llama3B{}, config_for({"gate_proj", "up_proj", "down_proj"}, 10));
  EXPECT_EQ(mlp.get_nb_trainable_parameters().first, 9461760);
}

}  // namespace lora_model_counts_test
