// lora info: shows what is in an adapter, a safetensors file, a GGUF file or a base model.
#pragma once

#include "adapter_output.hpp"

#include <lora/adapters/low_rank_factors.hpp>
#include <lora/io/gguf/gguf.hpp>
#include <lora/io/hf/checkpoint_files.hpp>

#include <map>
#include <optional>

namespace tools {

namespace detail {

/// A pair of A and B from any kind of file.
struct InfoPair {
  std::string module, shapes;
  Index r = 0;
  lora::Matrix<double> A, B;
  std::optional<double> scale;
};

inline std::vector<std::string> pair_row(const InfoPair& pair) {
  const double norm = lora::product_norm(pair.A, pair.B);
  return {printable(pair.module),
          pair.shapes,
          std::to_string(pair.r),
          pair.scale ? short_number(*pair.scale) : "?",
          short_number(pair.A.norm()),
          short_number(pair.B.norm()),
          short_number(pair.scale ? std::abs(*pair.scale) * norm : norm)};
}
inline std::vector<std::string> pair_head(bool scaled) {
  return {"module", "B x A", "r", "s", "|A|", "|B|", scaled ? "|sBA|" : "|BA|"};
}

struct Totals {
  std::size_t tensors = 0;
  std::uint64_t parameters = 0, bytes = 0;
  std::map<std::string, std::size_t> dtypes;

