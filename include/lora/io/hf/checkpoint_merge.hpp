// Merging an adapter into the checkpoint of its base, file by file, without a model.
#pragma once

#include <lora/core/parallel.hpp>
#include <lora/io/hf/config_json.hpp>
#include <lora/io/hf/merge_plan.hpp>
#include <lora/io/hf/other_files.hpp>
#include <lora/io/staged_directory.hpp>

#include <array>
#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora {

/// How merge_checkpoint writes.
struct CheckpointMergeOptions {
  /// Of all tensors of numbers with a point: F32, F64, BF16 or F16; none: each keeps its own.
  std::optional<DType> dtype = {};
  /// Told now and then how many bytes of how many are written.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress = {};
};

struct CheckpointMergeReport {
  std::size_t changed = 0, replaced = 0, untouched = 0;  ///< tensors
  std::uint64_t bytes = 0;                               ///< of all tensors written
  std::vector<std::string> warnings;                     ///< MergePlan's
};

namespace detail {

/// Whether no element is infinite or NaN, whose exponents are all ones.
template <class Bits>
bool all_finite_bits(std::span<const std::byte> bytes, Bits exponent) {
  std::atomic<bool> bad{false};
  // A number of elements that is known while compiling: otherwise gcc -O2 takes them one by one.
  constexpr std::size_t block = 256;
  constexpr Index grain = (1 << 18) / (block * sizeof(Bits));
  // Adding its lowest bit carries into the sign's place exactly when all bits of an exponent are 1.
  const Bits lowest = exponent & static_cast<Bits>(-exponent);
  const Bits sign = static_cast<Bits>(exponent + lowest);
  const auto any_bad = [&](const std::byte* from, std::size_t count) {
    Bits some[block] = {}, found = 0;
    std::memcpy(some, from, count * sizeof(Bits));
    for (std::size_t i = 0; i < block; ++i)
      found = static_cast<Bits>(found | ((some[i] & exponent) + lowest));
    return (found & sign) != 0;
  };
  const std::size_t count = bytes.size() / sizeof(Bits), whole = count / block;
  parallel_for(static_cast<Index>(whole), grain, [&](Index begin, Index end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      if (any_bad(bytes.data() + i * block * sizeof(Bits), block)) bad = true;
    }
  });
  return !bad && !any_bad(bytes.data() + whole * block * sizeof(Bits), count % block);
}
inline bool all_finite(DType dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case DType::F16:
      return all_finite_bits<std::uint16_t>(bytes, 0x7C00);
    case DType::BF16:
      return all_finite_bits<std::uint16_t>(bytes, 0x7F80);
    case DType::F32:
      return all_finite_bits<std::uint32_t>(bytes, 0x7F800000);
    default:
      return all_finite_bits<std::uint64_t>(bytes, 0x7FF0000000000000);
  }
}

/// Gives the bytes of one merged tensor, some MiB at a time. Sums are made in S.
template <class S>
class TensorMerge {
 public:
  TensorMerge(std::string name, const SafetensorsFile& source, const std::string& key,
              const SafetensorsFile& adapter, const MergedTensor& plan, DType dtype)
      : name_(std::move(name)),
        from_(source.bytes(key)),
        from_dtype_(source.info(key).dtype),
        dtype_(dtype),
        changed_(!plan.b_key.empty() || !plan.saved_key.empty()) {
    const std::vector<Index>& shape = source.info(key).shape;
    if (plan.b_key.empty() || plan.a_key.empty()) {
      rows_ = static_cast<Index>(from_.size() / (dtype_bits(from_dtype_) / 8));
    } else {
      rows_ = shape[0];
      for (std::size_t i = 1; i < shape.size(); ++i) cols_ *= shape[i];
    }
    if (plan.b_key.empty()) return;
    B_ = adapter.matrix<S>(plan.b_key);
    A_ = plan.a_key.empty() ? Matrix<S>(Matrix<S>::Ones(1, 1)) : adapter.matrix<S>(plan.a_key);
    const View<S> b = plan.a_key.empty() ? View<S>(B_).transposed() : View<S>(B_);
    change_ = LowRankDelta<S>{static_cast<S>(plan.scale), b, View<S>(A_)};
    layout_ = plan.layout;
  }
  TensorMerge(const TensorMerge&) = delete;
  TensorMerge& operator=(const TensorMerge&) = delete;

