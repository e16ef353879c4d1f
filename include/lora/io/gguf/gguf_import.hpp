// Imports LoRA adapters from llama.cpp's GGUF to PEFT.
#pragma once

#include <lora/adapters/target_names.hpp>
#include <lora/io/gguf/gguf_adapter.hpp>

namespace lora {

/// An adapter read from GGUF, ready for write_peft_adapter.
struct GgufImport {
  LoRAConfig config;  ///< valid; the caller sets base_model_name_or_path
  SafetensorsWriter tensors;
};

namespace detail {

// Converts a GGUF file to an adapter of PEFT, or reports every obstacle.
class Importer {
 public:
  Importer(const GgufFile& file, const GgufBase& base) : file_(file), base_(base) {}

  GgufImport run() {
    check_metadata();
    for (const std::string& name : file_.names()) collect(name);
    for (const auto& [path, pair] : pairs_) check_pair(path, pair);
    if (pairs_.empty() && problems_.empty()) problem("no tensor", "the file holds no adapter");
    if (!problems_.empty()) {
      throw FormatError(file_.where() + ": is not an adapter for this " +
                        std::string(base_.family->model_type) + " base:" + problems_);
    }
    choose_config();
    result_.config.validate();
    result_.tensors.set_metadata("format", "pt");
    for (const auto& [path, pair] : pairs_) add(path, pair);
    return std::move(result_);
  }

 private:
  struct Pair {
    GgufPlace place;
    std::string a, b;  // names of the tensors, empty until found
  };

  void problem(const std::string& name, const std::string& reason) {
    problems_ += "\n  " + printable(name) + ": " + reason;
  }

  void check_metadata() {
    const auto expect = [&](const char* key, std::string_view expected) {
      const auto& value = file_.get<std::string>(key);
      if (value != expected)
        problem(key, "is " + in_quotes(value) + ", expected " + in_quotes(expected));
    };
    expect("general.type", "adapter");
    expect("general.architecture", base_.family->architecture);
    expect("adapter.type", "lora");
    const float alpha = file_.get<float>("adapter.lora.alpha");
    if (!std::isfinite(alpha))
      problem("adapter.lora.alpha", "is " + number_text(alpha) + ", expected a finite number");
    if (file_.find("adapter.alora.invocation_tokens") != nullptr)
      problem("adapter.alora.invocation_tokens", "activated LoRA is not supported");
  }

  void collect(const std::string& name) {
    const bool a = name.ends_with(".lora_a");
    if (!a && !name.ends_with(".lora_b")) {
      return problem(name, name.ends_with("_norm.weight")
                               ? "a trained norm, which llama.cpp ignores"
                               : "expected a name that ends in .lora_a or .lora_b");
    }
    const auto place =
        gguf_place_of_tensor(base_, std::string_view(name).substr(0, name.size() - 7));
    if (!place) return problem(name, unknown_module(base_));
    Pair& pair = pairs_.try_emplace(place->path(), Pair{*place, {}, {}}).first->second;
    (a ? pair.a : pair.b) = name;
  }

  bool is_embedding(const GgufPlace& place) const {
    return place.path() == base_.family->embedding;
  }
  // A is (r, in), or (in, r) for an embedding; B is (out, r) and determines r.
  void check_pair(const std::string& path, const Pair& pair) {
    if (const std::string reason = reason_against_tied(base_, pair.place); !reason.empty())
      problem(path, reason);
    if (pair.a.empty() || pair.b.empty()) {
      return problem(pair.a.empty() ? pair.b : pair.a,
                     std::string("has no .lora_") + (pair.a.empty() ? "a" : "b") + " beside it");
    }
    for (const std::string& name : {pair.a, pair.b}) {
      const GgufType& type = file_.info(name).type;
      if (!type.dtype)
        problem(name, "type is " + std::string(type.name) + ", expected F32, F16 or BF16");
    }
    const Index in = base_.size(pair.place.module->in), out = base_.size(pair.place.module->out);
    const std::vector<Index>& b = file_.info(pair.b).shape;
    const Index r = b.size() == 2 ? b[1] : 0;
    constexpr Index most = 1 << 20;  // the limit of LoRAConfig
    if (r < 1 || r > most || b[0] != out) {
      return problem(pair.b, "shape is " + shape_text(b) + ", expected [" + std::to_string(out) +
                                 ", r] with r from 1 to " + std::to_string(most) +
                                 " for this base");
    }
    const auto a = is_embedding(pair.place) ? std::vector{in, r} : std::vector{r, in};
    if (file_.info(pair.a).shape != a) {
      problem(pair.a, "shape is " + shape_text(file_.info(pair.a).shape) + ", expected " +
                          shape_text(a) + " for this base");
    }
  }

