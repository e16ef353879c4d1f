// From an adapter whose initialisation changed the weight to one for the weight as it was.
#pragma once

#include <lora/adapters/config.hpp>
#include <lora/adapters/low_rank_factors.hpp>

#include <array>
#include <numbers>

namespace lora {

/// The factors of s (B A - B0 A0) = s [B | -B0] [A; A0]: what was learned, as a plain LoRA of twice
/// the rank for the original weight, when the initialisation had taken s B0 A0 out of it (PiSSA,
/// OLoRA and the like). Exact: every number of A, B and A0 stays and every one of B0 changes its
/// sign. The scaling stays. Throws ShapeError when the two have not the same shapes, ConfigError
/// when their scalings or groups differ. Source: PEFT's subtract_mutated_init.
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

/// The configuration that belongs to it: r and alpha twice as large, with use_rslora alpha √2
/// times, in the patterns too, so that s stays (with rsLoRA up to rounding), and init_lora_weights
/// = true, so that loading it leaves the weight alone. `config` may have an initialisation that
/// this library does not support. Throws as LoRAConfig::validate. A difference from PEFT, which
/// refuses rsLoRA together with patterns: both are per layer here, so nothing is lost.
template <class Tag>
BasicLoRAConfig<Tag> subtract_initial(BasicLoRAConfig<Tag> config) {
  const auto checked = [&config] {
    config.init_lora_weights = true;
    config.validate();
  };
  checked();  // before, so that no rank is too large to be doubled
  const double factor = config.use_rslora ? std::numbers::sqrt2 : 2.0;
  config.r *= 2;
  config.lora_alpha *= factor;
  for (auto& [key, rank] : config.rank_pattern) rank *= 2;
  for (auto& [key, alpha] : config.alpha_pattern) alpha *= factor;
  checked();
  return config;
}

}  // namespace lora
