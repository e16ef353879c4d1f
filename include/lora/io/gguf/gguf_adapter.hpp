// Exports LoRA adapters from PEFT's directory to llama.cpp's GGUF.
#pragma once

#include <lora/io/gguf/gguf.hpp>
#include <lora/io/gguf/gguf_names.hpp>
#include <lora/io/peft/peft_adapter.hpp>

#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lora {

struct GgufOptions {
  DType dtype = DType::F32;  ///< type of every tensor: F32, F16 or BF16
  std::string name = {};     ///< general.name; empty: the base's name and "LoRA"
};

namespace detail {

// Reorders the rows of `bytes`: to the file's order of an interleaved module, or back.
enum class RowOrder { to_gguf, to_peft };
inline std::vector<std::byte> reordered(std::span<const std::byte> bytes, Index rows,
                                        Index head_dim, RowOrder order) {
  std::vector<std::byte> out(bytes.size());
  const std::size_t width = rows == 0 ? 0 : bytes.size() / static_cast<std::size_t>(rows);
  for (Index row = 0; row < rows; ++row) {
    const Index in_head = row % head_dim;
    const Index peft = row - in_head + in_head % 2 * (head_dim / 2) + in_head / 2;
    const auto from = static_cast<std::size_t>(order == RowOrder::to_gguf ? peft : row) * width;
    const auto to = static_cast<std::size_t>(order == RowOrder::to_gguf ? row : peft) * width;
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(from), width,
                out.begin() + static_cast<std::ptrdiff_t>(to));
  }
  return out;
}

// Transposes a (rows, cols) matrix of elements of `width` bytes.
inline std::vector<std::byte> transposed(std::span<const std::byte> bytes, Index rows, Index cols,
                                         std::size_t width) {
  std::vector<std::byte> out(bytes.size());
  for (Index row = 0; row < rows; ++row) {
    for (Index col = 0; col < cols; ++col) {
      std::copy_n(bytes.begin() + (row * cols + col) * static_cast<std::ptrdiff_t>(width), width,
                  out.begin() + (col * rows + row) * static_cast<std::ptrdiff_t>(width));
    }
  }
  return out;
}

// Returns why a tensor beside the pairs of A and B cannot be in a GGUF adapter.
inline std::string reason_against(const std::string& key) {
  const auto holds = [&](std::string_view part) { return key.find(part) != key.npos; };
  if (key.ends_with(".lora_B.bias")) return "the bias of lora_bias has no place in GGUF";
  if (key.ends_with(".bias"))
    return "a bias of the base (bias \"all\" or \"lora_only\") has no place in GGUF";
  if (holds("norm") || holds(".ln_")) return "a trained norm, which llama.cpp would ignore";
  return "a module that is saved whole (modules_to_save) has no place in GGUF";
}

// Returns why a module of a tied base cannot be exported, or "" if it can.
inline std::string reason_against_tied(const GgufBase& base, const GgufPlace& place) {
  if (!base.tied) return "";
  const std::string why = base.family->always_tied
                              ? "as GGUF has every " + std::string(base.family->model_type) +
                                    ", whatever tie_word_embeddings says"
                              : "tie_word_embeddings";
  if (place.path() == base.family->head) {
    return "the head of this base is its embedding (" + why + "), so that its GGUF has no " +
           place.tensor();
  }
  if (place.path() == base.family->embedding) {
    return "the embedding of this base is its head too (" + why +
           "): llama.cpp would apply the adapter to both and abort";
  }
  return "";
}

inline std::string unknown_module(const GgufBase& base) {
  return "no module of a " + std::string(base.family->model_type) + " base with " +
         std::to_string(base.layers) + " layers that GGUF can adapt";
}

// Converts an adapter of PEFT to a GGUF file, or reports every obstacle.
class Exporter {
 public:
  Exporter(const PeftAdapter& adapter, const GgufBase& base, const GgufOptions& options)
      : adapter_(adapter), base_(base), options_(options) {}

