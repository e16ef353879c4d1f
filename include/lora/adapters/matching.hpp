// Selects the modules of a configuration, with rank and scale, by PEFT's rules (tuners_utils.py,
// `check_target_module_exists`; other.py, `get_pattern_key`, `_set_trainable`).
#pragma once

#include <lora/adapters/config.hpp>
#include <lora/adapters/default_targets.hpp>
#include <lora/adapters/match_report.hpp>
#include <lora/adapters/name_rules.hpp>
#include <lora/adapters/near_names.hpp>
#include <lora/core/on_use.hpp>
#include <lora/core/printable.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

namespace detail {

/// One call of match_modules. A template, so that it is compiled only where it is used.
template <class Config>
class Matcher {
  using Modules = std::vector<OnUse<ModuleInfo, Config>>;
  using String = OnUse<std::string, Config>;
  using Names = std::vector<String>;
  using Pattern = BasicPattern<Config>;
  using NameList = BasicNameList<Config>;
  using KeyPattern = BasicKeyPattern<Config>;
  using LayerFinder = BasicLayerFinder<Config>;

 public:
  Matcher(const Modules& modules, const Config& config, std::string_view model_type)
      : modules_(modules),
        config_(config),
        layers_wanted_(config.layers_to_transform.indices().begin(),
                       config.layers_to_transform.indices().end()),
        targets_(selector("target_modules", target_selection(model_type))),
        excludes_(selector("exclude_modules", config.exclude_modules)),
        layer_finder_(compile_, layer_patterns()) {
    for (const String& name : config.effective_modules_to_save()) {
      kept_.emplace_back(compile_, "modules_to_save", name, KeyPattern::Where::segments);
    }
    for (const auto& [key, rank] : config.rank_pattern) {
      rank_keys_.emplace_back(compile_, "rank_pattern", key, KeyPattern::Where::end);
    }
    for (const auto& [key, alpha] : config.alpha_pattern) {
      alpha_keys_.emplace_back(compile_, "alpha_pattern", key, KeyPattern::Where::end);
    }
    rank_used_.resize(rank_keys_.size());
    alpha_used_.resize(alpha_keys_.size());
    kept_used_.resize(kept_.size());
  }

  MatchReport run() {
    for (const auto& module : modules_) {
      if (module.name.empty()) continue;  // the model itself
      if (takes(module.name)) add_target(module);
      bound_work();
    }
    if (report_.targets.empty()) fail_nothing_matched();
    find_saved();
    warn_selector(targets_);
    warn_selector(excludes_);
    warn_saved();
    warn_keys("rank_pattern", rank_keys_, rank_used_);
    warn_keys("alpha_pattern", alpha_keys_, alpha_used_);
    warn_layers();
    const String flag = fan_in_fan_out_warning(config_.fan_in_fan_out, layouts_);
    if (!flag.empty()) warn(flag);
    return std::move(report_);
  }

 private:
  /// A target or exclude selection: nothing, a pattern for the whole path, or a list of names.
  struct Selector {
    String field;
    std::optional<Pattern> pattern;
    std::optional<NameList> names;
    bool ours = false;                 // names from default targets or all-linear, not the user
    std::vector<bool> hit, effective;  // one per name, or one for the pattern
  };
  static constexpr std::size_t near_lists = 16;  // each scans all modules

  Selector selector(const char* field, OnUse<NameSelection, Config> selection) {
    Selector s;
    s.field = field;
    s.ours = s.field == "target_modules" && !(config_.target_modules == selection);
    std::size_t entries = 1;
    if (const std::string* text = selection.pattern(); text != nullptr && !text->empty()) {
      s.pattern = compile_(s.field, *text);
    } else if (const auto* names = selection.list()) {
      s.names.emplace(*names);
      entries = names->size();
    }
    s.hit.resize(entries);
    s.effective.resize(entries);
    return s;
  }

  NameSelection target_selection(std::string_view model_type) const {
    if (config_.target_modules.is_null()) return default_target_modules(model_type);
    const std::string* text = config_.target_modules.pattern();
    String lower = text == nullptr ? "" : *text;
    for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    return lower == "all-linear"
               ? NameSelection(all_linear_modules(modules_, config_.task_type == "SEQ_CLS"))
               : config_.target_modules;
  }

  Names layer_patterns() const {
    if (const std::string* one = config_.layers_pattern.pattern(); one != nullptr && !one->empty())
      return {*one};
    if (const auto* many = config_.layers_pattern.list()) return *many;
    return {};
  }

  /// Applies the rules in PEFT's order: excluded, saved, pattern, exact name in any layer, end of
  /// the name in a wanted layer.
  bool takes(const String& name) {
    const bool excluded = selects(excludes_, name).first;
    const bool kept = std::any_of(kept_.begin(), kept_.end(),
                                  [&](const KeyPattern& k) { return matches(k, name); });
    const auto [selected, hit] = selects(targets_, name);
    if (!selected || excluded || kept || (targets_.names && !hit.exact && !in_wanted_layer(name)))
      return false;
    if (targets_.pattern) targets_.effective[0] = true;
    for (const std::size_t i : hit.entries) targets_.effective[i] = true;
    return true;
  }

