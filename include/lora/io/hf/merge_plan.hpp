// Plans which tensors of a base an adapter changes, and how: everything that merging checks before
// it writes.
#pragma once

#include <lora/adapters/merged_rows.hpp>
#include <lora/io/hf/checkpoint_structure.hpp>
#include <lora/io/peft/adapter_file.hpp>
#include <lora/io/peft/peft_adapter.hpp>

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// How one tensor of a merged checkpoint is made: W + scale · B A, where W is the base's tensor or
/// the one that the adapter saved in its place.
struct MergedTensor {
  std::string saved_key;     ///< key of W in the adapter's file; empty: the base's
  std::string base_key;      ///< the base's tensor it is made from; empty: the one of its name
  std::string b_key, a_key;  ///< keys of the factors; no b_key: no change; no a_key: A is (1)
  std::string m_key;  ///< key of DoRA's magnitudes, for c ∘ (W + scale · B A); empty: no scaling
  double scale = 0;
  Layout layout = Layout::out_in;  ///< in_out: W holds (B A)ᵀ
};

/// The plan of a merge.
struct MergePlan {
  /// By name in the merged checkpoint. Unchanged tensors are not listed.
  std::map<std::string, MergedTensor> tensors;
  /// Whether the head gets a tensor of its own and config.json says that it is no longer the
  /// embedding.
  bool untied = false;
  /// Sentences about what the adapter has instead of the base, a flag without effect, and whether
  /// embedding and head are separated.
  std::vector<std::string> warnings;
};

namespace detail {

/// What planning needs to know about an adapter.
struct AdapterOutline {
  std::string where;  ///< begins messages
  const LoRAConfig& config;
  const std::vector<PeftModule>& modules;
  const std::vector<std::string>& others;
  std::function<const TensorInfo&(const std::string&)> info;
  const SafetensorsFile* file = nullptr;  ///< to compare copies of the base's weights
};

class MergePlanner {
 public:
  MergePlanner(const CheckpointFiles& base, const AdapterOutline& adapter)
      : base_(base), structure_(base), adapter_(adapter) {}

  MergePlan run() {
    for (const std::string& key : adapter_.others) add_other(key);
    for (const PeftModule& module : adapter_.modules) add_module(module);
    settle_tied();
    const std::string flag = fan_in_fan_out_warning(adapter_.config.fan_in_fan_out, layouts_);
    if (!flag.empty()) plan_.warnings.push_back(flag);
    if (!problems_.empty()) {
      throw FormatError(adapter_.where + ": does not fit the base " + base_.directory().string() +
                        ":" + problems_);
    }
    return std::move(plan_);
  }

 private:
  void problem(const std::string& key, const std::string& what) {
    problems_ += "\n  " + printable(key) + ": " + what;
  }

  /// Returns the base's name of a tensor of the model. If there is none, returns "" and records a
  /// problem.
  std::string find(const std::string& key, const std::string& tensor) {
    const std::string found = structure_.find(tensor);
    if (!found.empty()) return found;
    const std::string near = base_.near_to(tensor);
    problem(key, "the base has no tensor " + in_quotes(tensor) +
                     (near.empty() ? "" : "; similar: " + near));
    return {};
  }

