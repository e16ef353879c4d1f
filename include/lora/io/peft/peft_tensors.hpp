// Pairs A and B by the names and shapes of an adapter's tensors, and reports everything wrong.
#pragma once

#include <lora/adapters/matching.hpp>
#include <lora/io/peft/peft_keys.hpp>
#include <lora/io/safetensors/safetensors.hpp>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// One adapted layer of an adapter's file.
struct PeftModule {
  std::string name;          ///< "model.layers.0.self_attn.q_proj": without "base_model.model."
  bool embedding = false;    ///< A and B are lora_embedding_A and lora_embedding_B
  std::string a_key, b_key;  ///< keys of the two tensors in the file
  std::string m_key;         ///< key of lora_magnitude_vector with use_dora, else empty
  Index r = 0;               ///< rows of A, equal to r or rank_pattern
  double alpha = 0, scaling = 0;  ///< from lora_alpha or alpha_pattern; alpha / r or alpha / √r
};

namespace detail {

/// The A/B pairs of a file by module, and the keys outside them.
class PeftPairs {
 public:
  struct Entry {
    std::string name;
    std::string a_key, b_key, m_key;
    bool embedding = false;
  };
  explicit PeftPairs(const std::vector<std::string>& keys, std::string& problems) {
    for (const std::string& key : keys) add(key, problems);
    for (const Entry& entry : entries) {
      if (!entry.a_key.empty() && !entry.b_key.empty()) continue;
      if (entry.a_key.empty() && entry.b_key.empty()) {
        problems += "\n  " + printable(entry.m_key) + ": has no lora_A and lora_B beside it";
        continue;
      }
      const bool has_a = !entry.a_key.empty();
      problems += "\n  " + printable(has_a ? entry.a_key : entry.b_key) + ": has no " +
                  (entry.embedding ? "lora_embedding_" : "lora_") + (has_a ? "B" : "A") +
                  " beside it";
    }
  }

  std::vector<Entry> entries;  // in the order of their first key
  std::vector<std::string> others;

 private:
  void add(const std::string& key, std::string& problems) {
    std::string_view name = without_peft_prefix(key);
    struct Ending {
      std::string_view text;
      std::string Entry::*place;
      bool embedding;
    };
    for (const Ending& ending : {Ending{".lora_A.weight", &Entry::a_key, false},
                                 {".lora_B.weight", &Entry::b_key, false},
                                 {".lora_embedding_A", &Entry::a_key, true},
                                 {".lora_embedding_B", &Entry::b_key, true},
                                 {".lora_magnitude_vector", &Entry::m_key, false}}) {
      if (!name.ends_with(ending.text) || name.size() == ending.text.size()) continue;
      name.remove_suffix(ending.text.size());
      const auto [at, fresh] = index_.emplace(std::string(name), entries.size());
      if (fresh) entries.push_back({std::string(name), {}, {}, {}, false});
      Entry& entry = entries[at->second];
      std::string& place = entry.*ending.place;
      const bool of_either = ending.place == &Entry::m_key;
      const bool first_factor = entry.a_key.empty() && entry.b_key.empty();
      if (first_factor && !of_either) entry.embedding = ending.embedding;
      if (entry.embedding != ending.embedding && !of_either) {
        problems += "\n  " + printable(key) + ": the module has tensors of an embedding and of " +
                    "another layer";
      } else if (!place.empty()) {
        problems += "\n  " + printable(key) + ": means the same tensor as " + printable(place);
      } else {
        place = key;
      }
      return;
    }
    others.push_back(key);
  }

