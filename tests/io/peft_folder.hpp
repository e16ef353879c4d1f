// Small adapters in PEFT's directory, made by hand.
#pragma once

#include <lora/io/gguf/gguf_names.hpp>
#include <lora/io/peft/peft_adapter.hpp>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "support/golden_sets.hpp"

namespace lora_test {

/// A matrix of values that are all different and exact in every type: (i + 1) / 8 with changing
/// sign.
inline lora::Matrix<float> numbered(lora::Index rows, lora::Index cols, float first = 1) {
  lora::Matrix<float> m(rows, cols);
  for (lora::Index i = 0; i < m.size(); ++i)
    m.data()[i] = (first + static_cast<float>(i)) / 8 * (i % 2 == 0 ? 1.0f : -1.0f);
  return m;
}

/// An adapter directory that lives as long as this: tensors by module and kind, fields of the
/// configuration over those of a plain LoRA.
class PeftFolder {
 public:
  explicit PeftFolder(const std::string& fields = "{}") {
    fields_ = lora::parse_json(
        R"({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
            "target_modules": ["q_proj"], "base_model_name_or_path": "org/base"})",
        "defaults");
    fields_.update(lora::parse_json(fields, "fields"));
  }
  PeftFolder& add(const std::string& key, const lora::Matrix<float>& values,
                  lora::DType dtype = lora::DType::F32) {
    tensors_.add("base_model.model." + key, values, dtype);
    return *this;
  }
  PeftFolder& add_vector(const std::string& key, const lora::Matrix<float>& values) {
    tensors_.add("base_model.model." + key, values, lora::DType::F32, {values.size()});
    return *this;
  }
  /// A (r, in) and B (out, r) of a module.
  PeftFolder& pair(const std::string& module, lora::Index r, lora::Index in, lora::Index out,
                   lora::DType dtype = lora::DType::F32) {
    return add(module + ".lora_A.weight", numbered(r, in), dtype)
        .add(module + ".lora_B.weight", numbered(out, r, 100), dtype);
  }
  PeftFolder& embedding(const std::string& module, lora::Index r, lora::Index in, lora::Index out) {
    return add(module + ".lora_embedding_A", numbered(r, in))
        .add(module + ".lora_embedding_B", numbered(out, r, 100));
  }
  lora::PeftAdapter open() const {
    tensors_.write(folder_.path / "adapter_model.safetensors");
    lora::atomic_write(folder_.path / "adapter_config.json", fields_.dump());
    return lora::PeftAdapter::open(folder_.path);
  }
  const std::filesystem::path& path() const { return folder_.path; }

 private:
  TemporaryFolder folder_;
  lora::Json fields_;
  lora::SafetensorsWriter tensors_;
};

}  // namespace lora_test