  std::pair<bool, typename NameList::Hit> selects(Selector& s, const String& name) {
    typename NameList::Hit hit;
    bool selected = false;
    if (s.pattern) {
      selected = s.pattern->full_match(name, scratch_);
      if (selected) s.hit[0] = true;
    } else if (s.names) {
      hit = s.names->find(name);
      for (const std::size_t i : hit.entries) s.hit[i] = true;
      selected = !hit.entries.empty();
    }
    return {selected, std::move(hit)};
  }

  bool in_wanted_layer(const String& name) {
    if (layers_wanted_.empty()) return true;
    const std::optional<Index> layer = layer_finder_.layer(name, scratch_);
    if (!layer || layers_wanted_.count(*layer) == 0) return false;
    layers_used_.insert(*layer);
    return true;
  }

  void add_target(const auto& module) {
    constexpr std::string_view adaptable[] = {"Linear", "Conv1D", "Embedding", "Conv2d"};
    if (std::find(std::begin(adaptable), std::end(adaptable), module.type) == std::end(adaptable)) {
      throw ConfigError("LoRAConfig: target_modules selects " + in_quotes(module.name) + ", a " +
                        module.type +
                        ", which cannot be adapted; only Linear, Conv1D, Embedding and Conv2d can");
    }
    if (config_.lora_bias && module.type == "Embedding") {
      throw ConfigError("LoRAConfig: lora_bias = true is not supported for the Embedding " +
                        in_quotes(module.name));
    }
    if (module.type == "Linear" && layouts_.out_in.empty()) layouts_.out_in = module.name;
    if (module.type == "Conv1D" && layouts_.in_out.empty()) layouts_.in_out = module.name;
    const Index r = looked_up(config_.rank_pattern, rank_keys_, rank_used_, module.name, config_.r);
    const double alpha =
        looked_up(config_.alpha_pattern, alpha_keys_, alpha_used_, module.name, config_.lora_alpha);
    report_.targets.push_back({module.name, r, alpha, scaling(alpha, r, config_.use_rslora)});
  }

