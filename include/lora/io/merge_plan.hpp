// Which tensor of a base an adapter changes, and how: everything that merging checks before it
// writes.
#pragma once

#include <lora/adapters/merged_rows.hpp>
#include <lora/adapters/target_names.hpp>
#include <lora/io/checkpoint_files.hpp>
#include <lora/io/config_json.hpp>
#include <lora/io/peft_adapter.hpp>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace LORA_NAMESPACE {

/// How one tensor of a base comes out of a merge: W + scale · B A, W being the base's own or what
/// the adapter has saved in its place.
struct MergedTensor {
  std::string saved_key;     ///< W's key in the adapter's file; empty: the base's own
  std::string b_key, a_key;  ///< keys of the factors; no b_key: no change; no a_key: A is (1)
  double scale = 0;
  Layout layout = Layout::out_in;  ///< in_out: W holds (B A)ᵀ
};

/// Name in the base -> what becomes of it; tensors that stay as they are are not in it.
using MergePlan = std::map<std::string, MergedTensor>;

namespace detail {

/// Whether the head of a base is its embedding, so that changing one changes both: what config.json
/// says; without a word of it, a checkpoint without a head of its own.
inline bool is_tied(const CheckpointFiles& base) {
  if (file_exists(base.directory() / hf_config_file)) {
    const Json config = read_config_json(base.directory());
    const auto tied = config.is_object() ? config.find("tie_word_embeddings") : config.end();
    if (config.is_object() && tied != config.end() && tied->is_boolean()) return tied->get<bool>();
  }
  return !base.contains("lm_head.weight");
}

class MergePlanner {
 public:
  MergePlanner(const CheckpointFiles& base, const PeftAdapter& adapter)
      : base_(base), adapter_(adapter) {
    for (const auto& [name, file] : base.names()) tops_.insert(top_of(name));
  }

  MergePlan run() {
    for (const std::string& key : adapter_.other_tensors()) add_other(key);
    for (const PeftModule& module : adapter_.modules()) add_module(module);
    if (!problems_.empty()) {
      throw FormatError(adapter_.tensors().where() + ": does not fit the base " +
                        base_.directory().string() + ":" + problems_);
    }
    return std::move(plan_);
  }

 private:
  static std::string top_of(const std::string& name) { return name.substr(0, name.find('.')); }
  void problem(const std::string& key, const std::string& what) {
    problems_ += "\n  " + printable(key) + ": " + what;
  }

  /// The base's name of a tensor of the model: a checkpoint of the model without its head has no
  /// "model." or "transformer." in front. Empty, and a problem, when there is none.
  std::string find(const std::string& key, const std::string& name) {
    if (base_.contains(name)) return name;
    const std::string top = top_of(name);
    if (top.size() < name.size() && tops_.count(top) == 0) {
      const std::string rest = name.substr(top.size() + 1);
      if (base_.contains(rest)) return rest;
    }
    const std::string near = base_.near_to(name);
    problem(key, "the base has no tensor " + in_quotes(name) +
                     (near.empty() ? "" : "; near it: " + near));
    return {};
  }

  /// Refuses what would change two things at once, or nothing.
  void check_tied(const std::string& key, const std::string& module) {
    const std::string last = last_name(module);
    if (last != "lm_head" && last != "embed_tokens" && last != "wte") return;
    if (!tied_known_) tied_ = is_tied(base_);
    tied_known_ = true;
    if (tied_) {
      problem(key,
              "embedding and head of the base are one tensor (tie_word_embeddings), which cannot "
              "hold a change of one of them");
    }
  }

  void check_float(const std::string& key, const TensorInfo& info) {
    if (!is_matrix_dtype(info.dtype))
      problem(key, "dtype is " + std::string(dtype_name(info.dtype)) +
                       ", expected F32, F64, F16 or BF16");
  }