  void run(const SafetensorsWriter::ByteSink& sink) {
    constexpr std::size_t part_bytes = std::size_t{1} << 20;
    const std::size_t row = static_cast<std::size_t>(std::max<Index>(cols_, 1)) * width(dtype_);
    const auto most = static_cast<Index>(std::max<std::size_t>(1, part_bytes / row));
    for (Index first = 0; first < rows_ && cols_ > 0; first += most) {
      const Index count = std::min(most, rows_ - first);
      const auto elements = static_cast<std::size_t>(count * cols_);
      const auto from = from_.subspan(static_cast<std::size_t>(first * cols_) * width(from_dtype_),
                                      elements * width(from_dtype_));
      out_.resize(elements * width(dtype_));
      compute(from, first, count);
      if (!all_finite(dtype_, out_)) find_not_finite(from, first * cols_);
      sink(out_);
    }
  }

 private:
  static std::size_t width(DType dtype) { return dtype_bits(dtype) / 8; }

  void compute(std::span<const std::byte> from, Index first, Index count) {
    std::array<LowRankDelta<S>, 1> changes;
    std::span<const LowRankDelta<S>> active;
    if (change_) {
      changes[0] = rows_of_change(*change_, layout_, first, count);
      active = changes;
    }
    constexpr bool floats = std::is_same_v<S, float>;
    if (from_dtype_ == dtype_ && dtype_ == (floats ? DType::F32 : DType::F64)) {
      merge_rows(active, layout_, count, cols_, aligned<S>(from), out<S>());
      return;
    }
    if constexpr (floats) {
      if (from_dtype_ == dtype_ && dtype_ == DType::BF16) {
        merge_rows(active, layout_, count, cols_, aligned<std::uint16_t>(from),
                   out<std::uint16_t>());
        return;
      }
    }
    convert(from, active, count);
  }
  void convert(std::span<const std::byte> from, std::span<const LowRankDelta<S>> active,
               Index count) {
    constexpr Index grain = 1 << 14;
    const Index elements = count * cols_;
    wide_.resize(static_cast<std::size_t>(elements));
    const auto part = [](Index begin, Index end) {
      return std::pair(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    };
    parallel_for(elements, grain, [&](Index begin, Index end) {
      const auto [at, n] = part(begin, end);
      decode_elements(from_dtype_, from.data() + at * width(from_dtype_),
                      std::span<S>(wide_).subspan(at, n));
    });
    if (!active.empty()) merge_rows(active, layout_, count, cols_, wide_.data(), wide_.data());
    parallel_for(elements, grain, [&](Index begin, Index end) {
      const auto [at, n] = part(begin, end);
      encode_elements(dtype_, std::span<const S>(wide_).subspan(at, n),
                      out_.data() + at * width(dtype_));
    });
  }

  /// The bytes as elements; where they are not aligned, a copy of them.
  template <class E>
  const E* aligned(std::span<const std::byte> from) {
    if (reinterpret_cast<std::uintptr_t>(from.data()) % alignof(E) != 0) {
      in_.assign(from.begin(), from.end());
      from = in_;
    }
    return reinterpret_cast<const E*>(from.data());
  }
  template <class E>
  E* out() {
    return reinterpret_cast<E*>(out_.data());
  }

  /// What the base has of its own stays: a mask of infinities, say, in another type.
  void find_not_finite(std::span<const std::byte> from, Index first) const {
    const std::size_t count = out_.size() / width(dtype_);
    for (std::size_t i = 0; i < count; ++i) {
      double before = 0, after = 0;
      decode_elements(from_dtype_, from.data() + i * width(from_dtype_), std::span(&before, 1));
      decode_elements(dtype_, out_.data() + i * width(dtype_), std::span(&after, 1));
      if (std::isfinite(after) || (!changed_ && !std::isfinite(before))) continue;
      throw Error("merge_checkpoint: tensor " + in_quotes(name_) + ": element " +
                  std::to_string(static_cast<std::size_t>(first) + i) + " would be " +
                  number_text(after) + " in " + std::string(dtype_name(dtype_)) + " (it was " +
                  number_text(before) + "), expected finite numbers; nothing was written");
    }
  }

  std::string name_;
  std::span<const std::byte> from_;
  DType from_dtype_, dtype_;
  bool changed_;
  Index rows_ = 0, cols_ = 1;
  Matrix<S> A_, B_;
  std::optional<LowRankDelta<S>> change_;
  Layout layout_ = Layout::out_in;
  std::vector<std::byte> in_, out_;
  std::vector<S> wide_;
};

/// One call of merge_checkpoint.
class CheckpointMerger {
 public:
  CheckpointMerger(const CheckpointFiles& base, const PeftAdapter& adapter,
                   const CheckpointMergeOptions& options)
      : base_(base), adapter_(adapter), options_(options), plan_(plan_merge(base, adapter)) {
    if (options.dtype && !is_matrix_dtype(*options.dtype)) {
      throw ConfigError("merge_checkpoint: dtype is " + std::string(dtype_name(*options.dtype)) +
                        ", expected F32, F64, BF16 or F16");
    }
    report_.warnings = plan_.warnings;
    for (const auto& [name, file] : base.names()) count(name);
    for (const auto& [name, tensor] : plan_.tensors) {
      if (!base.contains(name)) count(name);
    }
  }

