// What the golden tests of layers share: a case's adapters, from its fields and its tensors.
#pragma once

#include <lora/layers/adapter.hpp>

#include <cmath>
#include <string>

#include "support/golden.hpp"

namespace lora_test {

/// A golden adapter as a case tells of it: its configuration where there is one, its scaling.
struct GoldenAdapter {
  lora::Json config = lora::Json::object();
  double scaling = 0;
};
inline GoldenAdapter golden_adapter(const GoldenCase& one) {
  return {one.fields.value("config", lora::Json::object()), one.at("scaling").get<double>()};
}

/// The options that a configuration asks for. Without one, the rank is that of A, and alpha makes
/// the scaling.
inline lora::AdapterOptions golden_options(const GoldenAdapter& golden, lora::Index r) {
  lora::AdapterOptions options;
  options.r = golden.config.value("r", r);
  options.lora_alpha =
      golden.config.value("lora_alpha", golden.scaling * static_cast<double>(options.r));
  const bool rslora = golden.config.value("use_rslora", false);
  if (rslora) options.variant = lora::RsLoRA{};
  if (golden.config.value("use_dora", false)) options.variant = lora::DoRA{{}, rslora};
  options.lora_bias = golden.config.value("lora_bias", false);
  EXPECT_EQ(options.r, r) << "the configuration's rank, beside A's";
  return options;
}

/// Adds the adapter `name` with the file's A and B (and the bias of B), and makes it active. Its
/// scaling is the golden one; where alpha was made of that, but for the rounding of a product and
/// of a quotient.
template <class Layer>
auto& add_golden_adapter(Layer& layer, const GoldenAdapter& golden,
                         const lora::SafetensorsFile& file, const std::string& prefix = "",
                         const std::string& name = "default") {
  using S = typename Layer::Scalar;
  const auto tensor = [&](const char* what) {
    return lora::Matrix<S>(file.template matrix<double>(prefix + what).template cast<S>());
  };
  const lora::AdapterOptions options = golden_options(golden, file.info(prefix + "A").shape[0]);
  layer.add_adapter(name, options);
  auto& adapter = layer.adapters().get(name);
  const double rounding = golden.config.contains("lora_alpha") ? 0 : 0x1p-52;
  EXPECT_LE(std::abs(adapter.scaling - golden.scaling), rounding * std::abs(golden.scaling))
      << name << ": " << adapter.scaling << ", expected " << golden.scaling;
  adapter.A.value = tensor("A");
  adapter.B.value = tensor("B");
  if (options.lora_bias) adapter.bias.value = tensor("bB");
  for (auto& own : adapter.own)
    own.parameter.value = tensor("m").reshaped(1, adapter.own[0].parameter.size());
  layer.adapters().set_active({name});
  return adapter;
}

}  // namespace lora_test
