// Measures one adapted layer: forward, backward, a whole step and merging, over rank, tokens and
// width, compared with the frozen layer alone and with naive code that forms W + sBA and dW.
//
// Names: lora_linear/<what>/width:<W>/tokens:<T>/rank:<r>. Counters: flops per second, tokens per
// second, share of the peak that this process measured, and in bfloat16 also of the peak of its
// instructions if the processor has them. The peak is measured before and after; if the two differ
// by more than 10 %, the figures are unreliable and the program ends with exit code 2.
#include <lora/lora.hpp>

#include <string>

#include "support/run.hpp"

namespace {

using lora::Index;
using Matrix = lora::Matrix<float>;

struct Setting {
  Index width, tokens, rank;
  lora::Precision precision = lora::Precision::float32;
  lora::Orientations orientations = lora::Orientations::one;
  Index out = 0;  ///< 0: same as the input
  float dropout = 0;
  bool dora = false;

  Index out_width() const { return out > 0 ? out : width; }
};

/// A layer with a trained adapter, its input, and the gradient of its output.
struct LayerSetup {
  lora::LoRALinear<float> layer;
  lora::LoRALinear<float>::Tape tape;
  Matrix x, y, dy, dx;

  explicit LayerSetup(Setting s)
      : layer(lora::FrozenWeight<float>::pack(0.02f * Matrix::Random(s.out_width(), s.width),
                                              s.precision, lora::Layout::out_in, s.orientations)),
        x(Matrix::Random(s.tokens, s.width)),
        y(s.tokens, s.out_width()),
        dy(Matrix::Random(s.tokens, s.out_width())) {
    if (s.rank == 0) return;
    lora::AdapterOptions options = {.r = s.rank,
                                    .lora_alpha = 16,
                                    .lora_dropout = s.dropout,
                                    .init = lora::AdapterInit::torch_default};
    if (s.dora) options.variant = lora::DoRA{};
    layer.add_adapter("default", options);
    layer.adapters().set_active({"default"});
  }
  void forward() { layer.forward(x, y, &tape, {.training = true}); }
  void backward() { layer.backward(x, dy, tape, &dx); }
};

double layer_flops(Setting s) {
  return 2.0 * static_cast<double>(s.tokens * s.width * s.out_width());
}
/// The mean width of the adapter's products: half of them are as wide as the input, half as the
/// output.
double adapter_flops(Setting s) {
  return static_cast<double>(s.tokens * (s.width + s.out_width()) * s.rank);
}

void report(benchmark::State& state, Setting s, double flops) {
  using benchmark::Counter;
  state.counters["flops"] = Counter(flops, Counter::kIsIterationInvariantRate);
  state.counters["tokens_per_second"] =
      Counter(static_cast<double>(s.tokens), Counter::kIsIterationInvariantRate);
  state.counters["share_of_peak"] =
      Counter(flops / bench::peaks().flops, Counter::kIsIterationInvariantRate);
  if (s.precision == lora::Precision::bfloat16 && bench::peaks().bf16_flops > 0) {
    state.counters["share_of_bf16_peak"] =
        Counter(flops / bench::peaks().bf16_flops, Counter::kIsIterationInvariantRate);
  }
}

void forward(benchmark::State& state, Setting s) {
  LayerSetup setup(s);
  for (auto _ : state) setup.forward();
  report(state, s, layer_flops(s) + 2 * adapter_flops(s));
}

void backward(benchmark::State& state, Setting s) {
  LayerSetup setup(s);
  setup.forward();
  for (auto _ : state) setup.backward();
  report(state, s, layer_flops(s) + 4 * adapter_flops(s));
}

void step(benchmark::State& state, Setting s) {
  LayerSetup setup(s);
  lora::AdamW<float> optimizer;
  for (auto _ : state) {
    lora::zero_grad(setup.layer);
    setup.forward();
    setup.backward();
    optimizer.step(setup.layer);
  }
  report(state, s, 2 * layer_flops(s) + 6 * adapter_flops(s));
}

void forward_backward(benchmark::State& state, Setting s) {
  LayerSetup setup(s);
  for (auto _ : state) {
    setup.forward();
    setup.backward();
  }
  report(state, s, 2 * layer_flops(s) + 6 * adapter_flops(s));
}

/// Reads the weight and writes the merged one.
void merge(benchmark::State& state, Setting s) {
  LayerSetup setup(s);
  auto merged = setup.layer.prepare_merge();  // reuses the memory of the previous one
  for (auto _ : state) merged = setup.layer.prepare_merge();
  report(state, s, 2.0 * static_cast<double>(s.width * s.out_width() * s.rank));
  state.counters["share_of_bandwidth"] = benchmark::Counter(
      2.0 * static_cast<double>(setup.layer.weight().bytes()) / bench::peaks().bytes_read,
      benchmark::Counter::kIsIterationInvariantRate);
}

/// The naive implementation: forms W + sBA, and gets dA and dB through dW.
void naive(benchmark::State& state, Setting s) {
  LayerSetup setup(s);
  const Matrix w = setup.layer.weight().dense();
  const auto& adapter = setup.layer.adapters().get("default");
  const Matrix a = adapter.A.value, b = adapter.B.value;
  Matrix d_a, d_b;
  for (auto _ : state) {
    const Matrix merged = w + adapter.scale() * (b * a);
    setup.y.noalias() = setup.x * merged.transpose();
    const Matrix d_w = setup.dy.transpose() * setup.x;
    d_b.noalias() = adapter.scale() * (d_w * a.transpose());
    d_a.noalias() = adapter.scale() * (b.transpose() * d_w);
    setup.dx.noalias() = setup.dy * merged;
    benchmark::DoNotOptimize(d_a.data());
    benchmark::DoNotOptimize(d_b.data());
    benchmark::DoNotOptimize(setup.dx.data());
  }
  report(state, s, 2 * layer_flops(s) + 6 * adapter_flops(s));
}

using Body = void (*)(benchmark::State&, Setting);

void add(const std::string& what, Body body, Setting s) {
  const std::string name = "lora_linear/" + what + "/width:" + std::to_string(s.width) +
                           (s.out > 0 ? "x" + std::to_string(s.out) : "") +
                           "/tokens:" + std::to_string(s.tokens) +
                           "/rank:" + std::to_string(s.rank);
  benchmark::RegisterBenchmark(name.c_str(), [body, s](benchmark::State& state) { body(state, s); })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

void register_all() {
  for (const Index width : {768, 2048, 4096}) {
    for (const Index tokens : {1, 2, 4, 8, 16, 64, 128, 512}) {
      add("frozen", forward_backward, {width, tokens, 0});
      add("frozen_forward", forward, {width, tokens, 0});
      add("frozen_backward", backward, {width, tokens, 0});
      for (const Index rank : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
        const Setting s{width, tokens, rank};
        add("forward", forward, s);
        add("backward", backward, s);
        add("forward_backward", forward_backward, s);
        add("step", step, s);
        add("naive", naive, s);
        add("step_bf16", step, {width, tokens, rank, lora::Precision::bfloat16});
      }
      using lora::Precision, lora::Orientations;
      add("frozen_bf16", forward_backward, {width, tokens, 0, Precision::bfloat16});
      add("forward_backward_bf16", forward_backward, {width, tokens, 16, Precision::bfloat16});
      add("forward_backward_both", forward_backward,
          {width, tokens, 16, Precision::float32, Orientations::both});
      Setting dropping{width, tokens, 16};
      dropping.dropout = 0.1f;
      add("forward_backward_dropout", forward_backward, dropping);
      add("step_dropout", step, dropping);
      dropping.dora = true;
      add("step_dora_dropout", step, dropping);
      dropping.dropout = 0;
      add("step_dora", step, dropping);
      dropping.precision = Precision::bfloat16;
      add("step_dora_bf16", step, dropping);
    }
    for (const Index rank : {1, 4, 16, 64, 256}) {
      add("merge", merge, {width, 1, rank});
      add("merge_bf16", merge, {width, 1, rank, lora::Precision::bfloat16});
    }
  }
  // A feed-forward layer of a small model.
  for (const Index tokens : {1, 2, 4, 8, 16, 64, 128, 512}) {
    for (const Index rank : {0, 16}) {
      Setting s{896, tokens, rank};
      s.out = 4864;
      add(rank == 0 ? "frozen" : "forward_backward", forward_backward, s);
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all, true); }