  /// The value of the first matching key, else of the key that equals the name, else the default.
  template <class Value>
  Value looked_up(const std::vector<std::pair<std::string, Value>>& values,
                  const std::vector<KeyPattern>& keys, std::vector<bool>& used, const String& name,
                  Value standard) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (matches(keys[i], name)) return used[i] = true, values[i].second;
    }
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (keys[i].key() == name) return used[i] = true, values[i].second;
    }
    return standard;
  }

  /// Finds the saved modules. A name matches the end of a path without a dot before it ("head"
  /// matches lm_head too), and a container matches everything in it.
  void find_saved() {
    for (const auto& module : modules_) {
      bool saved = false;
      for (std::size_t end = module.name.size(); end != module.name.npos && end > 0;
           end = module.name.rfind('.', end - 1)) {
        scratch_.steps += kept_.size();
        for (std::size_t i = 0; i < kept_.size(); ++i) {
          const std::string_view path = std::string_view(module.name).substr(0, end);
          if (path.ends_with(kept_[i].key())) saved = kept_used_[i] = true;
        }
      }
      if (saved) report_.saved.push_back(module.name);
      bound_work();
    }
    const std::set<OnUse<std::string_view, Config>> saved(report_.saved.begin(),
                                                          report_.saved.end());
    for (const MatchedModule& target : report_.targets) {
      if (saved.count(target.name) > 0) {
        throw ConfigError("LoRAConfig: modules_to_save selects " + in_quotes(target.name) +
                          ", which target_modules adapts (it compares ends of names without a "
                          "dot); write the whole name");
      }
    }
  }

  bool matches(const KeyPattern& key, const String& name) {
    bound_work();
    return key.matches(name, scratch_);
  }

  /// Bounds the time to seconds, for any number of untrusted patterns. Checked before each key and
  /// after each module. A hundred ordinary patterns take a third of the bound.
  void bound_work() const {
    const std::uint64_t most = 50000000 + 100000 * static_cast<std::uint64_t>(modules_.size());
    if (scratch_.steps > most) {
      throw ConfigError("LoRAConfig: the names and regular expressions take more than " +
                        std::to_string(most) + " steps over " + std::to_string(modules_.size()) +
                        " modules; use simpler or fewer ones");
    }
  }

  std::string near(std::string_view asked) {
    if (near_used_++ >= near_lists) return "";
    std::vector<std::string_view> names;
    for (const auto& m : modules_) names.push_back(m.name);
    const std::string found = near_names(asked, names);
    return found.empty() ? "" : "; near names: " + found;
  }
  void warn(const String& text) { report_.warnings.push_back("LoRAConfig: " + text); }

  [[noreturn]] void fail_nothing_matched() {
    const std::size_t count = modules_.size();
    if (std::find(targets_.hit.begin(), targets_.hit.end(), true) != targets_.hit.end()) {
      throw ConfigError(
          "LoRAConfig: exclude_modules, modules_to_save and layers_to_transform leave none of the "
          "modules that target_modules names");
    }
    String text = "LoRAConfig: target_modules = ";
    if (targets_.pattern) {
      const String& pattern = targets_.pattern->text();
      text += in_quotes(pattern) + " matches none of the " + std::to_string(count) +
              " modules; a string is a regular expression for the whole name, a list like "
              "{\"q_proj\"} has ends of names" +
              near(pattern);
      throw ConfigError(text);
    }
    const Names& names = targets_.names->names();
    for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 4); ++i)
      text += (i == 0 ? "[" : ", ") + in_quotes(names[i]);
    text += (names.size() > 4 ? ", ...]" : "]");
    text += " matches none of the " + std::to_string(count) + " modules";
    for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 4); ++i) {
      const std::string found = near(names[i]);
      if (!found.empty())
        text +=
            "; near names of " + in_quotes(names[i]) + ": " + found.substr(found.find(": ") + 2);
    }
    throw ConfigError(text);
  }

  void warn_selector(const Selector& s) {
    const bool is_target = s.field == "target_modules";
    const auto one = [&](std::size_t i, const String& text) {
      if (!s.hit[i]) {
        warn(s.field + ": " + in_quotes(text) + " matches no module" + near(text));
      } else if (is_target && !s.effective[i]) {
        warn(s.field + ": " + in_quotes(text) +
             " names only modules that exclude_modules, modules_to_save or layers_to_transform "
             "take out");
      }
    };
    if (s.pattern) one(0, s.pattern->text());
    if (!s.names || s.ours) return;
    for (std::size_t i = 0; i < s.names->names().size(); ++i) {
      if (s.names->is_first(i)) one(i, s.names->names()[i]);
    }
  }

  void warn_saved() {
    Config task;  // PEFT adds all heads of the task, but few models have all of them
    task.task_type = config_.task_type;
    const auto heads = task.effective_modules_to_save();
    for (std::size_t i = 0; i < kept_.size(); ++i) {
      const String& key = kept_[i].key();
      if (kept_used_[i] || std::count(heads.begin(), heads.end(), key) != 0) continue;
      warn("modules_to_save: " + in_quotes(key) + " matches no module" + near(key));
    }
  }

  void warn_keys(const String& field, const std::vector<KeyPattern>& keys,
                 const std::vector<bool>& used) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (used[i]) continue;
      bool shadowed = false;
      for (const MatchedModule& target : report_.targets) {
        shadowed = shadowed || matches(keys[i], target.name);
      }
      if (shadowed) {
        warn(field + ": " + in_quotes(keys[i].key()) +
             " is never used; earlier keys match every module that it matches");
      } else {
        warn(field + ": " + in_quotes(keys[i].key()) + " matches no adapted module" +
             near(keys[i].key()));
      }
    }
  }

  void warn_layers() {
    for (const Index layer : layers_wanted_) {
      if (layers_used_.count(layer) > 0) continue;
      warn("layers_to_transform: no module that target_modules names by its end is in layer " +
           std::to_string(layer));
    }
  }

  const Modules& modules_;
  const Config& config_;
  std::set<OnUse<Index, Config>> layers_wanted_;
  BasicPatternCompiler<Config> compile_;  // before the members it initialises
  Selector targets_, excludes_;
  LayerFinder layer_finder_;
  std::vector<KeyPattern> kept_, rank_keys_, alpha_keys_;
  std::vector<bool> kept_used_, rank_used_, alpha_used_;
  std::set<OnUse<Index, Config>> layers_used_;
  PatternScratch scratch_;
  OnUse<LayoutsSeen, Config> layouts_;
  std::size_t near_used_ = 0;
  OnUse<MatchReport, Config> report_;
};

}  // namespace detail

/// Returns the modules that `config` adapts, with rank, alpha and scale, and those that it trains
/// as a whole, in O(modules · (path + keys)). `model_type` selects the targets if target_modules is
/// null. The rules for each module, in order: exclude_modules; modules_to_save; target_modules as a
/// string (a regular expression for the whole path, or "all-linear"), as a whole path, or as the
/// end of a path after a dot; for the last, also layers_to_transform and layers_pattern.
/// rank_pattern and alpha_pattern use the first key that matches the end of the path.
/// Throws: ConfigError for an invalid config, a path listed twice, a pattern that is refused or
///   costs too much, no match, a layer that cannot be adapted, and a layer both adapted and saved.
/// Source: PEFT, except that a name without effect gives a warning with similar names, and
///   layers_to_transform = 0 may be used with layers_pattern.
template <class Config = LoRAConfig>
MatchReport match_modules(const std::vector<ModuleInfo>& modules, const Config& config,
                          std::string_view model_type = {}) {
  config.validate();
  std::set<OnUse<std::string_view, Config>> seen;
  for (const ModuleInfo& module : modules) {
    if (!seen.insert(module.name).second) {
      throw ConfigError("match_modules: two modules have the name " + in_quotes(module.name));
    }
  }
  return detail::Matcher<Config>(modules, config, model_type).run();
}

}  // namespace lora
