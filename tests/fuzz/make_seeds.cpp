// make_seeds FOLDER: small valid files for the fuzz targets to begin with, one folder a target.
#include <lora/io/gguf/gguf.hpp>
#include <lora/io/hf/hf_config_fields.hpp>
#include <lora/io/peft/peft_config.hpp>
#include <lora/io/safetensors/safetensors.hpp>
#include <lora/text/tokenizer/byte_spelling.hpp>
#include <lora/train/run_plan.hpp>

#include <array>
#include <cstdio>

namespace {
using namespace lora;
namespace fs = std::filesystem;

Matrix<float> values(Index rows, Index cols) {
  Matrix<float> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = static_cast<float>(i) / 4 - 1;
  return m;
}

void make_safetensors(const fs::path& folder) {
  SafetensorsWriter().write(folder / "empty");
  SafetensorsWriter adapter;
  adapter.set_metadata("format", "pt");
  adapter.add("a.lora_A.weight", values(2, 3), DType::F32);
  adapter.add("a.lora_B.weight", values(4, 2), DType::BF16);
  adapter.write(folder / "adapter");
  SafetensorsWriter types;
  const std::vector<std::byte> zeros(8);
  for (const DTypeInfo& type : all_dtypes) {
    types.add(std::string(type.name), type.dtype, {type.bits < 8 ? 8 : 1},
              std::span(zeros).first(type.bits < 8 ? type.bits : type.bits / 8));
  }
  types.add("none", values(0, 3), DType::F64);
  types.write(folder / "types");
}

void make_configs(const fs::path& folder) {
  LoRAConfig config;
  config.target_modules = {"q_proj", "v_proj"};
  config.rank_pattern = {{"layers.1.q_proj", 4}};
  config.alpha_pattern = {{"v_proj", 0.5}};
  config.layers_to_transform = {0, 1};
  config.modules_to_save = std::vector<std::string>{"score"};
  config.task_type = "SEQ_CLS";
  atomic_write(folder / "full", peft_config_text(peft_config_fields(config)));
  atomic_write(folder / "short",
               R"({"peft_type": "LORA", "target_modules": ".*\\.q", "new": 1e-3})");
  atomic_write(
      folder / "types",
      R"({"peft_type":"LORA","r":8.0,"layers_to_transform":3,"init_lora_weights":"gaussian",)"
      R"("target_modules":null,"bias":"all","extra":{"a":[true,null,-0.0,"\u00e4\ud83d\ude00"]}})");
}

void make_ggufs(const fs::path& folder) {
  const auto add = [](GgufWriter& writer, const std::string& name, DType dtype, Index rows,
                      Index cols) {
    const Matrix<float> m = values(rows, cols);
    std::vector<std::byte> bytes(static_cast<std::size_t>(m.size()) * dtype_bits(dtype) / 8);
    encode_elements(dtype, std::span(m.data(), static_cast<std::size_t>(m.size())), bytes.data());
    writer.add(name, dtype, std::vector{rows, cols}, std::move(bytes));
  };
  GgufWriter().write(folder / "empty");
  GgufWriter adapter;
  adapter.set("general.architecture", std::string("llama"));
  adapter.set("general.type", std::string("adapter"));
  adapter.set("adapter.type", std::string("lora"));
  adapter.set("adapter.lora.alpha", 2.0f);
  add(adapter, "blk.0.attn_q.weight.lora_a", DType::F32, 1, 4);
  add(adapter, "blk.0.attn_q.weight.lora_b", DType::F16, 4, 1);
  add(adapter, "token_embd.weight.lora_a", DType::BF16, 3, 2);
  add(adapter, "token_embd.weight.lora_b", DType::F32, 4, 2);
  adapter.write(folder / "adapter");
  GgufWriter keys;
  keys.set("u", std::uint8_t{1});
  keys.set("d", 0.5);
  keys.set("b", true);
  keys.set("a", GgufArray{std::vector<std::string>{"x", ""}});
  keys.set("aa", GgufArray{std::vector{GgufArray{std::vector<std::int16_t>{-1, 2}}}});
  keys.write(folder / "keys");
}

void make_model_configs(const fs::path& folder) {
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3"}) {
    LlamaConfig config;
    config.model_type = type;
    config.vocab_size = 32;
    config.hidden_size = 12;
    config.intermediate_size = 20;
    config.num_hidden_layers = 3;
    config.num_attention_heads = 6;
    config.num_key_value_heads = 2;
    config.head_dim = 2;
    config.max_position_embeddings = 64;
    config.qkv_bias = config.model_type == "qwen2";
    config.qk_norm = config.model_type == "qwen3";
    if (config.model_type == "llama")
      config.rope_scaling = {RopeScaling::Type::llama3, 8, 1, 4, 32};
    if (config.model_type == "mistral") config.sliding_window = 7;
    atomic_write(folder / type, python_json(hf_config_fields(config, DType::F16), "seed"));
  }
  atomic_write(folder / "gpt2",
               python_json(hf_config_fields(GPT2Config{32, 16, 12, 2, 3, 20}, DType::F32), "seed"));
  const std::string sizes = R"("vocab_size":32,"hidden_size":12,"intermediate_size":20,
      "num_hidden_layers":2,"num_attention_heads":6,"rope_theta":1e4)";
  atomic_write(folder / "yarn", R"({"model_type":"qwen2","rope_scaling":{"type":"yarn","factor":4.0,
      "original_max_position_embeddings":16,"beta_fast":32,"beta_slow":1,"mscale":1,
      "mscale_all_dim":0.5,"truncate":false},)" +
                                    sizes + "}");
  // A value that a message would show as it is.
  atomic_write(
      folder / "escape",
      R"({"model_type":"llama","hidden_act":"\u001b[31m","\u001b":"\u001b",)" + sizes + "}");
  atomic_write(folder / "newest", R"({"model_type":"llama","vocab_size":32,"hidden_size":12,
      "intermediate_size":20,"num_hidden_layers":2,"num_attention_heads":6,"dtype":"bfloat16",
      "layer_types":["full_attention","full_attention"],"rope_parameters":{"full_attention":
      {"rope_type":"linear","factor":2.0,"rope_theta":5e5}}})");
}