  CheckpointMergeReport run(const std::filesystem::path& output) {
    StagedDirectory staged(output);
    for (const CheckpointFiles::File& file : base_.files()) {
      SafetensorsWriter writer;
      for (const auto& [key, value] : file.tensors.metadata()) writer.set_metadata(key, value);
      const auto add = [&](const std::string& name) {
        writer.add_computed(name, dtype_of(name), base_.info(in_base(name)).shape,
                            [this, name](const auto& sink) { produce(name, sink); });
      };
      for (const std::string& name : file.tensors.names()) {
        add(name);
        for (const std::string& beside : added_beside(name)) add(beside);
      }
      writer.write(staged.path() / file.name);
    }
    write_index(staged.path());
    copy_others(staged.path());
    staged.commit();
    return report_;
  }

 private:
  /// The base's tensor that one of the merged checkpoint is made of.
  const std::string& in_base(const std::string& name) const {
    const auto planned = plan_.tensors.find(name);
    const bool other = planned != plan_.tensors.end() && !planned->second.base_key.empty();
    return other ? planned->second.base_key : name;
  }
  /// Tensors that the base has not, which go into the file of the one that they are made of.
  std::vector<std::string> added_beside(const std::string& name) const {
    std::vector<std::string> added;
    for (const auto& [other, tensor] : plan_.tensors) {
      if (tensor.base_key == name && !base_.contains(other)) added.push_back(other);
    }
    return added;
  }
  void count(const std::string& name) {
    report_.bytes +=
        tensor_byte_count<FormatError>(dtype_of(name), base_.info(in_base(name)).shape, name);
    const auto planned = plan_.tensors.find(name);
    if (planned == plan_.tensors.end()) {
      ++report_.untouched;
    } else {
      ++(planned->second.b_key.empty() ? report_.replaced : report_.changed);
    }
  }
  DType dtype_of(const std::string& name) const {
    const DType own = base_.info(in_base(name)).dtype;
    return is_matrix_dtype(own) ? options_.dtype.value_or(own) : own;
  }

