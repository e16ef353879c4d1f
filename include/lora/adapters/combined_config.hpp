// The configuration of an adapter that combines several others.
#pragma once

#include <lora/adapters/matching.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// The rank of the new adapter on one module.
struct ModuleRank {
  std::string module;
  Index r;
};

namespace detail {

/// One way for a configuration to name its modules.
struct TargetChoice {
  NameSelection target_modules;
  bool filters = false;  ///< keeps the first source's exclude_modules and layers_*
};

/// Escapes a module's path into a regular expression that matches only that path.
inline std::string escaped(const std::string& path) {
  std::string text;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (!is_ascii_word(byte) && byte < 0x80 && c != '-') text += '\\';
    text += c;
  }
  return text;
}

inline void add_once(std::vector<std::string>& list, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (std::find(list.begin(), list.end(), name) == list.end()) list.push_back(name);
  }
}

/// PEFT's union of target_modules: the names of all lists, or (a)|(b) of regular expressions. Empty
/// if the sources mix lists and expressions, or some of them leave the field null.
template <class Tag>
std::optional<NameSelection> united_targets(const std::vector<BasicLoRAConfig<Tag>>& sources) {
  std::vector<std::string> names, patterns;
  for (const auto& source : sources) {
    if (const auto* list = source.target_modules.list()) add_once(names, *list);
    if (const auto* pattern = source.target_modules.pattern()) add_once(patterns, {*pattern});
    if (source.target_modules.is_null() && !(source.target_modules == sources[0].target_modules))
      return std::nullopt;
  }
  if (names.empty() && patterns.empty()) return NameSelection();
  if (!names.empty() && !patterns.empty()) return std::nullopt;
  if (patterns.empty()) return NameSelection(names);
  if (patterns.size() == 1) return NameSelection(patterns[0]);
  std::string all;
  for (const std::string& pattern : patterns) all += (all.empty() ? "(" : "|(") + pattern + ")";
  return NameSelection(all);
}

/// The ways to name the modules, most readable first. The last never matches other modules.
template <class Tag>
std::vector<TargetChoice> target_choices(const std::vector<BasicLoRAConfig<Tag>>& sources,
                                         const std::vector<ModuleRank>& ranks) {
  std::vector<TargetChoice> choices;
  if (const auto united = united_targets(sources)) choices.push_back({*united, true});
  std::vector<std::string> paths;
  std::string pattern;
  for (const ModuleRank& one : ranks) {
    paths.push_back(one.module);
    pattern += (pattern.empty() ? "" : "|") + escaped(one.module);
  }
  choices.push_back({paths, false});
  choices.push_back({pattern, false});
  return choices;
}

/// Whether matching found exactly these modules, with these ranks and s = 1, and these copies.
inline bool selects(const MatchReport& report, const std::vector<ModuleRank>& ranks,
                    const std::vector<std::string>& saved) {
  const auto same = [](const MatchedModule& found, const ModuleRank& wanted) {
    return found.name == wanted.module && found.r == wanted.r && found.scaling == 1;
  };
  return report.saved == saved &&
         std::equal(report.targets.begin(), report.targets.end(), ranks.begin(), ranks.end(), same);
}

}  // namespace detail

/// Builds the configuration of an adapter with s = 1 and these ranks on these modules, and trained
/// copies of the modules `saved`. `modules` lists all modules of the model; `ranks` and `saved` are
/// in its order. r is the largest rank and lora_alpha = r; rank_pattern and alpha_pattern name the
/// modules with other ranks; use_rslora is false and init_lora_weights true.
///
/// target_modules is PEFT's union of the sources', with the other fields of the first source, if
/// that selects exactly these modules with their ranks. Otherwise it is the list of their paths,
/// and failing that a regular expression. This happens if exclude_modules or layers_to_transform
/// differ between sources, where PEFT would lose modules.
/// Throws: ConfigError if there are no sources or ranks, or no configuration works, as for a module
///   that is not in `modules`.
template <class Tag = void>
BasicLoRAConfig<Tag> combined_config(const std::vector<BasicLoRAConfig<Tag>>& sources,
                                     const std::vector<ModuleRank>& ranks,
                                     const std::vector<std::string>& saved,
                                     const std::vector<ModuleInfo>& modules,
                                     std::string_view model_type = {}) {
  if (sources.empty() || ranks.empty()) {
    throw ConfigError("combined_config: there are " + std::to_string(sources.size()) +
                      " configurations and " + std::to_string(ranks.size()) +
                      " modules, expected at least one of each");
  }
  BasicLoRAConfig<Tag> base = sources[0];
  base.r = 0;
  for (const ModuleRank& one : ranks) base.r = std::max(base.r, one.r);
  base.lora_alpha = static_cast<double>(base.r);
  base.use_rslora = false;
  base.init_lora_weights = true;
  std::vector<std::string> save;
  for (const auto& source : sources) detail::add_once(save, source.effective_modules_to_save());
  base.modules_to_save.reset();
  if (!save.empty()) base.modules_to_save = save;
  std::string reason;
  for (const detail::TargetChoice& choice : detail::target_choices(sources, ranks)) {
    for (const bool anchored : {false, true}) {
      BasicLoRAConfig<Tag> config = base;
      config.target_modules = choice.target_modules;
      if (!choice.filters) {
        config.exclude_modules = {};
        config.layers_to_transform = {};
        config.layers_pattern = {};
      }
      config.rank_pattern.clear();
      config.alpha_pattern.clear();
      for (const ModuleRank& one : ranks) {
        if (one.r == config.r) continue;
        const std::string key = anchored ? "^" + detail::escaped(one.module) : one.module;
        config.rank_pattern.emplace_back(key, one.r);
        config.alpha_pattern.emplace_back(key, static_cast<double>(one.r));
      }
      try {
        config.validate();
        if (detail::selects(match_modules(modules, config, model_type), ranks, saved))
          return config;
      } catch (const ConfigError& error) {
        reason = std::string(": ") + error.what();
      }
    }
  }
  throw ConfigError("combined_config: no configuration selects exactly the modules of the sources" +
                    reason);
}

}  // namespace lora