// tokenizer.json, tokenizer_config.json, special_tokens_map.json, a text.
void make_tokenizers(const fs::path& folder) {
  const std::string said = "the cat's \u00e4\U0001f600  <s>\xff\n";
  const std::string text = '\0' +
                           std::string(R"({"bos_token":"<s>","add_bos_token":true,)"
                                       R"("chat_template":"{{ x }}"})") +
                           '\0' + R"({"eos_token":{"content":"<s>"}})" + '\0' + said;
  Json bytes = Json::object();
  for (std::uint32_t byte = 0; byte < 256; ++byte)
    bytes[ByteSpelling::instance().spelling(static_cast<std::uint8_t>(byte))] = byte;
  bytes["th"] = 256;
  bytes["the"] = 257;
  Json added = Json::array();
  added.push_back({{"id", 258}, {"content", "<s>"}, {"special", true}});
  Json gpt2 = {
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"}, {"vocab", bytes}, {"merges", {"t h", Json::array({"th", "e"})}}}}};
  atomic_write(folder / "gpt2", gpt2.dump() + text);
  gpt2["normalizer"] = {{"type", "NFC"}};
  gpt2["pre_tokenizer"] = parse_json(R"({"type":"Sequence","pretokenizers":[{"type":"Split",
      "pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
      "behavior":"Isolated","invert":false},
      {"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})",
                                     "seed");
  atomic_write(folder / "qwen2", gpt2.dump() + text);
  Json vocab = {{"<unk>", 0}, {"<s>", 1}};
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::array<char, 8> name{};
    std::snprintf(name.data(), name.size(), "<0x%02X>", byte);
    vocab[name.data()] = byte + 2;
  }
  for (const char* piece : {"t", "h", "e", "\u2581", "th", "the", "\u2581the"})
    vocab[piece] = vocab.size();
  Json llama2 = parse_json(R"({"added_tokens":[{"id":0,"content":"<unk>","special":true},
      {"id":1,"content":"<s>","special":true,"normalized":false}],
      "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},
      {"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]},"pre_tokenizer":null,
      "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},
      {"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1]}}},
      "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},
      "content":" "},{"type":"ByteFallback"},{"type":"Fuse"},
      {"type":"Strip","content":" ","start":1,"stop":0}]},
      "model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,
      "merges":["t h","th e","\u2581 the"]}})",
                           "seed");
  llama2["model"]["vocab"] = std::move(vocab);
  atomic_write(folder / "llama2", llama2.dump() + text);
  // Few tokens: what takes less time is tried more often.
  atomic_write(folder / "small", R"({"added_tokens":[{"id":0,"content":"<s>","special":true}],
      "pre_tokenizer":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"first"},
      "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},
      "content":" "},{"type":"Fuse"}]},"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,
      "vocab":{"<s>":0,"<unk>":1,"t":2,"h":3,"e":4,"\u2581":5,"th":6,"the":7},
      "merges":["t h",["th","e"]]}})" +
                                     text);
  atomic_write(folder / "small_bytes",
               R"({"pre_tokenizer":{"type":"Sequence","pretokenizers":[
      {"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":true,
      "use_regex":true}]},"decoder":{"type":"ByteLevel"},"post_processor":{"type":"Sequence",
      "processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing","single":[{"SpecialToken":
      {"id":"a"}},{"Sequence":{"id":"A"}}],"special_tokens":{"a":{"id":"a","ids":[0]}}}]},
      "model":{"type":"BPE","vocab":{"t":0,"h":1,"e":2,"\u0120":3,"th":4,"the":5},
      "merges":["t h","th e"]}})" +
                   std::string(1, '\0') +
                   R"({"added_tokens_decoder":{"9":{"content":"<s>","special":true}}})" +
                   std::string(2, '\0') + said);
}

