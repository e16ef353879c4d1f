// make_seeds FOLDER: small valid files for the fuzz targets to begin with, one folder a target.
#include <lora/io/gguf.hpp>
#include <lora/io/peft_config.hpp>
#include <lora/io/safetensors.hpp>

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
}
