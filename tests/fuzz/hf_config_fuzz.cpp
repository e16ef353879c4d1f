// config.json: what is read can be said again, and then means the same model; a small one is built
// and gives numbers.
#include <lora/io/hf/hf_config_fields.hpp>
#include <lora/models/causal_lm.hpp>

#include <algorithm>

#include "fuzz.hpp"
#include "json_mutator.hpp"

namespace {
using namespace lora;
using lora_fuzz::expect;

// Adds up what a model asks for, and stops where that is more than can be run a thousand times a
// second.
struct Small {
  Index elements = 0;

  void add(Index rows, Index cols) {
    elements += rows * cols;
    if (elements > 6000) throw Error("larger than is built here");
  }
  FrozenWeight<float> matrix(const std::string& name, Index O, Index D, Layout layout) {
    add(O, D);
    return RandomWeights<float>{1, 0.5}.matrix(name, O, D, layout);
  }
  Matrix<float> vector(const std::string& name, Index n) {
    add(1, n);
    return RandomWeights<float>{}.vector(name, n);
  }
};

Index positions(const CausalLMConfig& config) {
  const auto* const gpt2 = std::get_if<GPT2Config>(&config);
  return gpt2 != nullptr ? gpt2->n_positions
                         : std::get<LlamaConfig>(config).max_position_embeddings;
}

void run(const CausalLMConfig& config) {
  Small weights;
  const CausalLM<float> model(config, weights);
  std::vector<std::int64_t> ids;
  const Index tokens = std::min<Index>(5, positions(config));
  for (Index t = 0; t < tokens; ++t) ids.push_back(t % model.vocab_size());
  const Matrix<float> logits = model.logits({ids});
  expect(logits.rows() == tokens && logits.cols() == model.vocab_size(), "logits of another shape");
  expect(logits.allFinite(), "logits that are no numbers");
}

void read_and_write(std::string_view text) {
  const HFConfig read = parse_hf_config(parse_json(text, "fuzz"), "fuzz");
  // hf_config_fields reads its own fields and throws unless they mean this model.
  const Json kept = hf_config_fields(read.model, read.dtype.value_or(DType::F32), read.fields);
  expect(parse_hf_config(kept, "again").dtype == read.dtype.value_or(DType::F32),
         "another dtype when written again");
  const Json fresh = hf_config_fields(read.model, DType::BF16);
  expect(parse_hf_config(fresh, "fresh").model == read.model, "another model in fresh fields");
  run(read.model);
}

}  // namespace

std::span<const std::string_view> lora_fuzz::words() {
  static constexpr std::string_view all[] = {"model_type",
                                             "architectures",
                                             "vocab_size",
                                             "hidden_size",
                                             "intermediate_size",
                                             "num_hidden_layers",
                                             "num_attention_heads",
                                             "num_key_value_heads",
                                             "head_dim",
                                             "max_position_embeddings",
                                             "rms_norm_eps",
                                             "rope_theta",
                                             "rope_scaling",
                                             "rope_parameters",
                                             "rope_type",
                                             "type",
                                             "factor",
                                             "low_freq_factor",
                                             "high_freq_factor",
                                             "original_max_position_embeddings",
                                             "partial_rotary_factor",
                                             "attention_factor",
                                             "beta_fast",
                                             "hidden_act",
                                             "tie_word_embeddings",
                                             "attention_bias",
                                             "mlp_bias",
                                             "sliding_window",
                                             "use_sliding_window",
                                             "max_window_layers",
                                             "layer_types",
                                             "full_attention",
                                             "sliding_attention",
                                             "dtype",
                                             "torch_dtype",
                                             "float32",
                                             "bfloat16",
                                             "float16",
                                             "float64",
                                             "llama",
                                             "mistral",
                                             "qwen2",
                                             "qwen3",
                                             "gpt2",
                                             "n_positions",
                                             "n_embd",
                                             "n_layer",
                                             "n_head",
                                             "n_inner",
                                             "layer_norm_epsilon",
                                             "activation_function",
                                             "silu",
                                             "gelu",
                                             "gelu_new",
                                             "gelu_pytorch_tanh",
                                             "relu",
                                             "tanh",
                                             "linear",
                                             "dynamic",
                                             "llama3",
                                             "yarn",
                                             "default",
                                             "scale_attn_weights",
                                             "scale_attn_by_inverse_layer_idx",
                                             "quantization_config",
                                             "num_experts",
                                             "pretraining_tp",
                                             "is_decoder",
                                             "add_cross_attention",
                                             "chunk_size_feed_forward",
                                             "LlamaForCausalLM",
                                             "GPT2LMHeadModel"};
  return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> bytes = lora_fuzz::bytes_of(data, size);
  set_num_threads(1);
  lora_fuzz::try_input([&] { read_and_write(as_text(bytes)); });
  return 0;
}
