// Loads a checkpoint's folder: measures the time, and the peak memory compared with that of the
// loaded model. Each load is a process of its own, so that freed memory does not count.
//
// Names: model_load/<model>/file:<F32|BF16>/weights:<f32|bf16>. Counters: bytes_per_second of the
// file, which is in the page cache; loaded_mb and peak_mb, resident (the largest of all loads);
// peak_of_loaded, their quotient (the goal is 1.15).
#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/hf/save_model.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/folder.hpp"
#include "support/model_shapes.hpp"
#include "support/run.hpp"

namespace {

using lora::DType;
using lora::Precision;
using LM = lora::CausalLM<float>;

struct Found {
  double seconds = 0, loaded = 0, peak = 0;  ///< bytes
};

/// Returns a line of /proc/self/status, which is in kilobytes, in bytes.
double status(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(name + ":", 0) == 0) return std::stod(line.substr(name.size() + 1)) * 1024;
  }
  throw std::runtime_error("/proc/self/status has no " + name);
}

/// Runs this program again: "--save SHAPE DTYPE FOLDER" or "--load FOLDER WEIGHTS", which prints a
/// Found.
int child(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 4 && words[0] == "--save") {
    LM random(bench::model_shape(words[1], 1024), lora::RandomWeights<float>{});
    lora::SaveModelOptions options;
    options.dtype = words[2] == "F32" ? DType::F32 : DType::BF16;
    save_pretrained(random, words[3], options);
    return 0;
  }
  const Precision dtype = words.at(2) == "f32" ? Precision::float32 : Precision::bfloat16;
  const double begin = bench::seconds();
  const LM loaded = lora::load_model<LM>(words[1], {.dtype = dtype});
  const double end = bench::seconds();
  std::printf("%.9g %.9g %.9g\n", end - begin, status("VmRSS"), status("VmHWM"));
  return 0;
}

/// Returns what the child prints for these words.
Found run_child(const std::string& words) {
  const std::string command =
      std::filesystem::read_symlink("/proc/self/exe").string() + " " + words;
  FILE* out = popen(command.c_str(), "r");
  if (out == nullptr) throw std::runtime_error("cannot start " + command);
  Found found;
  const int read = std::fscanf(out, "%lf %lf %lf", &found.seconds, &found.loaded, &found.peak);
  if (pclose(out) != 0 || (read != 3 && read != EOF))
    throw std::runtime_error(command + ": failed");
  return found;
}

void load(benchmark::State& state, const std::string& shape, DType dtype,
          const std::string& weights) {
  const bench::Folder folder;
  const std::filesystem::path model = folder.path / "model";
  run_child("--save " + shape + " " + std::string(dtype_name(dtype)) + " " + model.string());
  double bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(model))
    bytes += static_cast<double>(entry.file_size());
  Found most;
  for (auto _ : state) {
    const Found found = run_child("--load " + model.string() + " " + weights);
    state.SetIterationTime(found.seconds);
    most.loaded = std::max(most.loaded, found.loaded);
    most.peak = std::max(most.peak, found.peak);
  }
  using benchmark::Counter;
  state.counters["bytes_per_second"] = Counter(bytes, Counter::kIsIterationInvariantRate);
  state.counters["loaded_mb"] = most.loaded * 1e-6;
  state.counters["peak_mb"] = most.peak * 1e-6;
  state.counters["peak_of_loaded"] = most.peak / most.loaded;
}

void register_all() {
  for (const std::string shape : {"llama_134M", "gpt2_124M", "qwen_494M"}) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      for (const std::string weights : {"f32", "bf16"}) {
        const std::string name = "model_load/" + shape + "/file:" + std::string(dtype_name(dtype)) +
                                 "/weights:" + weights;
        benchmark::RegisterBenchmark(
            name.c_str(), [=](benchmark::State& state) { load(state, shape, dtype, weights); })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && (std::string(argv[1]) == "--save" || std::string(argv[1]) == "--load"))
    return child(argc, argv);
  return bench::run(argc, argv, register_all);
}
