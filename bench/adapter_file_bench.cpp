// Loads an adapter of 50 MB, in turn with read() of the same bytes into new memory.
//
// Names: adapter_file/<what>/dtype:<F32|BF16>, with <what> one of
//   open          PeftAdapter::open, which reads no values
//   values        the same and every tensor as a float matrix
//   load_adapter  into a model that has the layers and no adapter
// Counters: times_read, the time relative to that of read(), both over all iterations;
// bytes_per_second.
#include <lora/layers/lora_linear.hpp>

#include <filesystem>
#include <vector>

#include "support/folder.hpp"
#include "support/run.hpp"

namespace {

using lora::DType;
using lora::Index;
using Matrix = lora::Matrix<float>;
namespace fs = std::filesystem;

constexpr Index width = 2048, rank = 64,
                layers = 48;  // 48 (A and B of 64 x 2048) of 4 bytes: 50 MB

/// Linear layers that share one frozen weight.
struct Base {
  using Scalar = float;
  std::vector<lora::LoRALinear<float>> own;

  Base() {
    const lora::FrozenWeight<float> weight(Matrix::Zero(width, width).eval());
    for (Index i = 0; i < layers; ++i) own.emplace_back(weight);
  }
  template <class Fn>
  void for_each_module(const lora::NamePath& prefix, Fn&& fn) {
    for (std::size_t i = 0; i < own.size(); ++i)
      fn(lora::NamePath(lora::NamePath(prefix, "layers." + std::to_string(i)), "q_proj"), own[i]);
  }
  template <class Fn>
  void for_each_parameter(const lora::NamePath& prefix, Fn&& fn) {
    for_each_module(prefix, [&](const lora::NamePath& name, auto& layer) {
      layer.for_each_parameter(name, fn);
    });
  }
};

/// Creates a folder with an adapter. Numbers of half the width get twice the rank, so that the file
/// has the same size.
struct AdapterFolder : bench::Folder {
  explicit AdapterFolder(DType dtype) {
    bench::write_adapter(path, layers, width, dtype == DType::F32 ? rank : 2 * rank, dtype);
  }
};

/// Times work() in turn with reading the file. after() is not timed.
template <class Work, class After>
void beside_reading(benchmark::State& state, const AdapterFolder& folder, Work work, After after) {
  const fs::path weights = folder.path / lora::peft_weights_file;
  const auto size = static_cast<std::int64_t>(fs::file_size(weights));
  double reading = 0, working = 0;
  for (auto _ : state) {
    double start = bench::seconds();
    benchmark::DoNotOptimize(lora::read_file(weights, UINT64_MAX).data());
    reading += bench::seconds() - start;
    start = bench::seconds();
    work();
    const double taken = bench::seconds() - start;
    state.SetIterationTime(taken);
    working += taken;
    after();
  }
  state.SetBytesProcessed(state.iterations() * size);
  state.counters["times_read"] = working / reading;
}

void open(benchmark::State& state, DType dtype) {
  const AdapterFolder folder(dtype);
  beside_reading(
      state, folder,
      [&] { benchmark::DoNotOptimize(lora::PeftAdapter::open(folder.path).modules().data()); },
      [] {});
}

void values(benchmark::State& state, DType dtype) {
  const AdapterFolder folder(dtype);
  std::vector<Matrix> all;
  beside_reading(
      state, folder,
      [&] {
        const auto adapter = lora::PeftAdapter::open(folder.path);
        for (const std::string& name : adapter.tensors().names())
          all.push_back(adapter.tensors().matrix<float>(name));
      },
      [&] { all.clear(); });
}

void load_adapter(benchmark::State& state, DType dtype) {
  const AdapterFolder folder(dtype);
  lora::LoRAModel<Base> model{Base()};
  beside_reading(
      state, folder, [&] { lora::load_adapter(model, folder.path); },
      [&] { model.delete_adapter("default"); });
}

void register_all() {
  using Body = void (*)(benchmark::State&, DType);
  const std::pair<const char*, Body> bodies[] = {
      {"open", open}, {"values", values}, {"load_adapter", load_adapter}};
  for (const auto& [what, body] : bodies) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      const std::string name =
          std::string("adapter_file/") + what + "/dtype:" + std::string(lora::dtype_name(dtype));
      benchmark::RegisterBenchmark(name.c_str(),
                                   [=, run = body](benchmark::State& state) { run(state, dtype); })
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
