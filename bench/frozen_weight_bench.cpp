// Measures the two products of a frozen weight in each storage, and Eigen's: over tokens and
// shapes, with warm weights, and for few tokens with cold ones (a ring of layers larger than the
// last cache).
//
// Names: frozen_weight/<forward|input_gradient|cold_forward>/<storage>/out:<O>/in:<D>/tokens:<T>,
// with the storage one of float32, bfloat16, dense, eigen and float32_both (both orientations), and
// with LORA_BENCH_ONEDNN onednn: oneDNN's matrix product over weights in the order that it prefers.
// Counters: share of the measured peak of multiply-adds, and for cold weights share of the measured
// memory bandwidth.
#include <lora/weights/frozen_weight.hpp>

#include <memory>
#include <vector>

#if defined(LORA_BENCH_ONEDNN)
#include <oneapi/dnnl/dnnl.hpp>
#endif

#include "support/run.hpp"

namespace {

using lora::Index;
using Matrix = lora::Matrix<float>;
using Weight = lora::FrozenWeight<float>;

struct Shape {
  Index O, D, T;
};
enum class Storage { float32, bfloat16, dense, eigen, onednn, float32_both };
const char* const storage_names[] = {"float32", "bfloat16", "dense",
                                     "eigen",   "onednn",   "float32_both"};

Weight stored(const Matrix& w, Storage storage) {
  if (storage == Storage::float32) return Weight::pack(w);
  if (storage == Storage::float32_both) {
    return Weight::pack(w, lora::Precision::float32, lora::Layout::out_in,
                        lora::Orientations::both);
  }
  if (storage == Storage::bfloat16) return Weight::pack(w, lora::Precision::bfloat16);
  return Weight(w);
}

void report(benchmark::State& state, Shape s) {
  using benchmark::Counter;
  const double flops = 2.0 * static_cast<double>(s.O * s.D * s.T);
  state.counters["flops"] = Counter(flops, Counter::kIsIterationInvariantRate);
  state.counters["share_of_peak"] =
      Counter(flops / bench::peaks().flops, Counter::kIsIterationInvariantRate);
}

void forward(benchmark::State& state, Shape s, Storage storage) {
  const Matrix w = 0.02f * Matrix::Random(s.O, s.D), x = Matrix::Random(s.T, s.D);
  const Weight weight = stored(w, storage);
  Matrix y(s.T, s.O);
  for (auto _ : state) {
    if (storage == Storage::eigen) {
      y.noalias() = x * w.transpose();
    } else {
      weight.multiply(x, y);
    }
    benchmark::DoNotOptimize(y.data());
  }
  report(state, s);
}

void input_gradient(benchmark::State& state, Shape s, Storage storage) {
  const Matrix w = 0.02f * Matrix::Random(s.O, s.D), dy = Matrix::Random(s.T, s.O);
  const Weight weight = stored(w, storage);
  Matrix dx(s.T, s.D);
  for (auto _ : state) {
    if (storage == Storage::eigen) {
      dx.noalias() = dy * w;
    } else {
      weight.multiply_transposed(dy, dx);
    }
    benchmark::DoNotOptimize(dx.data());
  }
  report(state, s);
}

#if defined(LORA_BENCH_ONEDNN)
/// Computes y = x B with oneDNN, with B (k, n) in the order that it prefers for this number of
/// rows. The products with W and with its transpose need a copy each.
void onednn(benchmark::State& state, Shape s, Matrix b) {
  using dnnl::memory;
  const Matrix x = Matrix::Random(s.T, b.rows());
  Matrix y(s.T, b.cols());
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto plain = [&](Index rows, Index cols) {
    return memory::desc({rows, cols}, memory::data_type::f32, memory::format_tag::ab);
  };
  const memory::desc any({b.rows(), b.cols()}, memory::data_type::f32, memory::format_tag::any);
  const dnnl::matmul::desc description(plain(s.T, b.rows()), any, plain(s.T, b.cols()));
  const dnnl::matmul::primitive_desc chosen(description, engine);
  const dnnl::matmul multiply(chosen);
  memory from(plain(b.rows(), b.cols()), engine, b.data()), packed(chosen.weights_desc(), engine);
  dnnl::reorder(from, packed).execute(stream, from, packed);
  memory left(plain(s.T, b.rows()), engine, const_cast<float*>(x.data()));
  memory right(plain(s.T, b.cols()), engine, y.data());
  for (auto _ : state) {
    multiply.execute(stream,
                     {{DNNL_ARG_SRC, left}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DST, right}});
    stream.wait();
    benchmark::DoNotOptimize(y.data());
  }
  report(state, s);
}
void onednn_forward(benchmark::State& state, Shape s, Storage) {
  onednn(state, s, Matrix::Random(s.D, s.O));
}
void onednn_input_gradient(benchmark::State& state, Shape s, Storage) {
  onednn(state, s, Matrix::Random(s.O, s.D));
}
#endif

/// Uses one layer after another, so that each weight comes from memory.
void cold_forward(benchmark::State& state, Shape s, Storage storage) {
  constexpr Index ring_bytes = Index{640} << 20;
  const Matrix w = 0.02f * Matrix::Random(s.O, s.D), x = Matrix::Random(s.T, s.D);
  std::vector<Weight> ring;
  Index bytes = 0;
  for (; bytes < ring_bytes; bytes += ring.back().bytes()) ring.push_back(stored(w, storage));
  Matrix y(s.T, s.O);
  std::size_t next = 0;
  for (auto _ : state) {
    ring[next].multiply(x, y);
    next = (next + 1) % ring.size();
    benchmark::DoNotOptimize(y.data());
  }
  report(state, s);
  const double each = static_cast<double>(s.O * s.D) * (storage == Storage::bfloat16 ? 2 : 4);
  state.counters["share_of_bandwidth"] = benchmark::Counter(
      each / bench::peaks().bytes_read, benchmark::Counter::kIsIterationInvariantRate);
}

using Body = void (*)(benchmark::State&, Shape, Storage);

void add(const std::string& what, Body body, Storage storage, Shape s) {
  const std::string name = "frozen_weight/" + what + "/" +
                           storage_names[static_cast<int>(storage)] +
                           "/out:" + std::to_string(s.O) + "/in:" + std::to_string(s.D) +
                           "/tokens:" + std::to_string(s.T);
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) { body(state, s, storage); })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

void register_all() {
  const std::pair<Index, Index> shapes[] = {
      {768, 768}, {2048, 2048}, {4096, 4096}, {4864, 896}, {896, 4864}};
  for (const auto& [O, D] : shapes) {
    for (const Index T : {1, 2, 4, 8, 16, 64, 128, 512}) {
      for (const Storage storage :
           {Storage::float32, Storage::bfloat16, Storage::dense, Storage::eigen}) {
        add("forward", forward, storage, {O, D, T});
        add("input_gradient", input_gradient, storage, {O, D, T});
      }
      add("input_gradient", input_gradient, Storage::float32_both, {O, D, T});
#if defined(LORA_BENCH_ONEDNN)
      add("forward", onednn_forward, Storage::onednn, {O, D, T});
      add("input_gradient", onednn_input_gradient, Storage::onednn, {O, D, T});
#endif
    }
  }
  for (const Index T : {1, 2, 4, 8}) {
    for (const Storage storage : {Storage::float32, Storage::bfloat16})
      add("cold_forward", cold_forward, storage, {2048, 2048, T});
  }
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all, true); }
