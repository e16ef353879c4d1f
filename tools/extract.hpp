// lora extract: extracts the adapter nearest to a fine-tuned model.
#pragma once

#include "adapter_output.hpp"

#include <lora/adapters/combined_config.hpp>
#include <lora/adapters/extract.hpp>
#include <lora/adapters/target_names.hpp>
#include <lora/io/hf/checkpoint_structure.hpp>

#include <algorithm>
#include <set>

namespace tools {

struct ExtractRequest {
  std::filesystem::path base, tuned, output;
  Index rank = 0;
  std::vector<std::string> targets;  ///< empty: every 2-D weight of a linear layer that differs
  ProgressMode progress = ProgressMode::automatic;
};

namespace detail {

class Extraction {
 public:
  explicit Extraction(const ExtractRequest& request)
      : request_(request),
        base_(lora::CheckpointFiles::open(request.base)),
        tuned_(lora::CheckpointFiles::open(request.tuned)),
        structure_(base_) {
    expect_utf8_base(request.base);
    if (request.rank < 1) {
      throw lora::ConfigError("extract: --rank is " + std::to_string(request.rank) +
                              ", expected at least 1");
    }
    compare();
    if (targets_.empty()) {
      throw lora::ConfigError(request.tuned.string() + ": no weight of a linear layer " +
                              (request.targets.empty() ? "" : "among the --target-modules ") +
                              "differs from the base's, so there is nothing to extract");
    }
  }

  void write() {
    std::vector<std::vector<std::string>> rows{{"module", "shape", "r", "energy kept"}};
    Progress progress("extract", static_cast<Index>(targets_.size()), {.mode = request_.progress});
    tensors_.set_metadata("format", "pt");
    for (const std::string& module : targets_) {
      extract(module, rows);
      progress.advance(1, module);
    }
    progress.finish();
    const lora::LoRAConfig config = make_config();
    std::cout << table_text(rows);
    report_left_out();
    write_adapter(request_.output, config, lora::peft_config_fields(config), tensors_);
  }

 private:
  bool is_target(const std::string& module) const {
    if (request_.targets.empty()) return true;
    return std::any_of(
        request_.targets.begin(), request_.targets.end(),
        [&](const std::string& name) { return module == name || module.ends_with("." + name); });
  }
  /// Judges by the name, which is all that a checkpoint has.
  static bool is_embedding(const std::string& module) {
    const std::string last = lora::last_name(module);
    return last.find("embed") != last.npos || last == "wte" || last == "wpe";
  }
  static bool is_norm(const std::string& module) {
    const std::string last = lora::last_name(module);
    return last.find("norm") != last.npos || last.starts_with("ln_");
  }

  void compare() {
    std::string problems;
    for (const auto& [name, place] : base_.names()) {
      if (!tuned_.contains(name)) {
        problems += "\n  " + printable(name) + ": only in the base";
      } else if (tuned_.info(name).shape != base_.info(name).shape) {
        problems += "\n  " + printable(name) + ": shape is " +
                    lora::shape_text(tuned_.info(name).shape) + ", in the base " +
                    lora::shape_text(base_.info(name).shape);
      } else {
        place_tensor(name);
      }
    }
    for (const auto& [name, place] : tuned_.names()) {
      if (!base_.contains(name)) problems += "\n  " + printable(name) + ": only in the tuned model";
    }
    if (!problems.empty()) {
      throw lora::FormatError(request_.tuned.string() + ": is not a tuned " +
                              request_.base.string() + ":" + problems);
    }
    for (const std::string& target : request_.targets) {
      const bool used = std::any_of(modules_.begin(), modules_.end(), [&](const auto& module) {
        return module.name == target || module.name.ends_with("." + target);
      });
      if (!used)
        throw lora::ConfigError("extract: --target-modules " + lora::in_quotes(target) +
                                " names no linear layer of the base");
    }
  }
  void place_tensor(const std::string& name) {
    const lora::TensorInfo& info = base_.info(name);
    const bool weight = name.ends_with(".weight") && info.shape.size() == 2 &&
                        lora::is_matrix_dtype(info.dtype) &&
                        lora::is_matrix_dtype(tuned_.info(name).dtype);
    const std::string module = name.substr(0, name.rfind('.'));
    const bool linear = weight && !is_embedding(module) && !is_norm(module);
    if (weight) modules_.push_back({module, linear ? "Linear" : "Embedding"});
    if (!differs(name)) return;
    if (linear && is_target(module)) {
      targets_.push_back(module);
    } else {
      left_out_.push_back(name + (linear                 ? " (not among --target-modules)"
                                  : is_embedding(module) ? " (an embedding)"
                                  : is_norm(module)      ? " (a norm)"
                                                         : " (not a weight of a linear layer)"));
    }
  }
  bool differs(const std::string& name) const {
    const auto &a = base_.info(name), &b = tuned_.info(name);
    const auto x = base_.file_of(name).bytes(name), y = tuned_.file_of(name).bytes(name);
    if (a.dtype == b.dtype) return !std::equal(x.begin(), x.end(), y.begin(), y.end());
    if (!lora::is_matrix_dtype(a.dtype) || !lora::is_matrix_dtype(b.dtype)) return true;
    return base_.file_of(name).matrix<float>(name) != tuned_.file_of(name).matrix<float>(name);
  }

