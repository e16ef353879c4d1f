// Merges an adapter into a checkpoint, file to file, in turn with reading the checkpoint's file
// from the page cache, and with writing and syncing a file of that size from memory.
//
// Names: checkpoint_merge/<disk|nowhere>/dtype:<F32|BF16>. "nowhere" discards what is written, so
// that only reading, the products and the sums remain. Counters, over all iterations:
// bytes_per_second of the base; share_of_read, that relative to the speed of reading; times_write,
// the time relative to that of writing.
#include <lora/io/hf/checkpoint_merge.hpp>

#include <filesystem>
#include <vector>

#include "support/folder.hpp"
#include "support/run.hpp"

namespace {

using lora::DType;
using lora::Index;
namespace fs = std::filesystem;

constexpr Index width = 2048, rank = 16;
constexpr std::size_t file_bytes = std::size_t{256} << 20;

/// The number of weights of this type that give the file its size.
Index layers_of(DType dtype) {
  return static_cast<Index>(file_bytes / (width * width * (dtype == DType::F32 ? 4 : 2)));
}

void write_base(const fs::path& folder, DType dtype) {
  lora::SafetensorsWriter tensors;
  for (Index i = 0; i < layers_of(dtype); ++i) {
    tensors.add(bench::module_name(i) + ".weight", lora::Matrix<float>::Random(width, width),
                dtype);
  }
  fs::create_directories(folder);
  tensors.write(folder / lora::checkpoint_file);
}

/// Times reading the file into reused memory.
double read_file_once(const fs::path& path) {
  static std::vector<std::byte> part(std::size_t{8} << 20);
  const lora::detail::FileCalls& calls = lora::detail::posix_calls();
  const double start = bench::seconds();
  const int fd = calls.open(path.c_str(), O_RDONLY, 0);
  while (calls.read(fd, part.data(), part.size()) > 0) {
  }
  calls.close(fd);
  return bench::seconds() - start;
}

/// Times writing `size` bytes to a new file.
double write_file_once(const fs::path& path) {
  static const std::vector<std::byte> part(std::size_t{1} << 20);
  const double start = bench::seconds();
  lora::AtomicFile file(path);
  for (std::size_t done = 0; done < file_bytes; done += part.size()) file.write(part);
  file.commit();
  return bench::seconds() - start;
}

/// The system's calls, except that nothing is written.
const lora::detail::FileCalls& calls_to_nowhere() {
  static const lora::detail::FileCalls calls = [] {
    lora::detail::FileCalls changed = lora::detail::posix_calls();
    changed.write = [](int, const void*, std::size_t count) { return static_cast<ssize_t>(count); };
    return changed;
  }();
  return calls;
}

void merge(benchmark::State& state, DType dtype, bool to_disk) {
  const bench::Folder folder;
  write_base(folder.path / "base", dtype);
  bench::write_adapter(folder.path / "adapter", layers_of(dtype), width, rank, dtype);
  const auto base = lora::CheckpointFiles::open(folder.path / "base");
  const auto adapter = lora::PeftAdapter::open(folder.path / "adapter");
  const lora::detail::FileCalls& before = lora::detail::file_calls();
  double reading = 0, writing = 0, merging = 0;
  for (auto _ : state) {
    reading += read_file_once(folder.path / "base" / lora::checkpoint_file);
    if (to_disk) writing += write_file_once(folder.path / "written");
    const double start = bench::seconds();
    if (!to_disk) lora::detail::file_calls_in_force() = &calls_to_nowhere();
    lora::merge_checkpoint(base, adapter, folder.path / "merged");
    lora::detail::file_calls_in_force() = &before;
    const double taken = bench::seconds() - start;
    state.SetIterationTime(taken);
    merging += taken;
    fs::remove_all(folder.path / "merged");
    fs::remove(folder.path / "written");
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(file_bytes));
  state.counters["share_of_read"] = reading / merging;
  if (to_disk) state.counters["times_write"] = merging / writing;
}

void register_all() {
  for (const bool to_disk : {true, false}) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      const std::string name = std::string("checkpoint_merge/") + (to_disk ? "disk" : "nowhere") +
                               "/dtype:" + std::string(lora::dtype_name(dtype));
      benchmark::RegisterBenchmark(name.c_str(),
                                   [=](benchmark::State& state) { merge(state, dtype, to_disk); })
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
