// Measures whole language models with random weights: a training step, decoding token by token, and
// attention alone as the sequence grows, with the memory they take.
//
// Names: language_model/<what>/<model>/<storage>/tokens:<T>, attention/<what>/tokens:<T>. Counters:
// tokens per second, flops as a share of the peak that this process measured (4 N T for a step and
// 6 N T for full fine-tuning, with N the weights of the linear layers), megabytes. The peak is
// measured before and after; if the two differ by more than 10 %, the program ends with exit code
// 2. The resident memory is the largest that the process ever had: run a benchmark alone to see its
// own.
#include <lora/adapters/lora_model.hpp>
#include <lora/models/causal_lm.hpp>
#include <lora/optim/adamw.hpp>
#include <lora/optim/clip_grad.hpp>

#include <sys/resource.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "support/model_shapes.hpp"
#include "support/run.hpp"

namespace {

using namespace lora;
using Model = LoRAModel<CausalLM<float>>;

struct Setting {
  std::string model;
  Precision precision = Precision::float32;
  Index tokens = 512;
  bool adapter = true, checkpointing = false, full = false;
  Orientations orientations = Orientations::one;
};

/// One model at a time, since some are large.
struct Loaded {
  std::string key;
  std::unique_ptr<Model> model;
  double linear_weights = 0;
};
Loaded& loaded(const Setting& s) {
  static Loaded one;
  const std::string key = s.model + (s.precision == Precision::float32 ? "f" : "b") +
                          (s.full      ? "full"
                           : s.adapter ? "lora"
                                       : "") +
                          (s.orientations == Orientations::both ? "both" : "");
  if (one.key == key) return one;
  one = {};
  one.key = key;
  one.model = std::make_unique<Model>(
      CausalLM<float>(bench::model_shape(s.model, 4096),
                      RandomWeights<float>{.packed = s.precision, .orientations = s.orientations}));
  for_each_adapter_layer(one.model->base(), [&](const NamePath&, auto& layer) {
    if (std::string(layer.module_type()) != "Embedding")
      one.linear_weights += static_cast<double>(layer.weight().size());
    if (s.full) layer.train_base();
  });
  if (s.full || !s.adapter) return one;
  LoRAConfig config;
  config.r = 16;
  config.lora_alpha = 32;
  if (s.model == "gpt2_124M") {
    config.target_modules = {"c_attn", "attn.c_proj"};
    config.fan_in_fan_out = true;
  } else {
    config.target_modules = "all-linear";
  }
  one.model->add_adapter("default", config);
  return one;
}

std::vector<std::int64_t> some_ids(Index n) {
  std::vector<std::int64_t> ids;
  for (Index t = 0; t < n; ++t) ids.push_back((t * 7919 + 13) % 30011);
  return ids;
}

double peak_resident_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024e-6;
}

void report(benchmark::State& state, double tokens, double flops) {
  using benchmark::Counter;
  state.counters["tokens_per_second"] = Counter(tokens, Counter::kIsIterationInvariantRate);
  state.counters["share_of_peak"] =
      Counter(flops / bench::peaks().flops, Counter::kIsIterationInvariantRate);
  state.counters["peak_resident_mb"] = peak_resident_mb();
}

void step(benchmark::State& state, const Setting& s) {
  Loaded& one = loaded(s);
  const std::vector<std::int64_t> ids = some_ids(s.tokens);
  CausalLM<float>::Tape tape;
  AdamW<float> optimizer;
  const auto run = [&] {
    zero_grad(*one.model);
    one.model->base().loss({ids}, ids, tape, {.checkpointing = s.checkpointing});
    clip_grad_norm(*one.model, 1.0);
    optimizer.step(*one.model);
  };
  run();
  for (auto _ : state) run();
  const auto tokens = static_cast<double>(s.tokens);
  report(state, tokens, (s.full ? 6 : s.checkpointing ? 6 : 4) * one.linear_weights * tokens);
}

