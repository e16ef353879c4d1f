// Helpers of the file commands: read tensors, write adapters, format numbers and tables.
#pragma once

#include "support/output_path.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/utf8.hpp"

#include <lora/adapters/low_rank_factors.hpp>
#include <lora/io/hf/checkpoint_files.hpp>
#include <lora/io/peft/model_card.hpp>
#include <lora/io/peft/peft_adapter.hpp>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

namespace tools {

using lora::DType;
using lora::printable;

/// Formats x with six digits.
inline std::string short_number(double x) { return lora::number_text(x, 6); }

/// Formats rows as a table: the first column aligned left, the others right.
inline std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string fill(widths[i] - row[i].size(), ' ');
      line += (i == 0 ? "  " : "  ") + (i == 0 ? row[i] + fill : fill + row[i]);
    }
    text += line + "\n";
  }
  return text;
}

/// Opens an adapter's folder and prints its warnings to standard error.
inline lora::PeftAdapter open_adapter(const std::filesystem::path& directory) {
  lora::PeftAdapter adapter = lora::PeftAdapter::open(directory);
  for (const std::string& warning : adapter.warnings())
    std::cerr << "lora: " << directory.string() << ": " << warning << "\n";
  return adapter;
}

/// Whether a folder holds a base model's weights.
inline bool has_checkpoint(const std::filesystem::path& directory) {
  std::error_code ignored;
  return std::filesystem::exists(directory / lora::checkpoint_file, ignored) ||
         std::filesystem::exists(directory / lora::checkpoint_index_file, ignored);
}

/// Throws unless the base's path is UTF-8: the new adapter's configuration names it, and JSON holds
/// only UTF-8.
inline void expect_utf8_base(const std::filesystem::path& base) {
  if (is_utf8(base.string())) return;
  throw lora::ConfigError("--base is " + lora::in_quotes(base.string()) +
                          ", which is not UTF-8; adapter_config.json cannot hold it");
}

/// Throws if the output folder, or an adapter file in it, is an input, or if the folder contains
/// anything but an adapter that can be overwritten.
inline void check_adapter_output(const std::filesystem::path& output, const InputPaths& inputs) {
  const std::filesystem::path directory = detail::resolved(output);
  refuse_input_as_output(
      {directory, directory / lora::peft_weights_file, directory / lora::peft_config_file}, inputs);
  std::error_code failure;
  const auto status = std::filesystem::status(directory, failure);
  if (!std::filesystem::exists(status)) return;
  if (!std::filesystem::is_directory(status))
    throw lora::ConfigError(directory.string() + ": is a file, expected a folder for an adapter");
  if (std::filesystem::exists(directory / lora::peft_config_file)) return;
  if (!std::filesystem::is_empty(directory, failure) || failure) {
    throw lora::ConfigError(directory.string() +
                            ": is not empty and holds no adapter that could be overwritten, "
                            "expected a new folder, an empty one, or that of an adapter");
  }
}

/// Adds a tensor, converted to another type.
/// Throws: lora::Error that names the tensor if a finite number would no longer be finite.
inline void add_converted(lora::SafetensorsWriter& writer, const lora::SafetensorsFile& file,
                          const std::string& name, DType dtype) {
  const lora::TensorInfo& info = file.info(name);
  if (!lora::is_matrix_dtype(info.dtype) || info.dtype == dtype)
    return writer.add(name, info.dtype, info.shape, file.bytes(name));
  const lora::Matrix<double> before = file.matrix<double>(name);
  const std::span<const double> values(before.data(), static_cast<std::size_t>(before.size()));
  if (const auto i = lora::first_overflow(dtype, values)) {
    throw lora::Error(file.where() + ": tensor " + lora::in_quotes(name) + ": element " +
                      std::to_string(*i) + " is " + lora::number_text(values[*i]) +
                      ", too large for " + std::string(lora::dtype_name(dtype)));
  }
  std::vector<std::byte> bytes(values.size() * lora::dtype_bits(dtype) / 8);
  lora::encode_elements(dtype, values, bytes.data());
  writer.add(name, dtype, info.shape, std::move(bytes));
}

/// Writes an adapter, and its README.md if there is none.
inline void write_adapter(const std::filesystem::path& directory, const lora::LoRAConfig& config,
                          const lora::Json& fields, const lora::SafetensorsWriter& tensors) {
  lora::check_peft_files(directory, fields, tensors);
  lora::write_with_model_card(directory, config,
                              [&] { lora::write_peft_adapter(directory, fields, tensors); });
  std::cout << "wrote " << directory.string() << "\n";
}

/// Reads A (r, D) and B (O, r) of a module as matrices, with flattened kernels, and its scale.
/// Those of an embedding change the transposed table.
template <class S>
lora::LowRankFactors<S> read_factors(const lora::PeftAdapter& adapter,
                                     const lora::PeftModule& module) {
  lora::LowRankFactors<S> factors{adapter.tensors().matrix<S>(module.a_key),
                                  adapter.tensors().matrix<S>(module.b_key), module.scaling};
  if (factors.B.cols() > 0) factors.groups = factors.A.rows() / factors.B.cols();
  return factors;
}

}  // namespace tools