  GgufWriter run() {
    if (!gguf_type_from_dtype(options_.dtype)) {
      throw ConfigError("export_gguf: dtype is " + std::string(dtype_name(options_.dtype)) +
                        ", expected F32, F16 or BF16");
    }
    check_config();
    for (const std::string& key : adapter_.other_tensors()) check_other(key);
    for (const PeftModule& module : adapter_.modules()) check_module(module);
    choose_alpha();
    throw_problems();
    set_metadata();
    for (std::size_t i = 0; i < places_.size(); ++i) add(adapter_.modules()[i], places_[i]);
    throw_problems();
    return std::move(writer_);
  }

 private:
  void problem(const std::string& name, const std::string& reason) {
    problems_ += "\n  " + printable(name) + ": " + reason;
  }
  void throw_problems() const {
    if (problems_.empty()) return;
    throw ConfigError(
        adapter_.tensors().where() +
        ": GGUF cannot hold this adapter; merge it into its base instead:" + problems_);
  }

  void check_config() {
    const LoRAConfig& config = adapter_.config();
    if (config.bias != "none")
      problem("bias = " + in_quotes(config.bias), "trained biases have no place in GGUF");
    if (config.lora_bias) problem("lora_bias = true", "a bias of B has no place in GGUF");
    if (config.use_dora)
      problem("use_dora = true", "DoRA's lora_magnitude_vector has no place in GGUF");
    for (const std::string& name : config.effective_modules_to_save())
      problem("modules_to_save", in_quotes(name) + ", a whole module, has no place in GGUF");
    if (adapter_.modules().empty()) problem("no layer", "the file holds no pair of A and B");
  }

  // A copy of the base's embedding or head, as PEFT writes it, adds nothing if the base is equal.
  void check_other(const std::string& key) {
    const std::string copied = copied_module(adapter_.config(), key);
    if (copied.empty() || (copied != base_.family->embedding && copied != base_.family->head))
      problem(key, reason_against(key));
  }

  void check_module(const PeftModule& module) {
    const auto place = gguf_place_of_path(base_, module.name);
    if (!place) return problem(module.name, unknown_module(base_));
    places_.push_back(*place);
    if (const std::string reason = reason_against_tied(base_, *place); !reason.empty())
      problem(module.name, reason);
    const bool embedding = module.name == base_.family->embedding;
    if (module.embedding != embedding) {
      problem(module.name, embedding ? "has lora_A and lora_B, expected those of an embedding"
                                     : "has an embedding's A and B, expected lora_A and lora_B");
    }
    check_shape(module.a_key, {module.r, base_.size(place->module->in)});
    check_shape(module.b_key, {base_.size(place->module->out), module.r});
  }
  void check_shape(const std::string& key, const std::vector<Index>& expected) {
    const std::vector<Index>& shape = adapter_.tensors().info(key).shape;
    if (shape == expected) return;
    problem(key, "shape is " + shape_text(shape) + ", expected " + shape_text(expected) +
                     " for this base");
  }

  // llama.cpp multiplies B A by alpha / r with one alpha for all layers, and takes alpha 0 for "no
  // factor". If s r is the same for all layers, it is that alpha; otherwise it is folded into B.
  double times_rank(const PeftModule& module) const {
    return module.alpha *
           (adapter_.config().use_rslora ? std::sqrt(static_cast<double>(module.r)) : 1.0);
  }
  void choose_alpha() {
    if (adapter_.modules().empty()) return;
    const double first = times_rank(adapter_.modules().front());
    for (const PeftModule& module : adapter_.modules())
      fold_ = fold_ || times_rank(module) != first;
    alpha_ = fold_ ? 1.0f : static_cast<float>(first);
    if (alpha_ == 0 || !std::isfinite(alpha_)) {
      problem("lora_alpha", "the scale of every layer is " + number_text(first) +
                                " / r, expected a float that is neither 0 (llama.cpp takes it for "
                                "no factor) nor infinite");
    }
  }

  void set_metadata() {
    std::string name = options_.name;
    if (name.empty()) {
      name = adapter_.config().base_model_name_or_path.value_or("");
      while (name.ends_with('/')) name.pop_back();
      name = name.substr(name.rfind('/') + 1);
      name += name.empty() ? "LoRA" : " LoRA";
    }
    writer_.set("general.architecture", std::string(base_.family->architecture));
    writer_.set("general.type", std::string("adapter"));
    writer_.set("adapter.type", std::string("lora"));
    writer_.set("general.name", name);
    writer_.set("adapter.lora.alpha", alpha_);
  }