void decode(benchmark::State& state, const Setting& s) {
  Loaded& one = loaded(s);
  std::vector<std::int64_t> ids = some_ids(16);
  CausalLM<float>::Tape tape;
  KVCache<float> cache;
  KVCache<float>* const caches[] = {&cache};
  Matrix<float> y(1, one.model->base().vocab_size());
  one.model->base().decode({ids}, caches, y, tape);
  for (auto _ : state) {
    if (cache.length() >= 144) cache.truncate(16);
    one.model->base().decode({std::span(ids).first(1)}, caches, y, tape);
  }
  report(state, 1, 2 * one.linear_weights);
}

void prompt(benchmark::State& state, const Setting& s) {
  Loaded& one = loaded(s);
  const std::vector<std::int64_t> ids = some_ids(s.tokens);
  CausalLM<float>::Tape tape;
  Matrix<float> y(1, one.model->base().vocab_size());
  for (auto _ : state) {
    KVCache<float> cache;
    KVCache<float>* const caches[] = {&cache};
    one.model->base().decode({ids}, caches, y, tape);
  }
  const auto tokens = static_cast<double>(s.tokens);
  report(state, tokens, 2 * one.linear_weights * tokens);
}

/// 12 heads of 64 over 12 or 2 heads of keys.
void attention(benchmark::State& state, Index tokens, Index kv_heads, bool backward) {
  const AttentionShape shape{12, kv_heads, 64, 0};
  const Index wide = 12 * 64, narrow = kv_heads * 64;
  const Matrix<float> q = Matrix<float>::Random(tokens, wide), dy = q,
                      k = Matrix<float>::Random(tokens, narrow), v = k;
  Matrix<float> y(tokens, wide), lse(tokens, 12), dq = q, dk = k, dv = k;
  AttentionWorkspace<float> workspace;
  const AttentionSequence<float> forward[] = {{q, k, v, y, lse}};
  const AttentionGradient<float> gradient[] = {{q, k, v, y, lse, dy, dq, dk, dv}};
  attention_forward<float>(shape, forward, workspace);
  for (auto _ : state) {
    if (backward) {
      attention_backward<float>(shape, gradient, workspace);
    } else {
      attention_forward<float>(shape, forward, workspace);
    }
  }
  double bytes = 0;
  for (const Matrix<float>& memory : workspace.of_thread)
    bytes += 4.0 * static_cast<double>(memory.size());
  // Counts only the keys that are seen.
  const double pairs = static_cast<double>(tokens) * static_cast<double>(tokens + 1) / 2;
  report(state, static_cast<double>(tokens), (backward ? 10 : 4) * pairs * 64 * 12);
  state.counters["workspace_mb"] = bytes * 1e-6;
}

void add(const std::string& what, void (*body)(benchmark::State&, const Setting&), Setting s) {
  const std::string name = "language_model/" + what + "/" + s.model + "/" +
                           (s.precision == Precision::float32 ? "f32" : "bf16") +
                           "/tokens:" + std::to_string(s.tokens);
  benchmark::RegisterBenchmark(name.c_str(), [body, s](benchmark::State& state) { body(state, s); })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

void register_all() {
  for (const Index kv_heads : {12, 2}) {
    for (const Index tokens : {256, 512, 1024, 2048}) {
      for (const bool backward : {false, true}) {
        const std::string name = std::string("attention/") + (backward ? "backward" : "forward") +
                                 "/kv_heads:" + std::to_string(kv_heads) +
                                 "/tokens:" + std::to_string(tokens);
        benchmark::RegisterBenchmark(
            name.c_str(),
            [=](benchmark::State& state) { attention(state, tokens, kv_heads, backward); })
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
      }
    }
  }
  for (const std::string model : {"llama_134M", "gpt2_124M", "qwen_494M"}) {
    for (const Precision precision : {Precision::float32, Precision::bfloat16}) {
      for (const Index tokens : {512, 128, 32}) add("step", step, {model, precision, tokens});
      for (const Index tokens : {512, 32})
        add("step_both", step, {model, precision, tokens, true, false, false, Orientations::both});
      add("step_checkpointing", step, {model, precision, 512, true, true});
      add("decode_adapter", decode, {model, precision, 1});
      add("decode", decode, {model, precision, 1, false});
      add("prompt", prompt, {model, precision, 512, false});
    }
  }
  add("step_full", step, {"llama_134M", Precision::float32, 512, false, false, true});
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
