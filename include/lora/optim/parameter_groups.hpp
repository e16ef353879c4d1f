// Groups of parameters with their own learning rate and weight decay, chosen by name and shape.
#pragma once

#include <lora/core/check.hpp>
#include <lora/core/printable.hpp>

#include <cmath>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// A set of parameters with options of its own. Options left empty are those of the optimiser.
struct ParameterGroup {
  std::string name;  ///< named in messages and used to watch the learning rate
  /// Whether a parameter (its name and PyTorch shape) belongs to the group. Called once per name.
  std::function<bool(const std::string& name, const std::vector<Index>& shape)> contains;
  std::optional<double> lr{};
  std::optional<double> weight_decay{};
};

/// The groups of one optimiser: the given ones in order, then "default" for all remaining
/// parameters. The learning rate of a group is its own times a common factor, which a schedule
/// sets.
template <class Group = ParameterGroup>
class BasicParameterGroups {
 public:
  /// Creates the groups. Messages begin with `owner`.
  /// Throws: ConfigError for a rate or decay that is negative or not finite, and for a group
  ///   without `contains`.
  BasicParameterGroups(const std::string& owner, double lr, double weight_decay,
                       std::vector<Group> groups)
      : owner_(owner), groups_(std::move(groups)) {
    groups_.push_back({"default", [](const auto&, const auto&) { return true; }, lr, weight_decay});
    for (Group& group : groups_) {
      const std::string where = owner_ + ", group \"" + group.name + "\"";
      if (!group.contains) {
        throw ConfigError(where + ": contains is empty, expected a function of name and shape");
      }
      if (!group.lr) group.lr = lr;
      if (!group.weight_decay) group.weight_decay = weight_decay;
      const detail::OptionCheck check{where};
      check.not_negative("lr", *group.lr);
      check.not_negative("weight_decay", *group.weight_decay);
    }
  }

  /// Returns the first group that contains the parameter.
  std::size_t find(const std::string& name, const std::vector<Index>& shape) const {
    expect_any();
    std::size_t g = 0;
    while (g + 1 < groups_.size() && !groups_[g].contains(name, shape)) ++g;
    return g;
  }

  /// Sets lr(g) = base_lr(g) · factor.
  /// Throws: ConfigError unless the factor is finite and not negative.
  void set_lr_factor(double factor) {
    detail::OptionCheck{owner_}.not_negative("the factor of the learning rate", factor);
    factor_ = factor;
  }

  std::size_t size() const { return groups_.size(); }  ///< includes the default group, the last one
  const std::string& name(std::size_t g) const { return at(g).name; }
  double base_lr(std::size_t g) const { return *at(g).lr; }
  double lr(std::size_t g) const { return base_lr(g) * factor_; }
  double weight_decay(std::size_t g) const { return *at(g).weight_decay; }
  double lr_factor() const { return factor_; }
  /// Checks that the groups are valid.
  /// Throws: Error if they, or the optimiser that holds them, were moved from.
  void expect_any() const {
    if (!groups_.empty()) return;
    throw Error("ParameterGroups: the optimiser was moved from; assign a new value first");
  }

 private:
  const Group& at(std::size_t g) const {
    expect_any();
    return groups_.at(g);
  }

  std::string owner_;
  std::vector<Group> groups_;
  double factor_ = 1;
};
using ParameterGroups = BasicParameterGroups<>;

/// Returns a group without weight decay for vectors (biases and the weights of norms), selected by
/// shape. DoRA's magnitudes are vectors that decay, as in transformers' Trainer, which selects by
/// names and kinds of modules.
template <class = void>
ParameterGroup no_decay() {
  return {"no_decay",
          [](const std::string& name, const std::vector<Index>& shape) {
            return shape.size() == 1 && name.find("lora_magnitude_vector") == name.npos;
          },
          std::nullopt, 0.0};
}

/// The options of LoRA+, with PEFT's names.
struct LoRAPlusOptions {
  double loraplus_lr_embedding = 1e-6;
  double loraplus_weight_decay = 0;
};

/// Returns the four groups of LoRA+:
///   "embedding"       lora_embedding_A and _B         loraplus_lr_embedding
///   "groupB_no_decay" biases and norms among groupB   lr · loraplus_lr_ratio, no decay
///   "groupB"          lora_B in the name, or a vector lr · loraplus_lr_ratio
///   "groupA"          everything else                 lr
/// As in PEFT, the decay is loraplus_weight_decay and not the weight_decay of the optimiser. PEFT
/// recognises a norm by its class; here a norm is a vector with "norm" in its name or a part that
/// begins with "ln".
/// Throws: ConfigError for a ratio that is not positive and finite.
/// Source: Hayou, Ghosh and Yu, 2024; PEFT's create_loraplus_optimizer.
template <class = void>
std::vector<ParameterGroup> loraplus_groups(double lr, double loraplus_lr_ratio,
                                            const LoRAPlusOptions& options = {}) {
  if (!(std::isfinite(loraplus_lr_ratio) && loraplus_lr_ratio > 0)) {
    throw ConfigError("loraplus_groups: loraplus_lr_ratio is " + number_text(loraplus_lr_ratio) +
                      ", expected a finite number > 0");
  }
  using Shape = std::vector<Index>;
  const auto has = [](const std::string& name, const char* part) {
    return name.find(part) != std::string::npos;
  };
  const auto embedding = [has](const std::string& name, const Shape&) {
    return has(name, "lora_embedding_");
  };
  const auto b = [has](const std::string& name, const Shape& shape) {
    return has(name, "lora_B") || shape.size() == 1;
  };
  const auto b_no_decay = [has, b](const std::string& name, const Shape& shape) {
    const bool norm = shape.size() == 1 && (has(name, "norm") || has(name, "Norm") ||
                                            has(name, ".ln") || name.rfind("ln", 0) == 0);
    return b(name, shape) && (has(name, "bias") || norm);
  };
  const auto everything = [](const std::string&, const Shape&) { return true; };
  const double decay = options.loraplus_weight_decay, lr_b = lr * loraplus_lr_ratio;
  return {{"embedding", embedding, options.loraplus_lr_embedding, decay},
          {"groupB_no_decay", b_no_decay, lr_b, 0.0},
          {"groupB", b, lr_b, decay},
          {"groupA", everything, lr, decay}};
}

}  // namespace lora
