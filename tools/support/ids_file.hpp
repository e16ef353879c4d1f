// Reads token ids and labels from a safetensors file, for comparing engines.
#pragma once

#include <lora/io/safetensors/safetensors.hpp>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace tools {

using lora::Index;

/// The content of a file: micro_batches · rows · tokens ids and labels. Labels of -100 do not
/// count.
struct IdsFile {
  std::vector<std::int64_t> ids, labels;
  Index micro_batches = 0, rows = 0, tokens = 0;
};

/// Reads input_ids and labels, I64 (rows, T) or (micro-batches, rows, T).
/// Throws: lora::FormatError for anything else, and for a file without tokens.
inline IdsFile read_ids(const std::filesystem::path& path) {
  const auto file = lora::SafetensorsFile::open(path);
  const auto refuse = [&](const char* name, const std::string& what) {
    throw lora::FormatError(path.string() + ": " + name + what);
  };
  for (const char* name : {"input_ids", "labels"}) {
    if (!file.contains(name)) refuse(name, " is missing");
    const lora::TensorInfo& info = file.info(name);
    if (info.dtype != lora::DType::I64)
      refuse(name, " is " + std::string(lora::dtype_name(info.dtype)) + ", expected I64");
  }
  const std::vector<Index>& shape = file.info("input_ids").shape;
  const std::string text = " has shape " + lora::shape_text(shape);
  if (shape.size() != 2 && shape.size() != 3)
    refuse("input_ids", text + ", expected (rows, T) or (micro-batches, rows, T)");
  if (file.info("labels").shape != shape) {
    refuse("labels", " has shape " + lora::shape_text(file.info("labels").shape) +
                         ", expected that of input_ids, " + lora::shape_text(shape));
  }
  IdsFile all{file.integers("input_ids"), file.integers("labels"), shape.size() == 3 ? shape[0] : 1,
              shape[shape.size() - 2], shape.back()};
  if (all.ids.empty())
    refuse("input_ids", text + ", expected (rows, T) or (micro-batches, rows, T) with a token");
  return all;
}

/// The tokens to score: rows · T ids and labels.
struct ScoredBatch {
  std::vector<std::int64_t> ids, labels;
  Index rows = 0, tokens = 0;
};

/// Reads the first micro-batch of a file of ids.
/// Throws: as read_ids().
inline ScoredBatch read_scored_batch(const std::filesystem::path& path) {
  IdsFile all = read_ids(path);
  const auto count = static_cast<std::size_t>(all.rows * all.tokens);
  all.ids.resize(count);
  all.labels.resize(count);
  return {std::move(all.ids), std::move(all.labels), all.rows, all.tokens};
}

}  // namespace tools