  /// Whether the module is one of the two that share one matrix in the base.
  bool is_tied(const std::string& module) const {
    return structure_.tied() && structure_.known() &&
           (module == structure_.embedding() || module == structure_.head());
  }
  /// Returns the module whose tensor in the base is this module's weight.
  const std::string& stored_as(const std::string& module) const {
    return is_tied(module) ? structure_.embedding() : module;
  }
  /// Whether the head of the base is certain. If it is not, a change of the head or the embedding
  /// is a problem.
  bool is_certain(const std::string& key, const std::string& module) {
    std::string what;
    if (is_tied(module)) {
      what = structure_.head_problem();
      if (!what.empty()) what = "lm_head.weight of the base " + what;
    } else if (module == structure_.embedding() && !structure_.has_head()) {
      what =
          "the base has no lm_head.weight (is it the embedding? then the configuration lacks "
          "tie_word_embeddings)";
    }
    if (!what.empty()) problem(key, what);
    return what.empty();
  }
  /// Separates two modules that share one matrix when one of them changes, if the base is known
  /// well enough. `rows` is as for CheckpointStructure::may_be_tied.
  bool part(const std::string& key, const std::string& module, Index rows, bool embedding = false) {
    if (!is_certain(key, module)) return false;
    if (is_tied(module)) return plan_.untied = true;
    if (structure_.known() || !structure_.tied() ||
        !structure_.may_be_tied(module, rows, embedding))
      return true;
    problem(key,
            "embedding and head of the base are one tensor (tie_word_embeddings), which cannot "
            "hold a change of one of them; give the base a head of its own first (save it in "
            "transformers with tie_word_embeddings = False)");
    return false;
  }
  /// Returns the rows of a tensor that stands for a module's weight.
  Index rows_of(const std::string& key) const {
    const std::vector<Index>& shape = adapter_.info(key).shape;
    return shape.size() == 2 ? shape[0] : 0;
  }
  /// Returns a module's weight in the merged checkpoint.
  MergedTensor& planned(const std::string& module, const std::string& in_base) {
    const bool head = is_tied(module) && module == structure_.head();
    return plan_.tensors[head ? module + ".weight" : in_base];
  }

  void check_float(const std::string& key, const TensorInfo& info) {
    if (!is_matrix_dtype(info.dtype)) problem(key, "dtype is " + matrix_dtype_fault(info.dtype));
  }

  /// Adds a tensor outside the pairs: lora_bias, or one that replaces the base's.
  void add_other(const std::string& key) {
    std::string name(without_peft_prefix(key));
    constexpr std::string_view lora_bias = ".lora_B.bias", own = ".base_layer.", weight = ".weight";
    if (name.ends_with(lora_bias))
      return add_lora_bias(key, name.substr(0, name.size() - lora_bias.size()));
    const std::string copied = copied_module(adapter_.config, key);
    if (adapter_.file != nullptr && !copied.empty()) return add_copy(key, copied);
    if (const std::size_t at = name.rfind(own); at != name.npos) name.replace(at, own.size(), ".");
    const std::string module = name.substr(0, name.rfind('.'));
    const bool whole = name.ends_with(weight);
    if (whole && !part(key, module, rows_of(key))) return;
    const std::string found = find(key, whole ? stored_as(module) + ".weight" : name);
    if (found.empty()) return;
    check_same_shape(key, found);
    std::string& place = (whole ? planned(module, found) : plan_.tensors[found]).saved_key;
    if (!place.empty()) problem(key, "replaces the same tensor as " + printable(place));
    place = key;
  }
  void add_lora_bias(const std::string& key, const std::string& module) {
    const std::string found = find(key, module + ".bias");
    for (const PeftModule& one : adapter_.modules) {
      if (one.name != module || found.empty()) continue;
      check_same_shape(key, found);
      MergedTensor& merged = plan_.tensors[found];
      merged.b_key = key;
      merged.scale = one.scaling;
      return;
    }
    if (!found.empty()) problem(key, "the module has no lora_A and lora_B");
  }
  /// Adds a copy of the base's weight. An equal copy changes nothing. A different one is the weight
  /// that the adapter was trained on; if embedding and head are one, it is both.
  void add_copy(const std::string& key, const std::string& module) {
    const std::string tensor = stored_as(module) + ".weight";
    const auto refused = [&] { return !part(key, module, rows_of(key)); };
    if (is_tied(module) && !is_certain(key, module)) return;
    if (!structure_.known() && structure_.find(tensor).empty() && refused()) return;
    const std::string found = find(key, tensor);
    if (found.empty() || !check_same_shape(key, found)) return;
    if (same_tensors(*adapter_.file, key, base_.file_of(found), found)) return;
    if (!structure_.known() && structure_.has_head() && refused()) return;
    const bool adapted = std::any_of(adapter_.modules.begin(), adapter_.modules.end(),
                                     [&](const PeftModule& one) { return one.name == module; });
    if (!is_where_peft_looks(key, adapted)) return problem(key, misplaced_copy(adapted));
    std::string& place = is_tied(module) ? tied_copy_ : plan_.tensors[found].saved_key;
    if (!place.empty() && !same_tensors(*adapter_.file, key, *adapter_.file, place))
      problem(key, "replaces the same tensor as " + printable(place) + " with other values");
    place = key;
    plan_.warnings.push_back(other_copy(key, module));
  }
  bool check_same_shape(const std::string& key, const std::string& name) {
    const TensorInfo &own = adapter_.info(key), &base = base_.info(name);
    check_float(key, own);
    check_float(name, base);
    if (own.shape == base.shape) return is_matrix_dtype(own.dtype) && is_matrix_dtype(base.dtype);
    problem(key, "shape is " + shape_text(own.shape) + ", expected " + shape_text(base.shape) +
                     " as of the base");
    return false;
  }

