// A checkpoint as the source of a model's weights: checks names and shapes against the files first,
// then converts each tensor straight from the mapped file into the form that products read.
#pragma once

#include <lora/adapters/lora_model.hpp>
#include <lora/core/half.hpp>
#include <lora/core/parallel.hpp>
#include <lora/io/hf/checkpoint_files.hpp>

#include <algorithm>
#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// How a checkpoint's matrices are held in memory.
struct WeightOptions {
  /// For a float model: bfloat16 halves the memory of F32 and F16 tensors, which are rounded once.
  Precision dtype = Precision::float32;
  Orientations orientations = Orientations::one;
};

namespace detail {

/// Finds the checkpoint's name of a tensor of the model: a model saved without its head has no
/// "model." or "transformer." in front. Returns "" if there is none.
class CheckpointNames {
 public:
  explicit CheckpointNames(const CheckpointFiles& files) : files_(files) {
    for (const auto& [name, file] : files.names()) tops_.insert(name.substr(0, name.find('.')));
  }
  std::string find(const std::string& name) const {
    if (files_.contains(name)) return name;
    const std::size_t dot = name.find('.');
    if (dot == name.npos || tops_.count(name.substr(0, dot)) != 0) return {};
    const std::string rest = name.substr(dot + 1);
    return files_.contains(rest) ? rest : std::string();
  }

 private:
  const CheckpointFiles& files_;
  std::set<std::string, std::less<>> tops_;
};

/// Whether a tensor is one that checkpoints hold and models compute: tables of rotary embeddings,
/// GPT-2's masks.
inline bool is_computed_buffer(std::string_view name) {
  for (const char* end : {".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"}) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

inline bool same_values(const CheckpointFiles& files, const std::string& a, const std::string& b) {
  const SafetensorsFile &first = files.file_of(a), &second = files.file_of(b);
  if (first.info(a).dtype != second.info(b).dtype || first.info(a).shape != second.info(b).shape)
    return false;
  constexpr std::size_t part = std::size_t{4} << 20;
  auto x = first.bytes(a), y = second.bytes(b);
  bool same = true;
  while (same && !x.empty()) {
    const std::size_t n = std::min(part, x.size());
    same = as_text(x.first(n)) == as_text(y.first(n));
    first.forget(x.first(n));
    second.forget(y.first(n));
    x = x.subspan(n);
    y = y.subspan(n);
  }
  return same;
}

/// Returns what is wrong with a stored head if the configuration says that it is `table`, or "" if
/// the two are equal or do not both exist.
inline std::string other_head(const CheckpointFiles& files, const std::string& table) {
  const std::string head = "lm_head.weight";
  if (table.empty() || !files.contains(head) || same_values(files, head, table)) return {};
  return "is not " + printable(table) +
         ", though the configuration says that they are one (tie_word_embeddings); where they are "
         "two, expected false there";
}

}  // namespace detail

/// A source of weights for a model that is built only to learn what it reads: returns empty weights
/// and records what the checkpoint lacks or has in another shape. finish() throws all of it at
/// once, before anything is loaded. Keeps a reference to the files.
template <class S>
class CheckpointCheck {
 public:
  explicit CheckpointCheck(const CheckpointFiles& files) : files_(files), names_(files) {}

  FrozenWeight<S> matrix(const std::string& name, Index O, Index D, Layout layout) {
    const bool as_is = layout == Layout::out_in;
    expect(name, {as_is ? O : D, as_is ? D : O});
    return {};
  }
  Matrix<S> vector(const std::string& name, Index n) {
    expect(name, {n});
    return {};
  }

  /// Ends the check.
  /// Throws: FormatError that names each tensor that is missing, misshapen, of an unsupported type,
  ///   or not the model's. Ignores buffers that the model computes itself, and "lm_head.weight"
  ///   beside a model that did not read it if it equals `embedding`.
  void finish(const std::string& embedding) {
    for (const auto& [name, file] : files_.names()) {
      if (used_.count(name) != 0 || detail::is_computed_buffer(name)) continue;
      const std::string table = names_.find(embedding);
      if (name == "lm_head.weight" && !table.empty()) {
        const std::string other = detail::other_head(files_, table);
        if (!other.empty()) problems_ += "\n  " + name + ": " + other;
      } else {
        problems_ += "\n  unexpected: " + printable(name);
      }
    }
    if (!problems_.empty())
      throw FormatError(files_.directory().string() +
                        ": does not hold the model of its config.json:" + problems_);
  }

 private:
  void expect(const std::string& name, const std::vector<Index>& shape) {
    const std::string found = names_.find(name);
    if (found.empty()) {
      problems_ += "\n  missing: " + name;
      if (name == "lm_head.weight")
        problems_ += " (is it the embedding? then the configuration lacks tie_word_embeddings)";
      return;
    }
    used_.insert(found);
    const TensorInfo& info = files_.info(found);
    if (info.shape != shape) {
      problems_ += "\n  " + printable(found) + ": shape is " + shape_text(info.shape) +
                   ", expected " + shape_text(shape);
    } else if (!is_matrix_dtype(info.dtype)) {
      problems_ += "\n  " + printable(found) + ": dtype is " + matrix_dtype_fault(info.dtype);
    }
  }