// Behind a zero byte letters choose options, the first of them the format.
void make_data(const fs::path& folder) {
  const auto write = [&](const char* name, const std::string& text, const std::string& options) {
    atomic_write(folder / name, text + '\0' + options);
  };
  write("alpaca", R"([{"instruction":"Add","input":"1 2","output":"3"},
      {"instruction":"x","input":"","output":"\u00e4","system":"s","history":[["a","b"]]}])",
        "0");
  write("messages", R"([{"messages":[{"role":"system","content":"s"},
      {"role":"user","content":[{"type":"text","text":"q"}]},{"role":"assistant","content":"a",
      "weight":1,"tool_calls":[{"function":{"name":"f","arguments":"{\"x\":1}"}}]},
      {"role":"tool","content":"r"}],"tools":[{"type":"function","function":{"name":"f"}}]}])",
        "1");
  write("chat", R"([{"messages":[{"role":"user","content":"q"},{"role":"assistant",
      "content":"<think>\nhm\n</think>\n\nthe"},{"role":"user","content":"r"},
      {"role":"assistant","content":"us"}]},{"messages":[{"role":"user","content":"the"},
      {"role":"assistant","content":"a"}]}])",
        "10310");
  write("sharegpt",
        "{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"gpt\","
        "\"value\":\"a\"}]}\nbad\n{\"conversations\":[]}\n",
        "21");
  write("prompt", R"({"prompt":"p","completion":"c"})", "22");
  write("lines", "{\"text\":\"one\"}\n{\"text\":\"two\"}\n", "2021");
  write("text", "plain text\nof two lines", "301");
}

// A text and what stands around it.
void make_generation_configs(const fs::path& folder) {
  atomic_write(folder / "llama", std::string(R"({"do_sample":true,"temperature":0.6,"top_p":0.9,)"
                                             R"("eos_token_id":[1,2],"bos_token_id":0})"));
  atomic_write(folder / "greedy", std::string(R"({"temperature":0,"top_k":null,"max_length":9,)"
                                              R"("stop_strings":["a","gree"],"num_beams":4})") +
                                      '\0' + R"({"eos_token_id":2})");
  atomic_write(folder / "all",
               std::string(R"({"max_new_tokens":5,"do_sample":true,"top_k":3,"min_p":0.05,)"
                           R"("top_p":0.5,"repetition_penalty":1.1,"stop_strings":"x",)"
                           R"("suppress_tokens":[],"guidance_scale":1})"));
}