  /// A tensor in no pair: lora_bias, or one that stands in the place of the base's.
  void add_other(const std::string& key) {
    std::string name(without_peft_prefix(key));
    constexpr std::string_view lora_bias = ".lora_B.bias", own = ".base_layer.";
    if (name.ends_with(lora_bias)) {
      const std::string module = name.substr(0, name.size() - lora_bias.size());
      const std::string found = find(key, module + ".bias");
      for (const PeftModule& one : adapter_.modules()) {
        if (one.name != module || found.empty()) continue;
        check_same_shape(key, found);
        MergedTensor& merged = plan_[found];
        merged.b_key = key;
        merged.scale = one.scaling;
        return;
      }
      if (!found.empty()) problem(key, "there is no lora_A and lora_B beside it");
      return;
    }
    if (const std::size_t at = name.rfind(own); at != name.npos) name.replace(at, own.size(), ".");
    const std::string found = find(key, name);
    if (found.empty()) return;
    check_tied(key, name.substr(0, name.rfind('.')));
    check_same_shape(key, found);
    std::string& place = plan_[found].saved_key;
    if (!place.empty()) problem(key, "stands for the same as " + printable(place));
    place = key;
  }
  void check_same_shape(const std::string& key, const std::string& name) {
    const TensorInfo &own = adapter_.tensors().info(key), &base = base_.info(name);
    check_float(key, own);
    check_float(name, base);
    if (own.shape != base.shape) {
      problem(key, "shape is " + shape_text(own.shape) + ", expected " + shape_text(base.shape) +
                       " as of the base");
    }
  }

  void add_module(const PeftModule& module) {
    const std::string name = find(module.a_key, module.name + ".weight");
    if (name.empty()) return;
    check_tied(module.a_key, module.name);
    check_float(name, base_.info(name));
    const auto& a = adapter_.tensors().info(module.a_key).shape;
    const auto& b = adapter_.tensors().info(module.b_key).shape;
    if (a.size() > 2 && b[1] != a[0]) {
      return problem(module.b_key, "shape is " + shape_text(b) +
                                       ": an adapter of a convolution with groups "
                                       "looks across them, which its merged weight cannot");
    }
    const bool turned = module.embedding || (adapter_.config().fan_in_fan_out && a.size() == 2);
    std::vector<Index> expected{b[0]};
    expected.insert(expected.end(), a.begin() + 1, a.end());
    if (turned) std::swap(expected[0], expected[1]);
    if (base_.info(name).shape != expected) {
      problem(name, "shape in the base is " + shape_text(base_.info(name).shape) + ", expected " +
                        shape_text(expected) + " for lora_A " + shape_text(a) + ", lora_B " +
                        shape_text(b) + (turned && !module.embedding ? " and fan_in_fan_out" : ""));
    }
    MergedTensor& merged = plan_[name];
    merged.b_key = module.b_key;
    merged.a_key = module.a_key;
    merged.scale = module.scaling;
    merged.layout = turned ? Layout::in_out : Layout::out_in;
  }

  const CheckpointFiles& base_;
  const PeftAdapter& adapter_;
  std::set<std::string> tops_;
  bool tied_known_ = false, tied_ = false;
  std::string problems_;
  MergePlan plan_;
};

}  // namespace detail

/// What merging `adapter` does to each tensor of `base`: A and B of linear layers, Conv1D
/// (fan_in_fan_out), embeddings and convolutions; lora_bias times the scale added to the bias;
/// saved modules and biases in the place of the base's, whatever the configuration calls them.
/// Every tensor of the adapter has a use, or it is a problem.
///
/// Throws FormatError that names all problems: tensors that the base has not, other shapes or
/// types, convolutions with groups, and the embedding or the head of a base that has both in one
/// tensor. Reads no values.
inline MergePlan plan_merge(const CheckpointFiles& base, const PeftAdapter& adapter) {
  return detail::MergePlanner(base, adapter).run();
}

}  // namespace LORA_NAMESPACE