  void add_module(const PeftModule& module) {
    const auto& a = adapter_.info(module.a_key).shape;
    const auto& b = adapter_.info(module.b_key).shape;
    if (!part(module.a_key, module.name, module.embedding ? a[1] : b[0], module.embedding)) return;
    const std::string name = find(module.a_key, stored_as(module.name) + ".weight");
    if (name.empty()) return;
    check_float(name, base_.info(name));
    if (a.size() > 2 && b[1] != a[0]) {
      return problem(module.b_key, "shape is " + shape_text(b) +
                                       ": the adapter of a grouped convolution connects the "
                                       "groups, which a merged weight cannot");
    }
    const std::vector<Index>& shape = base_.info(name).shape;
    const bool turned = layout_of(module, shape) == Layout::in_out;
    if (const auto expected = changed_shape(a, b, turned); shape != expected) {
      problem(name, "shape in the base is " + shape_text(shape) + ", expected " +
                        shape_text(expected) + " for lora_A " + shape_text(a) + ", lora_B " +
                        shape_text(b) + (turned && !module.embedding ? " of a Conv1D" : ""));
    }
    MergedTensor& merged = planned(module.name, name);
    merged.b_key = module.b_key;
    merged.a_key = module.a_key;
    merged.m_key = module.m_key;
    merged.scale = module.scaling;
    merged.layout = turned ? Layout::in_out : Layout::out_in;
  }
  static std::vector<Index> changed_shape(const std::vector<Index>& a, const std::vector<Index>& b,
                                          bool turned) {
    std::vector<Index> shape{b[0]};
    shape.insert(shape.end(), a.begin() + 1, a.end());
    if (turned) std::swap(shape[0], shape[1]);
    return shape;
  }
  /// Returns the layout that the base indicates, else the one that fits. Rejects a square weight
  /// that only the adapter calls transposed, since nothing else could tell.
  Layout layout_of(const PeftModule& module, const std::vector<Index>& shape) {
    const auto& a = adapter_.info(module.a_key).shape;
    const auto& b = adapter_.info(module.b_key).shape;
    if (module.embedding) return Layout::in_out;
    if (a.size() != 2) return Layout::out_in;
    const auto known = structure_.layout(module.name);
    const bool fits = shape == changed_shape(a, b, false),
               turned = shape == changed_shape(a, b, true);
    if (!known && fits && turned && adapter_.config.fan_in_fan_out) {
      problem(module.a_key,
              "the weight is square and fan_in_fan_out is true, but neither a model_type in "
              "config.json that is known nor a bias says that the base stores it as (in, out)");
    }
    const Layout layout = known.value_or(turned && !fits ? Layout::in_out : Layout::out_in);
    std::string& first = layout == Layout::in_out ? layouts_.in_out : layouts_.out_in;
    if (first.empty()) first = module.name;
    return layout;
  }