  void extract(const std::string& module, std::vector<std::vector<std::string>>& rows) {
    const std::string name = module + ".weight";
    lora::Matrix<float> tuned = tuned_.file_of(name).matrix<float>(name),
                        base = base_.file_of(name).matrix<float>(name);
    const bool turned = structure_.layout(module) == lora::Layout::in_out;
    conv1d_ = conv1d_ || turned;
    if (turned) {
      tuned = tuned.transpose().eval();
      base = base.transpose().eval();
    }
    try {
      const auto found = lora::extract_factors<float>(tuned, base, request_.rank);
      const lora::LowRankFactors<float>& factors = found.factors;
      const std::string key = std::string(lora::peft_prefix) + module;
      tensors_.add(key + ".lora_A.weight", factors.A, DType::F32);
      tensors_.add(key + ".lora_B.weight", factors.B, DType::F32);
      ranks_.push_back({module, factors.rank()});
      rows.push_back({printable(module), lora::shape_text(base_.info(name).shape),
                      std::to_string(factors.rank()),
                      lora::fixed_text(100 * found.energy_kept, 4) + " %"});
    } catch (const lora::Error& error) {
      throw lora::Error(request_.tuned.string() + ": " + printable(name) + ": " + error.what());
    }
  }

  lora::LoRAConfig make_config() const {
    std::set<std::string> ends;
    for (const std::string& module : targets_) ends.insert(lora::last_name(module));
    lora::LoRAConfig config;
    config.target_modules = std::vector<std::string>(ends.begin(), ends.end());
    config.fan_in_fan_out = conv1d_;
    config.base_model_name_or_path = request_.base.string();
    return lora::combined_config<void>({config}, ranks_, {}, modules_);
  }

  void report_left_out() const {
    std::cout << "embeddings and norms are left out\n";
    for (const std::string& name : left_out_)
      std::cout << "changed, but not extracted: " << printable(name) << "\n";
  }

  const ExtractRequest& request_;
  lora::CheckpointFiles base_, tuned_;
  lora::CheckpointStructure structure_;
  bool conv1d_ = false;  // whether an extracted layer is a Conv1D
  std::vector<std::string> targets_, left_out_;
  std::vector<lora::ModuleInfo> modules_;
  std::vector<lora::ModuleRank> ranks_;
  lora::SafetensorsWriter tensors_;
};

}  // namespace detail

/// Writes the adapter of the given rank that is nearest to tuned - base in each layer, and prints
/// the share of each difference's energy that it keeps.
inline void extract_adapter(const ExtractRequest& request) {
  check_adapter_output(request.output, {request.base, request.tuned});
  detail::Extraction(request).write();
}

}  // namespace tools