  std::map<std::string, std::size_t> index_;
};

/// The modules and other tensors of an adapter's file.
struct PeftTensors {
  std::vector<PeftModule> modules;
  std::vector<std::string> others;
};

/// Returns the rank, alpha and scale of each module by the configuration. The targets are the
/// modules of the file, so this matches only rank_pattern and alpha_pattern.
inline std::vector<MatchedModule> match_peft_modules(const std::string& where,
                                                     const LoRAConfig& config,
                                                     const std::vector<PeftModule>& modules) {
  LoRAConfig given;
  given.r = config.r;
  given.lora_alpha = config.lora_alpha;
  given.use_rslora = config.use_rslora;
  given.rank_pattern = config.rank_pattern;
  given.alpha_pattern = config.alpha_pattern;
  std::vector<std::string> names;
  std::vector<ModuleInfo> infos;
  for (const PeftModule& module : modules) {
    names.push_back(module.name);
    infos.push_back({module.name, module.embedding ? "Embedding" : "Linear"});
  }
  given.target_modules = names;
  try {
    return match_modules(infos, given).targets;
  } catch (const ConfigError& error) {
    throw ConfigError(where + ": " + error.what());
  }
}

/// Describes what is wrong with the types and shapes of A and B; empty: nothing.
inline std::string peft_pair_fault(const PeftModule& module, const TensorInfo& a,
                                   const TensorInfo& b) {
  for (const auto* one : {&a, &b}) {
    if (is_matrix_dtype(one->dtype)) continue;
    return printable(one == &a ? module.a_key : module.b_key) + ": dtype is " +
           matrix_dtype_fault(one->dtype);
  }
  const std::string shapes = printable(module.a_key) + " is " + shape_text(a.shape) + " and " +
                             printable(module.b_key) + " is " + shape_text(b.shape) + ", expected ";
  const std::size_t dims = a.shape.size();
  if (dims < 2 || b.shape.size() != dims || (module.embedding && dims != 2))
    return shapes + "(r, in) and (out, r), or with a kernel (r, in, ...) and (out, r, ...)";
  const Index r = a.shape[0], columns = b.shape[1];
  // B of a convolution with groups has r / groups columns.
  const bool fits = dims == 2 ? columns == r : columns > 0 && r % columns == 0;
  return r >= 1 && fits ? "" : shapes + "the same rank in both";
}

/// Describes what is wrong with a module's lora_magnitude_vector; empty: nothing.
inline std::string magnitude_fault(const PeftModule& module, bool use_dora, const TensorInfo* m,
                                   const TensorInfo& b) {
  if (m == nullptr) {
    if (!use_dora) return "";
    return printable(module.b_key) +
           ": has no lora_magnitude_vector beside it, which use_dora = true needs";
  }
  const std::string key = printable(module.m_key);
  if (!use_dora)
    return key + ": belongs to a DoRA adapter, but use_dora is not true in the configuration";
  if (!is_matrix_dtype(m->dtype)) return key + ": dtype is " + matrix_dtype_fault(m->dtype);
  std::vector<Index> expected{b.shape[0]};
  if (b.shape.size() > 2) {
    expected.assign(b.shape.size(), 1);
    expected[1] = b.shape[0];
  }
  if (m->shape == expected) return "";
  return key + ": shape is " + shape_text(m->shape) + ", expected " + shape_text(expected);
}

/// Pairs the tensors in `names`; info(name) returns type and shape.
/// Throws: FormatError that starts with `where` and names everything wrong; ConfigError that starts
///   with `config_where`, for a pattern that is refused.
template <class Info>
PeftTensors check_peft_tensors(const std::string& where, const std::string& config_where,
                               const LoRAConfig& config, const std::vector<std::string>& names,
                               Info&& info) {
  if (names.empty()) {
    throw FormatError(where +
                      ": holds no tensors, so there is nothing to load; the program that saved it "
                      "found no adapter (a model saved after merging, or under another name?)");
  }
  std::string problems;
  PeftPairs pairs(names, problems);
  PeftTensors found;
  for (const PeftPairs::Entry& entry : pairs.entries) {
    if (entry.a_key.empty() || entry.b_key.empty()) continue;
    PeftModule module{entry.name, entry.embedding, entry.a_key, entry.b_key, entry.m_key};
    const TensorInfo a = info(module.a_key), b = info(module.b_key);
    std::string fault = peft_pair_fault(module, a, b);
    if (fault.empty()) {
      std::optional<TensorInfo> m;
      if (!module.m_key.empty()) m = info(module.m_key);
      fault = magnitude_fault(module, config.use_dora, m ? &*m : nullptr, b);
    }
    if (!fault.empty()) {
      problems += "\n  " + fault;
      continue;
    }
    module.r = a.shape[0];
    found.modules.push_back(std::move(module));
  }
  if (pairs.entries.empty()) problems += "\n  no lora_A and lora_B of any layer";
  if (!found.modules.empty()) {
    const std::vector<MatchedModule> matched =
        match_peft_modules(config_where, config, found.modules);
    for (std::size_t i = 0; i < matched.size(); ++i) {
      PeftModule& module = found.modules[i];
      module.alpha = matched[i].alpha;
      module.scaling = matched[i].scaling;
      if (module.r == matched[i].r) continue;
      problems += "\n  " + printable(module.a_key) + ": has rank " + std::to_string(module.r) +
                  ", expected " + std::to_string(matched[i].r) +
                  (matched[i].r == config.r ? " (r)" : " (rank_pattern)");
    }
  }
  if (!problems.empty())
    throw FormatError(where + ": does not hold the adapter of its configuration:" + problems);
  found.others = std::move(pairs.others);
  return found;
}

/// Removes the adapter's name from the keys of a state_dict and returns it; empty if there is none.
/// Throws: FormatError for several names, and for two keys, with and without a name, that mean the
///   same tensor.
inline std::string use_file_keys(SafetensorsFile& file) {
  std::map<std::string, std::string> renamed;
  std::set<std::string> adapters;
  for (const std::string& key : file.names()) {
    if (auto named = named_peft_key(key)) {
      adapters.insert(named->adapter);
      renamed.emplace(key, std::move(named->key));
    }
  }
  if (adapters.empty()) return "";
  if (adapters.size() > 1) {
    throw FormatError(file.where() + ": the keys hold the names of several adapters, " +
                      in_quotes(*adapters.begin()) + " and " + in_quotes(*adapters.rbegin()) +
                      ", expected one; write the keys of each into a folder of its own");
  }
  file.rename(renamed);
  return *adapters.begin();
}

}  // namespace detail

}  // namespace lora
