// Measures what a training step does besides its products, at the size of a step: 512 tokens, width
// 2048, r = 16. The first benchmark is such a step of one layer; the others are shares of it.
//
// Names: hot_loops/<what>.
#include <lora/lora.hpp>
#include <lora/nn/activations.hpp>
#include <lora/nn/losses.hpp>

#include <string>
#include <vector>

#include "support/run.hpp"

namespace {

using lora::Index;
using Matrix = lora::Matrix<float>;
constexpr Index tokens = 512, width = 2048, rank = 16;

struct Step {
  lora::LoRALinear<float> layer;
  lora::LoRALinear<float>::Tape tape;
  Matrix x = Matrix::Random(tokens, width), y = x, dy = Matrix::Random(tokens, width), dx = x;

  explicit Step(double dropout = 0)
      : layer(lora::FrozenWeight<float>::pack(0.02f * Matrix::Random(width, width))) {
    layer.add_adapter("default", {.r = rank,
                                  .lora_alpha = 16,
                                  .lora_dropout = dropout,
                                  .init = lora::AdapterInit::torch_default});
    layer.adapters().set_active({"default"});
  }
  void run() {
    layer.forward(x, y, &tape, {.training = true});
    layer.backward(x, dy, tape, &dx);
  }
};

void step(benchmark::State& state, double dropout) {
  Step one(dropout);
  for (auto _ : state) one.run();
}
void activation(benchmark::State& state, lora::Activation kind) {
  Step one;
  for (auto _ : state) {
    lora::activation_forward<float>(kind, one.x, one.y);
    lora::activation_backward<float>(kind, one.x, one.dy, one.dx);
  }
}
void cross_entropy(benchmark::State& state) {
  Step one;
  std::vector<std::int64_t> labels;
  for (Index t = 0; t < tokens; ++t) labels.push_back(t * 37 % width);
  for (auto _ : state) {
    auto result = lora::cross_entropy<float>(one.x, labels, lora::Out<float>(one.dx));
    benchmark::DoNotOptimize(result);
  }
}
void clip_and_adamw(benchmark::State& state) {
  Step one;
  one.run();
  lora::AdamW<float> optimizer;
  for (auto _ : state) {
    lora::clip_grad_norm(one.layer, 1.0);
    optimizer.step(one.layer);
  }
}

void register_all() {
  const auto add = [](const std::string& what, auto body) {
    benchmark::RegisterBenchmark(("hot_loops/" + what).c_str(), body)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  };
  add("step", [](benchmark::State& state) { step(state, 0); });
  add("step_with_dropout", [](benchmark::State& state) { step(state, 0.1); });
  for (const lora::Activation kind : {lora::Activation::relu, lora::Activation::silu,
                                      lora::Activation::gelu, lora::Activation::gelu_tanh}) {
    add("activation_" + std::string(lora::activation_name(kind)),
        [kind](benchmark::State& state) { activation(state, kind); });
  }
  add("cross_entropy", cross_entropy);
  add("clip_and_adamw", clip_and_adamw);
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