  void add(const std::vector<Index>& shape, std::string_view dtype, std::uint64_t size) {
    std::uint64_t n = 1;
    for (const Index d : shape) n *= static_cast<std::uint64_t>(d);
    ++tensors;
    parameters += n;
    bytes += size;
    ++dtypes[std::string(dtype)];
  }
  void add(const lora::SafetensorsFile& file) {
    for (const std::string& name : file.names()) {
      const lora::TensorInfo& info = file.info(name);
      add(info.shape, lora::dtype_name(info.dtype), info.end - info.begin);
    }
  }
  std::string text() const {
    std::string types;
    for (const auto& [name, count] : dtypes)
      types += (types.empty() ? "" : ", ") + std::to_string(count) + " " + name;
    return "tensors:    " + lora::grouped_text(tensors) + " (" + types +
           ")\nparameters: " + lora::grouped_text(parameters) +
           "\nbytes:      " + lora::grouped_text(bytes) + "\n";
  }
};

inline void print_adapter(const std::filesystem::path& directory) {
  const lora::PeftAdapter adapter = open_adapter(directory);
  std::cout << "adapter " << directory.string() << "\n\nconfiguration:\n";
  const lora::Json standard = lora::peft_config_fields(lora::LoRAConfig());
  std::size_t defaults = 0;
  for (const auto& [name, value] : adapter.fields().items()) {
    const auto usual = standard.find(name);
    if (usual != standard.end() && *usual == value && name != "r" && name != "lora_alpha") {
      ++defaults;
      continue;
    }
    std::cout << "  " << printable(name) << " = " << printable(value.dump(), 400) << "\n";
  }
  std::cout << "  (" << defaults << " other fields have their defaults)\n";
  for (const std::string& name : adapter.unknown_fields())
    std::cout << "  unknown to this program: " << printable(name) << "\n";
  std::vector<std::vector<std::string>> rows{pair_head(true)};
  if (adapter.config().use_dora) rows.front().push_back("|m|");
  for (const lora::PeftModule& module : adapter.modules()) {
    const auto factors = read_factors<double>(adapter, module);
    const auto shape = [&](const std::string& key) {
      return lora::shape_text(adapter.tensors().info(key).shape);
    };
    rows.push_back(pair_row({printable(module.name) + (module.embedding ? " (embedding)" : ""),
                             shape(module.b_key) + " " + shape(module.a_key), module.r, factors.A,
                             factors.B, factors.scaling}));
    if (!module.m_key.empty())
      rows.back().push_back(short_number(adapter.tensors().matrix<double>(module.m_key).norm()));
  }
  std::cout << "\n" << adapter.modules().size() << " adapted layers:\n" << table_text(rows);
  if (!adapter.other_tensors().empty()) std::cout << "\nother tensors:\n";
  for (const std::string& key : adapter.other_tensors()) {
    std::cout << "  " << printable(key) << " "
              << lora::shape_text(adapter.tensors().info(key).shape) << "\n";
  }
  Totals totals;
  totals.add(adapter.tensors());
  std::cout << "\n" << totals.text();
}

inline void print_tensors(const lora::SafetensorsFile& file) {
  std::vector<std::vector<std::string>> rows{{"tensor", "type", "shape", "bytes"}};
  for (const std::string& name : file.names()) {
    const lora::TensorInfo& info = file.info(name);
    rows.push_back({printable(name), std::string(lora::dtype_name(info.dtype)),
                    lora::shape_text(info.shape), lora::grouped_text(info.end - info.begin)});
  }
  std::cout << table_text(rows);
}

/// The keys of a module's A and B; either may be empty.
struct PairKeys {
  std::string name, a_key, b_key;
};
/// Pairs the keys of a file, in the order of each module's first key.
inline std::vector<PairKeys> pairs_of(const std::vector<std::string>& keys) {
  std::vector<PairKeys> pairs;
  for (const std::string& key : keys) {
    const std::string_view name = lora::without_peft_prefix(key);
    for (const char* ending :
         {".lora_A.weight", ".lora_embedding_A", ".lora_B.weight", ".lora_embedding_B"}) {
      const std::string_view end = ending;
      if (!name.ends_with(end)) continue;
      const std::string module(name.substr(0, name.size() - end.size()));
      auto at = std::find_if(pairs.begin(), pairs.end(),
                             [&](const PairKeys& one) { return one.name == module; });
      if (at == pairs.end()) at = pairs.insert(at, {module, {}, {}});
      (end.find("_A") != end.npos ? at->a_key : at->b_key) = key;
    }
  }
  return pairs;
}

/// Prints the pairs of an adapter's file without its configuration, so without the scale.
inline void print_pairs(const lora::SafetensorsFile& file) {
  std::vector<std::vector<std::string>> rows{pair_head(false)};
  for (const auto& entry : pairs_of(file.names())) {
    if (entry.a_key.empty() || entry.b_key.empty()) continue;
    const auto &a = file.info(entry.a_key), &b = file.info(entry.b_key);
    if (a.shape.size() < 2 || b.shape.size() < 2 || !lora::is_matrix_dtype(a.dtype) ||
        !lora::is_matrix_dtype(b.dtype))
      continue;
    const auto A = file.matrix<double>(entry.a_key), B = file.matrix<double>(entry.b_key);
    if (B.cols() == 0 || A.rows() % B.cols() != 0 || B.rows() % (A.rows() / B.cols()) != 0)
      continue;
    rows.push_back(
        pair_row({entry.name, lora::shape_text(b.shape) + " " + lora::shape_text(a.shape), A.rows(),
                  A, B, std::nullopt}));
  }
  if (rows.size() > 1) {
    std::cout << "\n"
              << rows.size() - 1 << " pairs of A and B (their scale is in adapter_config.json):\n"
              << table_text(rows);
  }
}

inline void print_safetensors(const std::filesystem::path& path) {
  const auto file = lora::SafetensorsFile::open(path, {.storage = lora::FileStorage::mapped});
  std::cout << "safetensors " << path.string() << "\n\n";
  for (const auto& [key, value] : file.metadata())
    std::cout << "  " << printable(key) << " = " << printable(value) << "\n";
  print_tensors(file);
  print_pairs(file);
  Totals totals;
  totals.add(file);
  std::cout << "\n" << totals.text();
}

inline std::string gguf_value_text(const lora::GgufFile& file, const std::string& key) {
  if (const auto* value = file.find(key)) {
    if (const auto* text = std::get_if<std::string>(value)) return printable(*text);
  }
  return "";
}

inline void print_gguf(const std::filesystem::path& path) {
  const lora::GgufFile file = lora::GgufFile::open(path);
  std::cout << "GGUF " << path.string() << "\n\n";
  for (const char* key : {"general.architecture", "general.type", "adapter.type", "general.name"}) {
    if (file.find(key) != nullptr)
      std::cout << "  " << printable(key) << " = " << gguf_value_text(file, key) << "\n";
  }
  const bool is_adapter = file.find("adapter.lora.alpha") != nullptr;
  const double alpha = is_adapter ? double{file.get<float>("adapter.lora.alpha")} : 0;
  if (is_adapter) std::cout << "  adapter.lora.alpha = " << short_number(alpha) << "\n";
  Totals totals;
  std::vector<std::vector<std::string>> rows{pair_head(is_adapter)},
      tensors{{"tensor", "type", "shape", "bytes"}};
  for (const std::string& name : file.names()) {
    const lora::GgufTensor& info = file.info(name);
    totals.add(info.shape, info.type.name, file.bytes(name).size());
    tensors.push_back({printable(name), std::string(info.type.name), lora::shape_text(info.shape),
                       lora::grouped_text(file.bytes(name).size())});
    if (!name.ends_with(".lora_a")) continue;
    const std::string module = name.substr(0, name.size() - 7), other = module + ".lora_b";
    if (!file.contains(other) || !info.type.dtype || !file.info(other).type.dtype) continue;
    lora::Matrix<double> A = file.matrix<double>(name);
    const lora::Matrix<double> B = file.matrix<double>(other);
    if (name.starts_with("token_embd.")) A = A.transpose().eval();
    if (A.rows() != B.cols() || A.rows() == 0) continue;
    const double scale = alpha != 0 ? alpha / static_cast<double>(A.rows()) : 1;
    rows.push_back(
        pair_row({printable(module),
                  lora::shape_text(file.info(other).shape) + " " + lora::shape_text(info.shape),
                  A.rows(), A, B, scale}));
  }
  std::cout << "\n" << table_text(tensors);
  if (rows.size() > 1) {
    std::cout << "\n" << rows.size() - 1 << " adapted weights:\n" << table_text(rows);
  }
  std::cout << "\n" << totals.text();
}

inline void print_checkpoint(const std::filesystem::path& directory) {
  const lora::CheckpointFiles base = lora::CheckpointFiles::open(directory);
  std::cout << "base model " << directory.string() << "\n";
  Totals totals;
  for (const auto& file : base.files()) {
    std::cout << "\n" << printable(file.name) << ":\n";
    print_tensors(file.tensors);
    totals.add(file.tensors);
  }
  std::cout << "\n" << totals.text();
}

}  // namespace detail

/// Prints the content of `path`: the folder of an adapter or a base, a .safetensors or a .gguf
/// file.
inline void print_info(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    const bool base =
        !std::filesystem::exists(path / lora::peft_config_file) && has_checkpoint(path);
    return base ? detail::print_checkpoint(path) : detail::print_adapter(path);
  }
  if (!std::filesystem::exists(path, ignored)) lora::throw_io_error(path, "open", ENOENT);
  if (extension == ".gguf") return detail::print_gguf(path);
  if (extension == ".safetensors") return detail::print_safetensors(path);
  throw lora::ConfigError(path.string() +
                          ": expected a folder, a .safetensors file or a .gguf file");
}

}  // namespace tools