void make_indices(const fs::path& folder) {
  atomic_write(folder / "good", R"({"metadata":{"total_size":96},"weight_map":{
      "model.a.weight":"model-00001-of-00002.safetensors",
      "model.b.weight":"model-00001-of-00002.safetensors",
      "model.c.weight":"model-00002-of-00002.safetensors",
      "lm_head.weight":"model-00002-of-00002.safetensors"}})");
  atomic_write(folder / "one", R"({"weight_map":{"model.a.weight":"the.safetensors"}})");
  atomic_write(folder / "outside", R"({"weight_map":{"secret":"../outside.safetensors",
      "model.a.weight":"below/inner.safetensors"}})");
}

// trainer_state.json, the header of the tensors, letters for their numbers.
void make_trainer_states(const fs::path& folder) {
  const auto json = [](const std::string& callbacks, const std::string& history) {
    return R"({"global_step":2,"max_steps":5,"epoch":0.5,"num_input_tokens_seen":6,)"
           R"("non_finite_steps":0,"non_finite_in_row":0,"loss_sum":8.5,"loss_steps":2,)"
           R"("unlogged_loss_sum":4.25,"unlogged_loss_steps":1,"best_global_step":2,)"
           R"("best_metric":4.25,"log_history":)" +
           history + R"(,"callbacks":)" + callbacks + R"(,"arguments":)";
  };
  TrainingArguments arguments;
  arguments.max_steps = 5;
  arguments.logging_steps = 2;
  arguments.eval_strategy = IntervalStrategy::steps;
  arguments.eval_steps = 2;
  arguments.lr_scheduler_type = "constant";
  Json run = arguments_json(arguments);
  run["data"] = std::to_string(RunPlan(arguments, {1, 1, 1}).fingerprint());
  std::string header = R"({"step":{"dtype":"I64","shape":[],"data_offsets":[0,8]})";
  std::size_t at = 8;
  const auto add = [&](const std::string& name, const char* dtype, const std::string& shape,
                       std::size_t bytes) {
    header += ",\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
              ",\"data_offsets\":[" + std::to_string(at) + "," + std::to_string(at + bytes) + "]}";
    at += bytes;
  };
  add("step.w", "I64", "[]", 8);
  add("step.b", "I64", "[]", 8);
  for (const char* kind : {"value.", "exp_avg.", "exp_avg_sq."}) {
    add(kind + std::string("w"), "F32", "[2,3]", 24);
    add(kind + std::string("b"), "F32", "[1,2]", 8);
  }
  header += "}";
  // A letter is a number by its remainder of ten.
  const std::string letters = '\0' + std::string("333999999999999999");
  atomic_write(folder / "good", json(R"({"EarlyStoppingCallback":{"waited":1,"best":4.25}})",
                                     R"([{"step":2,"loss":4.25,"grad_norm":null}])") +
                                    run.dump() + "}" + '\0' + header + letters);
  run.erase("dataloader_drop_last");
  run["learning_rate"] = 1;
  atomic_write(folder / "other", json("{}", "[]") + run.dump() + "}" + '\0' + header + letters);
  atomic_write(folder / "fresh", json("{}", "[]") + "{}}" + '\0' + "{}");
}

}  // namespace

int main(int count, char** words) {
  if (count != 2) {
    std::fprintf(stderr, "usage: make_seeds FOLDER\n");
    return 2;
  }
  const auto folder = [&](const char* target) {
    const fs::path path = fs::path(words[1]) / target;
    fs::create_directories(path);
    return path;
  };
  make_safetensors(folder("safetensors"));
  make_configs(folder("adapter_config"));
  make_ggufs(folder("gguf"));
  make_model_configs(folder("hf_config"));
  make_tokenizers(folder("tokenizer"));
  make_data(folder("instruction_data"));
  make_generation_configs(folder("generation_config"));
  make_indices(folder("checkpoint_index"));
  make_trainer_states(folder("trainer_state"));
}
