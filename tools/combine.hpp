// lora combine: combines the files of several adapters into one adapter.
#pragma once

#include "adapter_output.hpp"

#include <lora/adapters/combine.hpp>
#include <lora/adapters/combined_config.hpp>

#include <map>

namespace tools {

struct CombineRequest {
  std::vector<std::filesystem::path> adapters;
  std::vector<double> weights;
  lora::CombineOptions options;
  std::filesystem::path output;
  ProgressMode progress = ProgressMode::automatic;
};

namespace detail {

class AdapterCombination {
 public:
  explicit AdapterCombination(const CombineRequest& request) : request_(request) {
    request.options.validate();
    if (request.weights.size() != request.adapters.size()) {
      throw lora::ConfigError("combine: there are " + std::to_string(request.weights.size()) +
                              " weights, expected " + std::to_string(request.adapters.size()) +
                              ", one --weight for each --adapter");
    }
    for (const auto& path : request.adapters) {
      adapters_.push_back(open_adapter(path));
      check_source(adapters_.back());
    }
    for (std::size_t i = 0; i < adapters_.size(); ++i) {
      for (const lora::PeftModule& module : adapters_[i].modules()) collect(i, module);
    }
  }

  void write() {
    Progress progress("combine", static_cast<Index>(order_.size()), {.mode = request_.progress});
    tensors_.set_metadata("format", "pt");
    for (const std::string& name : order_) {
      combine(name);
      progress.advance(1, name);
    }
    keep_saved();
    std::vector<lora::LoRAConfig> configs;
    for (const auto& adapter : adapters_) configs.push_back(adapter.config());
    const lora::LoRAConfig config = lora::combined_config(configs, ranks_, saved_, modules_);
    progress.finish();
    write_adapter(request_.output, config, lora::peft_config_fields(config), tensors_);
  }

 private:
  struct Source {
    std::size_t adapter;
    const lora::PeftModule* module;
  };

  static void check_source(const lora::PeftAdapter& adapter) {
    const lora::LoRAConfig& config = adapter.config();
    const std::string where = adapter.tensors().where() + ": ";
    if (config.lora_bias)
      throw lora::ConfigError(where + "has lora_bias, which no combination keeps");
    if (config.use_dora) {
      throw lora::ConfigError(
          where +
          "is a DoRA adapter, whose lora_magnitude_vector no combination keeps; "
          "merge it instead");
    }
    if (config.bias != "none") {
      throw lora::ConfigError(where + "holds biases of the base (bias = " +
                              lora::in_quotes(config.bias) + "), which cannot be combined");
    }
  }
  void collect(std::size_t adapter, const lora::PeftModule& module) {
    std::vector<Source>& sources = sources_[module.name];
    if (sources.empty()) order_.push_back(module.name);
    if (!sources.empty() && sources[0].module->embedding != module.embedding) {
      throw lora::ConfigError(adapters_[adapter].tensors().where() + ": layer " +
                              lora::in_quotes(module.name) +
                              " is an embedding in one adapter but not in another");
    }
    sources.push_back({adapter, &module});
  }

  void combine(const std::string& name) {
    std::vector<lora::LowRankFactors<float>> factors;
    std::vector<double> weights;
    const Source& first = sources_[name].front();
    for (const Source& source : sources_[name]) {
      factors.push_back(read_factors<float>(adapters_[source.adapter], *source.module));
      weights.push_back(request_.weights[source.adapter]);
    }
    lora::CombineOptions options = request_.options;
    options.path = name;
    lora::LowRankFactors<float> sum;
    try {
      sum = lora::combine_factors<float>(factors, weights, options);
    } catch (const lora::Error& error) {
      throw lora::Error("layer " + lora::in_quotes(name) + ": " + error.what());
    }
    const lora::SafetensorsFile& file = adapters_[first.adapter].tensors();
    const auto add = [&](const std::string& key, const lora::Matrix<float>& values) {
      std::vector<Index> shape = file.info(key).shape;  // includes a convolution's kernel
      shape[0] = values.rows();
      if (shape.size() == 2) shape[1] = values.cols();
      if (shape.size() > 2 && &values == &sum.B) shape[1] = values.cols();
      tensors_.add(with_prefix(key), values, DType::F32, shape);
    };
    add(first.module->a_key, sum.A);
    add(first.module->b_key, sum.B);
    ranks_.push_back({name, sum.rank()});
    modules_.push_back({name, first.module->embedding ? "Embedding" : "Linear"});
  }
  static std::string with_prefix(const std::string& key) {
    return std::string(lora::peft_prefix) + std::string(lora::without_peft_prefix(key));
  }