  void add(const PeftModule& module, const GgufPlace& place) {
    const Index in = base_.size(place.module->in), out = base_.size(place.module->out);
    std::vector<std::byte> a = encoded(module.a_key, 1);
    std::vector<std::byte> b = encoded(module.b_key, fold_ ? times_rank(module) : 1);
    if (place.module->interleaved) b = reordered(b, out, base_.head_dim, RowOrder::to_gguf);
    if (module.embedding) a = transposed(a, module.r, in, dtype_bits(options_.dtype) / 8);
    const auto a_shape = module.embedding ? std::vector{in, module.r} : std::vector{module.r, in};
    writer_.add(place.tensor() + ".lora_a", options_.dtype, a_shape, std::move(a));
    writer_.add(place.tensor() + ".lora_b", options_.dtype, std::vector{out, module.r},
                std::move(b));
  }
  // Encodes the tensor times `factor`, computed in double and rounded once. Without a factor,
  // floats stay bit for bit.
  std::vector<std::byte> encoded(const std::string& key, double factor) {
    const bool wide = factor != 1 || adapter_.tensors().info(key).dtype == DType::F64;
    return wide ? encoded_as<double>(key, factor) : encoded_as<float>(key, 1);
  }
  template <class S>
  std::vector<std::byte> encoded_as(const std::string& key, S factor) {
    Matrix<S> m = adapter_.tensors().template matrix<S>(key);
    if (factor != 1) m *= factor;
    const std::span<const S> values(m.data(), static_cast<std::size_t>(m.size()));
    if (const auto i = first_overflow(options_.dtype, values)) {
      problem(key, "element " + std::to_string(*i) + " is " +
                       number_text(static_cast<double>(values[*i])) +
                       (factor != 1 ? " with its scale" : "") + ", too large for " +
                       std::string(dtype_name(options_.dtype)));
    }
    std::vector<std::byte> bytes(values.size() * dtype_bits(options_.dtype) / 8);
    encode_elements(options_.dtype, values, bytes.data());
    return bytes;
  }

  const PeftAdapter& adapter_;
  const GgufBase& base_;
  const GgufOptions& options_;
  std::vector<GgufPlace> places_;
  bool fold_ = false;
  float alpha_ = 1;
  std::string problems_;
  GgufWriter writer_;
};

}  // namespace detail

/// Converts an adapter to a GGUF file with which llama.cpp computes PEFT's logits:
///   y += (adapter.lora.alpha / r) B A x.
///
/// Tensors are `<base's weight>.lora_a` and `.lora_b` in PEFT's layout, except B of an interleaved
/// module (see GgufModule) and A of an embedding, which is transposed to (V, r). If s·r is the same
/// for all layers (plain LoRA, also with rank_pattern; rsLoRA of one rank), adapter.lora.alpha is
/// s·r, rounded to float. Otherwise adapter.lora.alpha is 1 and B is s·r·B, computed in double and
/// rounded once. F32 tensors without such a factor are copied bit for bit. A copy of the base's
/// embedding or head in the adapter's file is omitted; the caller must know that it equals that of
/// the base.
/// Throws: ConfigError that names everything GGUF cannot express: DoRA's magnitude, saved modules,
///   biases, trained norms, modules that the family does not have, the head or the embedding of a
///   tied base, alpha 0, shapes of another base, values too large for the type.
/// Allocates: the tensors.
/// Source: llama.cpp's convert_lora_to_gguf.py and llama-adapter.cpp. Where the former differs from
///   PEFT (rsLoRA, alpha_pattern, GPT-2), this follows PEFT.
inline GgufWriter gguf_of_adapter(const PeftAdapter& adapter, const GgufBase& base,
                                  const GgufOptions& options = {}) {
  return detail::Exporter(adapter, base, options).run();
}

/// Writes gguf_of_adapter() to `path`, all or nothing.
/// Throws: as gguf_of_adapter(); IoError.
inline void export_gguf(const PeftAdapter& adapter, const GgufBase& base,
                        const std::filesystem::path& path, const GgufOptions& options = {}) {
  gguf_of_adapter(adapter, base, options).write(path);
}

}  // namespace lora