  const CheckpointFiles& files_;
  detail::CheckpointNames names_;
  std::set<std::string> used_;
  std::string problems_;
};

/// The weights of a checkpoint that passed CheckpointCheck. Float weights are packed from the
/// mapped file, whose pages are returned as they have been read, so that loading holds no second
/// copy of a matrix; double ones are dense. Keeps a reference to the files.
/// Throws: FormatError for a tensor that is missing, has another shape, or holds a number too large
///   for S.
template <class S>
class CheckpointWeights {
 public:
  explicit CheckpointWeights(const CheckpointFiles& files, WeightOptions options = {})
      : files_(files), names_(files), options_(options) {}

  FrozenWeight<S> matrix(const std::string& name, Index O, Index D, Layout layout) {
    const bool as_is = layout == Layout::out_in;
    const Source source = open(name, {as_is ? O : D, as_is ? D : O});
    const auto whole = source.file.bytes(source.name);
    FrozenWeight<S> weight = read(source, O, D, layout);
    source.file.forget(whole);
    return weight;
  }
  Matrix<S> vector(const std::string& name, Index n) {
    const Source source = open(name, {n});
    return source.file.template matrix<S>(source.name);
  }

 private:
  struct Source {
    const SafetensorsFile& file;
    std::string name;
  };
  Source open(const std::string& name, const std::vector<Index>& shape) const {
    const std::string found = names_.find(name);
    const Source source{files_.file_of(found.empty() ? name : found), found};
    const TensorInfo& info = source.file.info(source.name);
    if (info.shape == shape && is_matrix_dtype(info.dtype)) {
      check_range(source, info);
      return source;
    }
    throw FormatError(source.file.where() + ": tensor " + in_quotes(found) + ": shape is " +
                      shape_text(info.shape) + " of " + std::string(dtype_name(info.dtype)) +
                      ", expected " + shape_text(shape) + " of F32, BF16, F16 or F64");
  }

  static void check_range(const Source& source, const TensorInfo& info) {
    const auto bytes = source.file.bytes(source.name);
    const auto large = first_overflow_of_read<S>(info.dtype, bytes.data(),
                                                 bytes.size() * 8 / dtype_bits(info.dtype));
    if (!large) return;
    throw FormatError(source.file.where() + ": tensor " + in_quotes(source.name) + ": " +
                      overflow_text(*large));
  }

  FrozenWeight<S> read(const Source& source, Index O, Index D, Layout layout) const {
    if constexpr (std::is_same_v<S, float>) {
      switch (source.file.info(source.name).dtype) {
        case DType::F32:
          return pack<float>(source, O, D, layout, [](float x) { return x; });
        case DType::F64:
          return pack<double>(source, O, D, layout, [](double x) { return static_cast<float>(x); });
        case DType::BF16:
          return pack<std::uint16_t>(source, O, D, layout, bf16_to_float);
        default:
          return pack<std::uint16_t>(source, O, D, layout, f16_to_float);
      }
    } else {
      return FrozenWeight<S>(source.file.template matrix<S>(source.name), layout);
    }
  }

  /// Packs elements E at any address.
  template <class E, class Widen>
  FrozenWeight<S> pack(const Source& source, Index O, Index D, Layout layout, Widen widen) const {
    const auto bytes = source.file.bytes(source.name);
    const std::byte* from = bytes.data();
    const auto at = [=](Index i) {
      E element;
      std::memcpy(&element, from + static_cast<std::size_t>(i) * sizeof(E), sizeof(E));
      return widen(element);
    };
    if (layout == Layout::in_out) {
      return FrozenWeight<S>::pack_values(O, D, options_.dtype, layout, options_.orientations,
                                          [=](Index o, Index d) { return at(d * O + o); });
    }
    // Panels are started in order. What lies well before a starting one has been read; if a thread
    // is still reading there, the system reads that part again.
    const Index panel = 48, behind = panel * (2 + num_threads());
    const auto row_bytes = static_cast<std::size_t>(D) * sizeof(E);
    const bool large = bytes.size() > (std::size_t{1} << 20);
    const auto value = [=](Index o, Index d) {
      if (d == 0 && o % panel == 0 && o >= behind && large) {
        source.file.forget(bytes.subspan(static_cast<std::size_t>(o - behind) * row_bytes,
                                         static_cast<std::size_t>(panel) * row_bytes));
      }
      return at(o * D + d);
    };
    return FrozenWeight<S>::pack_values(O, D, options_.dtype, layout, options_.orientations, value);
  }

  const CheckpointFiles& files_;
  detail::CheckpointNames names_;
  WeightOptions options_;
};

}  // namespace lora
