// Measures a batch of eight rows, each with its own adapter, compared with the same batch without
// adapters and with one pass per adapter: over a ring of layers larger than the last cache, like a
// model of many layers.
//
// Names: mixed_adapters/<none|mixed|one_pass_each>/width:2048/rank:16. Times are those of one
// layer.
#include <lora/lora.hpp>

#include <string>
#include <vector>

#include "support/run.hpp"

namespace {

using lora::Index;
using Matrix = lora::Matrix<float>;
using Layer = lora::LoRALinear<float>;

constexpr Index width = 2048, rank = 16, rows = 8;

std::string adapter_name(Index i) { return "adapter_" + std::to_string(i); }

struct Model {
  std::vector<Layer> layers;
  std::vector<std::string> names;
  Layer::Tape tape;
  Matrix x = Matrix::Random(rows, width), y = Matrix(rows, width);

  Model() {
    constexpr Index ring_bytes = Index{640} << 20;
    const Matrix w = 0.02f * Matrix::Random(width, width);
    for (Index bytes = 0; bytes < ring_bytes; bytes += layers.back().weight().bytes()) {
      layers.emplace_back(lora::FrozenWeight<float>::pack(w));
      for (Index i = 0; i < rows; ++i) {
        layers.back().add_adapter(
            adapter_name(i),
            {.r = rank, .lora_alpha = 16, .init = lora::AdapterInit::torch_default});
      }
    }
    for (Index i = 0; i < rows; ++i) names.push_back(adapter_name(i));
  }
  void activate(const std::vector<std::string>& active) {
    for (Layer& layer : layers) layer.adapters().set_active(active);
  }
};

Model& model() {
  static Model one;  // 640 MB, created when the first benchmark runs
  return one;
}

/// Each iteration goes through all layers; times are divided by their number.
template <class Pass>
void through_layers(benchmark::State& state, Pass pass) {
  Model& m = model();
  m.activate({});
  for (auto _ : state) {
    pass(m);
    benchmark::DoNotOptimize(m.y.data());
  }
  state.counters["layers_per_second"] = benchmark::Counter(
      static_cast<double>(m.layers.size()), benchmark::Counter::kIsIterationInvariantRate);
}

void none(benchmark::State& state) {
  through_layers(state, [](Model& m) {
    for (Layer& layer : m.layers) layer.forward(m.x, m.y, &m.tape);
  });
}
void mixed(benchmark::State& state) {
  through_layers(state, [](Model& m) {
    for (Layer& layer : m.layers) layer.forward(m.x, m.y, &m.tape, {.adapter_names = m.names});
  });
}
void one_pass_each(benchmark::State& state) {
  through_layers(state, [](Model& m) {
    for (Index i = 0; i < rows; ++i) {
      m.activate({m.names[static_cast<std::size_t>(i)]});
      for (Layer& layer : m.layers)
        layer.forward(m.x.middleRows(i, 1), m.y.middleRows(i, 1), &m.tape);
    }
  });
}

void register_all() {
  const std::string shape = "/width:" + std::to_string(width) + "/rank:" + std::to_string(rank);
  const auto add = [&](const std::string& what, void (*body)(benchmark::State&)) {
    benchmark::RegisterBenchmark(("mixed_adapters/" + what + shape).c_str(), body)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  };
  add("none", none);
  add("mixed", mixed);
  add("one_pass_each", one_pass_each);
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
