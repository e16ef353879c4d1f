// Finds out how a base's checkpoint stores what an adapter changes: the orientation of weights, and
// whether the head is the embedding.
#pragma once

#include <lora/adapters/target_names.hpp>
#include <lora/io/folder.hpp>
#include <lora/io/hf/checkpoint_weights.hpp>
#include <lora/io/hf/hf_config.hpp>

#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace lora {

/// What can be known about a checkpoint without building its model. The shapes of the tensors
/// decide, and config.json if it names an architecture that load_causal_lm knows. The adapter does
/// not: its fan_in_fan_out is one flag for layers of both kinds, and PEFT leaves the value of the
/// last one in it. Keeps a reference to the files; several threads may call const functions.
class CheckpointStructure {
 public:
  /// Throws: as read_config_json, if config.json exists and is not JSON; FormatError for a
  ///   tie_word_embeddings that is neither true nor false.
  explicit CheckpointStructure(const CheckpointFiles& files) : files_(files), names_(files) {
    std::optional<bool> tied;
    if (detail::file_exists(files.directory() / hf_config_file)) {
      Json config = read_config_json(files.directory());
      if (!config.is_object()) config = Json::object();
      const JsonFields fields(config, (files.directory() / hf_config_file).string());
      known_ = detail::find_architecture(fields) != nullptr;
      conv1d_ = fields.find("model_type") != nullptr && *fields.find("model_type") == "gpt2";
      note_vocabularies(config);
      tied = detail::tied_embeddings(fields);
    }
    if (known_) embedding_ = conv1d_ ? "transformer.wte" : "model.embed_tokens";
    tied_ = tied.value_or(!has_head());
  }

  const CheckpointFiles& files() const { return files_; }
  /// Returns the checkpoint's name of a tensor of the model, see CheckpointNames, or "" if it has
  /// none.
  std::string find(const std::string& tensor) const { return names_.find(tensor); }

  /// Whether config.json names an architecture of this library.
  bool known() const { return known_; }
  /// Whether the head is the embedding's own matrix: as config.json says, or by the default of its
  /// model_type; otherwise, if the checkpoint has no head.
  bool tied() const { return tied_; }
  /// The modules that may share one matrix. The embedding's is empty unless known().
  const std::string& embedding() const { return embedding_; }
  const std::string& head() const { return head_; }
  /// Whether the checkpoint has a head's weight under a name that transformers gives it.
  bool has_head() const {
    return files_.contains("lm_head.weight") || files_.contains("embed_out.weight");
  }
  /// Returns what is wrong with the "lm_head.weight" of a known() tied() checkpoint that differs
  /// from its embedding: some loaders take the two for one matrix, others do not. Returns "" for
  /// every other checkpoint. Reads both tensors if both exist.
  std::string head_problem() const {
    if (!known_ || !tied_) return {};
    return detail::other_head(files_, find(embedding_ + ".weight"));
  }
  /// Whether a module with this many outputs, or rows of an embedding, may be one of the two: by
  /// its name, or because config.json gives its vocabulary that size. If config.json gives none,
  /// every embedding may be.
  /// Source: the names of transformers' _tied_weights_keys.
  bool may_be_tied(const std::string& module, Index rows, bool embedding) const {
    const std::string last = last_name(module);
    for (const char* name :
         {"lm_head", "embed_tokens", "wte", "word_embeddings", "embed_in", "embed_out",
          "tok_embeddings", "embeddings", "shared", "tokens_embed"}) {
      if (last == name) return true;
    }
    return vocabularies_.empty() ? embedding : vocabularies_.count(rows) != 0;
  }

  /// Returns the orientation of a linear layer's weight in the file: in_out for transformers'
  /// Conv1D, which the blocks of GPT-2 use. For a model that is not known(), a bias beside the
  /// weight tells the number of outputs. For a square weight, the bias and weight of another module
  /// that GPT-2 would make a Conv1D tell it. Returns nullopt if nothing tells, never for a known()
  /// model.
  /// Source: transformers.pytorch_utils.Conv1D, which always has a bias.
  std::optional<Layout> layout(const std::string& module) const {
    const bool may_turn = is_conv1d_name(module);
    if (known_) return conv1d_ && may_turn ? Layout::in_out : Layout::out_in;
    if (const auto own = layout_by_bias(find(module + ".weight"))) return own;
    if (!may_turn) return std::nullopt;
    for (const auto& [name, file] : files_.names()) {
      constexpr std::string_view end = ".weight";
      if (!name.ends_with(end) || !is_conv1d_name(name.substr(0, name.size() - end.size())))
        continue;
      if (const auto like = layout_by_bias(name)) return like;
    }
    return std::nullopt;
  }

 private:
  /// Collects vocab_size, also of the parts of models with several kinds of input.
  void note_vocabularies(const Json& config) {
    if (!config.is_object()) return;
    for (const auto& [key, value] : config.items()) {
      if (key == "vocab_size" && value.is_number_integer())
        vocabularies_.insert(value.get<Index>());
      if (value.is_object()) note_vocabularies(value);
    }
  }
  static bool is_conv1d_name(const std::string& module) {
    const std::string last = last_name(module);
    return last == "c_attn" || last == "q_attn" || last == "c_proj" || last == "c_fc";
  }
  std::optional<Layout> layout_by_bias(const std::string& weight) const {
    if (weight.empty()) return std::nullopt;
    const std::string bias = weight.substr(0, weight.rfind('.') + 1) + "bias";
    const std::vector<Index>& shape = files_.info(weight).shape;
    if (shape.size() != 2 || shape[0] == shape[1] || !files_.contains(bias)) return std::nullopt;
    const std::vector<Index>& outputs = files_.info(bias).shape;
    if (outputs.size() != 1 || (outputs[0] != shape[0] && outputs[0] != shape[1]))
      return std::nullopt;
    return outputs[0] == shape[0] ? Layout::out_in : Layout::in_out;
  }

  const CheckpointFiles& files_;
  detail::CheckpointNames names_;
  bool known_ = false, conv1d_ = false, tied_ = false;
  std::string embedding_, head_ = "lm_head";
  std::set<Index> vocabularies_;
};

/// Whether two floating-point tensors hold the same numbers after rounding to the narrower of their
/// types.
inline bool same_tensors(const SafetensorsFile& one, const std::string& a,
                         const SafetensorsFile& two, const std::string& b) {
  const TensorInfo &first = one.info(a), &second = two.info(b);
  if (first.shape != second.shape || !is_matrix_dtype(first.dtype) ||
      !is_matrix_dtype(second.dtype))
    return false;
  const auto x = one.bytes(a), y = two.bytes(b);
  if (first.dtype == second.dtype && as_text(x) == as_text(y)) return true;
  const auto at = [](std::span<const std::byte> bytes, DType dtype, std::size_t i) {
    double value = 0;
    decode_elements(dtype, bytes.data() + i * (dtype_bits(dtype) / 8),
                    std::span<double>(&value, 1));
    return value;
  };
  for (std::size_t i = 0; i < x.size() / (dtype_bits(first.dtype) / 8); ++i) {
    if (!same_when_rounded(at(x, first.dtype, i), first.dtype, at(y, second.dtype, i),
                           second.dtype))
      return false;
  }
  return true;
}

}  // namespace lora