  void produce(const std::string& name, const SafetensorsWriter::ByteSink& sink) {
    const SafetensorsFile& file = base_.file_of(in_base(name));
    const auto counted = [&](std::span<const std::byte> part) {
      sink(part);
      done_ += part.size();
      if (options_.progress) options_.progress(done_, report_.bytes);
    };
    const auto planned = plan_.tensors.find(name);
    const MergedTensor plan = planned == plan_.tensors.end() ? MergedTensor() : planned->second;
    const bool saved = !plan.saved_key.empty();
    const DType own = file.info(in_base(name)).dtype, dtype = dtype_of(name);
    if (plan.b_key.empty() && !saved && own == dtype) {
      constexpr std::size_t part = std::size_t{8} << 20;
      for (auto left = file.bytes(in_base(name)); !left.empty();
           left = left.subspan(std::min(part, left.size())))
        counted(left.first(std::min(part, left.size())));
      return;
    }
    const SafetensorsFile& source = saved ? adapter_.tensors() : file;
    const std::string& key = saved ? plan.saved_key : in_base(name);
    if (source.info(key).dtype == DType::F64 || dtype == DType::F64) {
      TensorMerge<double>(name, source, key, adapter_.tensors(), plan, dtype).run(counted);
    } else {
      TensorMerge<float>(name, source, key, adapter_.tensors(), plan, dtype).run(counted);
    }
  }

  void copy(const std::filesystem::path& from, const std::filesystem::path& to) const {
    atomic_write(to, MappedFile(from).bytes());
  }
  void write_index(const std::filesystem::path& folder) const {
    if (base_.index().is_null()) return;
    if (!options_.dtype && !plan_.untied)
      return copy(base_.directory() / checkpoint_index_file, folder / checkpoint_index_file);
    Json index = base_.index();
    for (const auto& [name, tensor] : plan_.tensors) {
      if (!base_.contains(name)) index["weight_map"][name] = index["weight_map"][tensor.base_key];
    }
    Json& metadata = index["metadata"];
    if (!metadata.is_object()) metadata = Json::object();
    metadata["total_size"] = report_.bytes;
    atomic_write(folder / checkpoint_index_file, python_json(index, checkpoint_index_file) + "\n");
  }

  /// config.json last: with it the folder is a model.
  void copy_others(const std::filesystem::path& folder) const {
    copy_other_files(base_.directory(), folder);
    const std::filesystem::path path = base_.directory() / hf_config_file;
    if (!file_exists(path)) return;
    if (!options_.dtype && !plan_.untied) return copy(path, folder / hf_config_file);
    Json config = read_config_json(base_.directory());
    if (!config.is_object())
      throw FormatError(path.string() + ": is " + config.type_name() + ", expected an object");
    if (options_.dtype) set_config_dtype(config, *options_.dtype);
    if (plan_.untied) config["tie_word_embeddings"] = false;
    atomic_write(folder / hf_config_file, python_json(config, path.string()) + "\n");
  }

  const CheckpointFiles& base_;
  const PeftAdapter& adapter_;
  const CheckpointMergeOptions& options_;
  MergePlan plan_;
  CheckpointMergeReport report_;
  std::uint64_t done_ = 0;
};

}  // namespace detail

/// Writes W + s B A for every tensor of `base` that `adapter` changes, and the others as they are,
/// to a new folder: the same files, tensors and types, or those of options.dtype, with the index,
/// config.json (with its dtype) and every other file of the base's folder but weights of other
/// formats, README.md, hidden files and folders. s B A is summed and added in float32 (float64 for
/// F64) and rounded once; see plan_merge for what a merge does to which tensor.
///
/// The folder appears whole or not at all; it must not be there, or be empty. Throws as plan_merge
/// and StagedDirectory, FormatError, IoError, and Error, naming tensor and element, when a merged
/// number, or one that was finite before it changed its type, would not be finite.
///
/// Reads from the mapped files and holds some MiB, and the A and B of one tensor, at a time.
/// Source: PEFT's merge_and_unload(safe_merge=True), which rounds s B A to the base's type before
/// it adds.
inline CheckpointMergeReport merge_checkpoint(const CheckpointFiles& base,
                                              const PeftAdapter& adapter,
                                              const std::filesystem::path& output,
                                              const CheckpointMergeOptions& options = {}) {
  return detail::CheckpointMerger(base, adapter, options).run(output);
}

}  // namespace lora