  Index rank(const Pair& pair) const { return file_.info(pair.b).shape[1]; }

  void choose_config() {
    LoRAConfig& config = result_.config;
    std::map<Index, std::size_t> layers_of_rank;
    for (const auto& [path, pair] : pairs_) ++layers_of_rank[rank(pair)];
    std::size_t most = 0;
    for (const auto& [r, layers] : layers_of_rank) {
      if (layers > most) config.r = r;
      most = std::max(most, layers);
    }
    // llama.cpp takes alpha 0 for "no factor", which is alpha = r.
    const double alpha = static_cast<double>(file_.get<float>("adapter.lora.alpha"));
    config.lora_alpha = alpha != 0 ? alpha : static_cast<double>(config.r);
    for (const auto& [path, pair] : pairs_) {
      if (rank(pair) == config.r) continue;
      config.rank_pattern.emplace_back(path, rank(pair));
      if (alpha == 0) config.alpha_pattern.emplace_back(path, static_cast<double>(rank(pair)));
    }
    config.target_modules = targets();
    config.task_type = "CAUSAL_LM";
    config.fan_in_fan_out = base_.family->conv1d;
    config.inference_mode = true;
  }

  std::vector<std::string> targets() const {
    std::vector<std::string> adapted, all;
    for (const auto& [path, pair] : pairs_) adapted.push_back(path);
    for (const GgufPlace& place : gguf_places(base_)) all.push_back(place.path());
    return target_names(adapted, all);
  }

  void add(const std::string& path, const Pair& pair) {
    const bool embedding = is_embedding(pair.place);
    const std::string key = std::string(peft_prefix) + path;
    const GgufTensor &a = file_.info(pair.a), &b = file_.info(pair.b);
    const auto copy = [](std::span<const std::byte> bytes) {
      return std::vector<std::byte>(bytes.begin(), bytes.end());
    };
    std::vector<std::byte> a_bytes = embedding
                                         ? transposed(file_.bytes(pair.a), a.shape[0], a.shape[1],
                                                      static_cast<std::size_t>(a.type.block_bytes))
                                         : copy(file_.bytes(pair.a));
    std::vector<std::byte> b_bytes =
        pair.place.module->interleaved
            ? reordered(file_.bytes(pair.b), b.shape[0], base_.head_dim, RowOrder::to_peft)
            : copy(file_.bytes(pair.b));
    const std::vector<Index> a_shape{rank(pair), base_.size(pair.place.module->in)};
    result_.tensors.add(key + (embedding ? ".lora_embedding_A" : ".lora_A.weight"), *a.type.dtype,
                        a_shape, std::move(a_bytes));
    result_.tensors.add(key + (embedding ? ".lora_embedding_B" : ".lora_B.weight"), *b.type.dtype,
                        b.shape, std::move(b_bytes));
  }

  const GgufFile& file_;
  const GgufBase& base_;
  std::map<std::string, Pair> pairs_;
  std::string problems_;
  GgufImport result_;
};

}  // namespace detail

/// Converts a GGUF file to an adapter for PEFT: A and B bit for bit and in the file's types, with
/// the rows of interleaved modules and the A of an embedding in PEFT's order. Exporting the result
/// in the same type gives the same tensors if all had one type and alpha was not 0. The
/// configuration is that of a plain LoRA: lora_alpha is adapter.lora.alpha (factors that an export
/// folded into B stay there), r is the most common rank, other ranks are in rank_pattern, and
/// target_modules are the ends of the names where these select no other module of the base.
/// Throws: FormatError that names everything that does not fit: metadata of anything but an
///   adapter, tensors that are not pairs of A and B, quantised types, modules or shapes that the
///   base does not have, the head or the embedding of a tied base.
/// Allocates: the tensors.
inline GgufImport adapter_of_gguf(const GgufFile& file, const GgufBase& base) {
  return detail::Importer(file, base).run();
}

/// Reads `path` and writes the adapter to `directory` as write_peft_adapter does.
/// `base_model_name_or_path` goes into the configuration unless it is empty.
/// Throws: as GgufFile::open, adapter_of_gguf and write_peft_adapter. Nothing changes then.
inline void import_gguf(const std::filesystem::path& path, const GgufBase& base,
                        const std::filesystem::path& directory,
                        const std::string& base_model_name_or_path = "") {
  GgufImport adapter = adapter_of_gguf(GgufFile::open(path), base);
  if (!base_model_name_or_path.empty())
    adapter.config.base_model_name_or_path = base_model_name_or_path;
  write_peft_adapter(directory, peft_config_fields(adapter.config), adapter.tensors);
}

}  // namespace lora