  /// Whether the adapter's modules_to_save names this module or one that contains it.
  static bool is_saved_whole(const lora::PeftAdapter& adapter, std::string module) {
    const std::vector<std::string> entries = adapter.config().effective_modules_to_save();
    for (std::size_t end = module.size(); end != module.npos; end = module.rfind('.')) {
      module.resize(end);
      for (const std::string& entry : entries) {
        if (module == entry || module.ends_with("." + entry)) return true;
      }
    }
    return false;
  }

  /// Copies the modules that one adapter saves as a whole, which cannot be weighted. Keeps one copy
  /// of the base weights that PEFT saves with adapted embeddings and heads (save_embedding_layers).
  void keep_saved() {
    std::map<std::string, std::size_t> owners;
    for (std::size_t i = 0; i < adapters_.size(); ++i) {
      for (const std::string& key : adapters_[i].other_tensors()) {
        const std::string full = with_prefix(key);
        std::string module(lora::without_peft_prefix(full.substr(0, full.rfind('.'))));
        if (full.ends_with(".weight")) {
          constexpr std::string_view own = ".base_layer";
          const bool marked = module.ends_with(own);
          if (marked || !is_saved_whole(adapters_[i], module)) {
            if (marked) module.resize(module.size() - own.size());
            add_base_copy(module, {i, key});
            continue;
          }
        }
        const auto [owner, fresh] = owners.emplace(module, i);
        if (owner->second != i) {
          throw lora::ConfigError(
              "layer " + lora::in_quotes(module) + " is saved as a whole by both " +
              adapters_[owner->second].tensors().where() + " and " +
              adapters_[i].tensors().where() + "; such modules cannot be combined");
        }
        if (sources_.count(module) != 0) {
          throw lora::ConfigError(
              adapters_[i].tensors().where() + ": layer " + lora::in_quotes(module) +
              " is saved as a whole here, while an adapter has low-rank factors "
              "there");
        }
        if (fresh) {
          saved_.push_back(module);
          modules_.push_back({module, "Linear"});
        }
        take(full, {i, key});
      }
    }
    for (const auto& [module, copy] : base_copies_) {
      if (owners.count(module) != 0) continue;  // an adapter's modules_to_save replaces it
      const char* end = sources_.count(module) != 0 ? ".base_layer.weight" : ".weight";
      take(with_prefix(module) + end, copy);
    }
  }

  struct Tensor {
    std::size_t adapter;
    std::string key;
  };
  void add_base_copy(const std::string& module, const Tensor& copy) {
    const auto [first, fresh] = base_copies_.emplace(module, copy);
    if (fresh) return;
    const lora::SafetensorsFile& one = adapters_[first->second.adapter].tensors();
    const lora::SafetensorsFile& two = adapters_[copy.adapter].tensors();
    const lora::TensorInfo &a = one.info(first->second.key), &b = two.info(copy.key);
    if (a.dtype == b.dtype && a.shape == b.shape &&
        lora::as_text(one.bytes(first->second.key)) == lora::as_text(two.bytes(copy.key)))
      return;
    throw lora::ConfigError("layer " + lora::in_quotes(module) + ": the base's weight is not the " +
                            "same in " + one.where() + " (" + lora::in_quotes(first->second.key) +
                            ") and " + two.where() + " (" + lora::in_quotes(copy.key) +
                            "), expected adapters of one base, in one type");
  }
  void take(const std::string& name, const Tensor& from) {
    const lora::SafetensorsFile& file = adapters_[from.adapter].tensors();
    const lora::TensorInfo& info = file.info(from.key);
    tensors_.add(name, info.dtype, info.shape, file.bytes(from.key));
  }

  const CombineRequest& request_;
  std::vector<lora::PeftAdapter> adapters_;
  std::map<std::string, std::vector<Source>> sources_;
  std::vector<std::string> order_, saved_;
  std::vector<lora::ModuleRank> ranks_;
  std::vector<lora::ModuleInfo> modules_;
  std::map<std::string, Tensor> base_copies_;  // by module
  lora::SafetensorsWriter tensors_;
};

}  // namespace detail

/// Writes the combination of several adapters of one base, as lora::add_weighted_adapter computes
/// it.
inline void combine_adapters(const CombineRequest& request) {
  check_adapter_output(request.output, request.adapters);
  detail::AdapterCombination(request).write();
}

}  // namespace tools