  /// Runs when all changes are known. A separated head starts as the embedding was.
  void settle_tied() {
    if (!plan_.untied && tied_copy_.empty()) return;
    const std::string head = structure_.head() + ".weight",
                      table = structure_.find(structure_.embedding() + ".weight");
    if (table.empty()) return;  // already a problem
    if (!tied_copy_.empty() && plan_.tensors[table].saved_key.empty())
      plan_.tensors[table].saved_key = tied_copy_;
    if (!plan_.untied && !base_.contains(head)) return;
    MergedTensor& merged = plan_.tensors[head];
    if (merged.saved_key.empty()) merged.saved_key = tied_copy_;
    merged.base_key = table;
    if (!plan_.untied) return;
    plan_.warnings.push_back(
        "embedding and head of the base are one tensor, and the adapter changes one of them: the "
        "merged model has two, and its config.json says tie_word_embeddings = false");
  }

  const CheckpointFiles& base_;
  CheckpointStructure structure_;
  const AdapterOutline& adapter_;
  LayoutsSeen layouts_;
  std::string tied_copy_;  // key of what the adapter has instead of the shared matrix
  std::string problems_;
  MergePlan plan_;
};

}  // namespace detail

/// Plans what merging `adapter` does to each tensor of `base`: A and B of linear layers, Conv1D,
/// embeddings and convolutions; lora_bias times the scale, added to the bias; saved modules and
/// biases in the place of the base's, whatever the configuration says. The base determines the
/// orientation of a weight (CheckpointStructure::layout); the adapter's fan_in_fan_out does not. If
/// embedding and head are one matrix, a change of one of them gives the head a tensor of its own. A
/// copy of a base weight, as PEFT writes beside adapted embeddings and heads, is ignored if it
/// equals the base's, and otherwise replaces it, with a warning. A tensor of the adapter without a
/// use is a problem. Reads the values of copies and of a head that may differ from its embedding.
/// Throws: FormatError that names all problems: tensors that the base does not have, other shapes
///   or types, convolutions with groups, a square weight of unknown orientation, and a possible
///   embedding or head of a base that has both in one tensor and no model_type of this library, or
///   whose head is not the one it claims.
inline MergePlan plan_merge(const CheckpointFiles& base, const PeftAdapter& adapter) {
  const SafetensorsFile& file = adapter.tensors();
  const auto info = [&](const std::string& key) -> const TensorInfo& { return file.info(key); };
  const detail::AdapterOutline outline{
      file.where(), adapter.config(), adapter.modules(), adapter.other_tensors(), info, &file};
  return detail::MergePlanner(base, outline).run();
}

/// Plans the merge of a model's adapter as save_pretrained would write it, so that what cannot be
/// merged is known before training.
/// Throws: as above; ConfigError for an unknown adapter.
template <class Base>
MergePlan plan_merge(const CheckpointFiles& base, LoRAModel<Base>& model,
                     const std::string& adapter = "default") {
  const std::string where = "adapter " + in_quotes(adapter);
  const LoRAConfig& config = model.config(adapter);
  std::vector<std::string> names;
  std::map<std::string, TensorInfo> infos;
  for (const auto& [key, parameter] : adapter_tensors(model, adapter)) {
    names.push_back(key);
    infos[key] = {detail::own_dtype<typename Base::Scalar>, parameter->shape};
  }
  const auto info = [&](const std::string& key) -> const TensorInfo& { return infos.at(key); };
  const auto found = detail::check_peft_tensors(where, where, config, names, info);
  return detail::MergePlanner(base, {where, config, found.modules, found.others, info}).run();
}

}  // namespace lora
