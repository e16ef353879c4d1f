// Converts an adapter whose initialisation changed the weight into one for the original weight.
#pragma once

#include <lora/adapters/config.hpp>
#include <lora/adapters/low_rank_factors.hpp>

#include <array>
#include <numbers>

namespace lora {

/// Returns the factors of s (B A - B0 A0) = s [B | -B0] [A; A0]. For an initialisation that took
/// s B0 A0 out of the weight, such as PiSSA or OLoRA, that is the learned change as plain LoRA of
/// twice the rank for the original weight. Exact: keeps every element of A, B and A0, and only
/// negates B0. The scaling stays.
/// Throws: ShapeError if the shapes differ; ConfigError if the scalings or groups differ.
/// Source: PEFT's subtract_mutated_init.
template <class S>
LowRankFactors<S> subtract_initial(const LowRankFactors<S>& current,
                                   const LowRankFactors<S>& initial) {
  current.check("subtract_initial");
  initial.check("subtract_initial");
  expect_shape("subtract_initial", "the initial A", initial.A, current.A.rows(), current.A.cols());
  if (initial.groups != current.groups) {
    throw ConfigError("subtract_initial: the initial groups are " + std::to_string(initial.groups) +
                      ", expected " + std::to_string(current.groups));
  }
  expect_shape("subtract_initial", "the initial B", initial.B, current.B.rows(), current.B.cols());
  if (initial.scaling != current.scaling) {
    throw ConfigError("subtract_initial: the initial scaling is " + number_text(initial.scaling) +
                      ", expected that of the adapter, " + number_text(current.scaling));
  }
  std::array<LowRankFactors<S>, 2> parts{current, initial};
  parts[1].B = -initial.B;
  LowRankFactors<S> learned = stacked<S>(parts);
  learned.scaling = current.scaling;
  return learned;
}

/// Returns the configuration for these factors: r doubled and alpha doubled, or times √2 with
/// use_rslora, in the patterns too, so that s stays (with rsLoRA up to rounding). Sets
/// init_lora_weights to true, so loading does not change the weight. `config` may have an
/// initialisation that this library does not support.
/// Throws: as LoRAConfig::validate.
/// Source: PEFT's subtract_mutated_init; PEFT refuses rsLoRA with patterns, which works here
///   because s is computed per layer.
template <class Tag>
BasicLoRAConfig<Tag> subtract_initial(BasicLoRAConfig<Tag> config) {
  const auto checked = [&config] {
    config.init_lora_weights = true;
    config.validate();
  };
  checked();  // first, so that doubling a rank cannot overflow
  const double factor = config.use_rslora ? std::numbers::sqrt2 : 2.0;
  config.r *= 2;
  config.lora_alpha *= factor;
  for (auto& [key, rank] : config.rank_pattern) rank *= 2;
  for (auto& [key, alpha] : config.alpha_pattern) alpha *= factor;
  checked();
  return config;
}

}  // namespace lora
