// Uses LoRA on a model of your own: an attention block with a residual, for one sequence. Adapts
// it, saves the adapter as PEFT does, loads it onto a fresh copy of the base and merges it.
#include <lora/io/peft/pretrained.hpp>
#include <lora/lora.hpp>
#include <lora/nn/attention.hpp>

#include <cstdio>
#include <cstdlib>

using Matrix = lora::Matrix<float>;
using Linear = lora::LoRALinear<float>;

/// Computes y = x + O attention(Q x, K x, V x) for a sequence x (T, width), with two heads, causal.
/// A model is a value with your own forward and backward, and for LoRAModel the two functions at
/// its end.
struct AttentionModel {
  using Scalar = float;
  Linear q, k, v, o;
  lora::AttentionShape shape;

  /// What backward needs from one forward, and its workspace. Reused from step to step.
  struct Tape {
    Linear::Tape q, k, v, o;
    Matrix queries, keys, values, mixed, lse;
    Matrix dqueries, dkeys, dvalues, dmixed;
    lora::AttentionWorkspace<float> workspace;
  };

  static AttentionModel random(lora::Index width) {
    const auto layer = [width] { return Linear(Matrix(0.3f * Matrix::Random(width, width))); };
    return {layer(), layer(), layer(), layer(), {.heads = 2, .kv_heads = 2, .head_dim = width / 2}};
  }

  void forward(lora::In<float> x, lora::Out<float> y, Tape& tape,
               const lora::Pass& pass = {}) const {
    for (Matrix* m : {&tape.queries, &tape.keys, &tape.values, &tape.mixed})
      m->resize(x.rows(), x.cols());
    tape.lse.resize(x.rows(), shape.heads);
    q.forward(x, tape.queries, &tape.q, pass);
    k.forward(x, tape.keys, &tape.k, pass);
    v.forward(x, tape.values, &tape.v, pass);
    const lora::AttentionSequence<float> sequence{tape.queries, tape.keys, tape.values, tape.mixed,
                                                  tape.lse};
    lora::attention_forward<float>(shape, {&sequence, 1}, tape.workspace);
    o.forward(tape.mixed, y, &tape.o, pass);
    y += x;
  }

  /// Adds the gradients of the trained tensors; dy = dL/dy. Computes no gradient of the input.
  void backward(lora::In<float> x, lora::In<float> dy, Tape& tape) {
    o.backward(tape.mixed, dy, tape.o, &tape.dmixed);
    for (Matrix* m : {&tape.dqueries, &tape.dkeys, &tape.dvalues}) m->resize(x.rows(), x.cols());
    const lora::AttentionGradient<float> gradient{tape.queries,  tape.keys,  tape.values,
                                                  tape.mixed,    tape.lse,   tape.dmixed,
                                                  tape.dqueries, tape.dkeys, tape.dvalues};
    lora::attention_backward<float>(shape, {&gradient, 1}, tape.workspace);
    q.backward(x, tape.dqueries, tape.q, nullptr);
    k.backward(x, tape.dkeys, tape.k, nullptr);
    v.backward(x, tape.dvalues, tape.v, nullptr);
  }

  /// Lists the layers that can take adapters, by name.
  template <class Fn>
  void for_each_module(const lora::NamePath& prefix, Fn&& fn) {
    fn(lora::NamePath(prefix, "q_proj"), q);
    fn(lora::NamePath(prefix, "k_proj"), k);
    fn(lora::NamePath(prefix, "v_proj"), v);
    fn(lora::NamePath(prefix, "o_proj"), o);
  }
  /// Lists every tensor that is or may become trainable.
  template <class Fn>
  void for_each_parameter(const lora::NamePath& prefix, Fn&& fn) {
    for_each_module(prefix, [&](const lora::NamePath& name, auto& layer) {
      layer.for_each_parameter(name, fn);
    });
  }
};
static_assert(lora::Adaptable<AttentionModel>);

float difference(const Matrix& a, const Matrix& b) { return (a - b).cwiseAbs().maxCoeff(); }

int main() {
  constexpr lora::Index tokens = 40, width = 24;
  const AttentionModel base = AttentionModel::random(width);
  const Matrix x = Matrix::Random(tokens, width);
  Matrix target(tokens, width), y(tokens, width), dy(tokens, width);
  AttentionModel::Tape tape;
  AttentionModel goal = base;  // changes the value and output layers by rank 4
  const auto changed = [](const Linear& layer) {
    return Linear(Matrix(layer.weight().dense() +
                         0.2f * Matrix::Random(width, 4) * Matrix::Random(4, width)));
  };
  goal.v = changed(base.v);
  goal.o = changed(base.o);
  goal.forward(x, target, tape);

  lora::LoRAConfig config;
  config.r = 4;
  config.lora_alpha = 8;
  config.target_modules = {"v_proj", "o_proj"};
  lora::LoRAModel model(base, config);
  std::printf("%s\n", model.trainable_parameters_text().c_str());
  lora::AdamW<float> optimizer({.lr = 1e-2, .weight_decay = 0.0});
  double first = 0, loss = 0;
  for (int step = 0; step <= 300; ++step) {
    lora::zero_grad(model);
    model.base().forward(x, y, tape, {.training = true});
    loss = lora::mse_loss<float>(y, target, dy);
    if (step == 0) first = loss;
    if (step % 100 == 0) std::printf("step %3d  loss %.6f\n", step, loss);
    model.base().backward(x, dy, tape);
    optimizer.step(model);
  }

  model.base().forward(x, y, tape);
  lora::save_pretrained(model, "own_model_adapter");  // a folder that PEFT reads
  auto [loaded, report] = lora::from_pretrained(base, "own_model_adapter");
  Matrix again(tokens, width), merged(tokens, width);
  loaded.base().forward(x, again, tape);
  loaded.merge_adapter();  // W + (alpha / r) B A; unmerge_adapter() gives W back bit for bit
  loaded.base().forward(x, merged, tape);
  std::printf("loaded again: differs by %.1e; merged: by %.1e\n",
              static_cast<double>(difference(y, again)),
              static_cast<double>(difference(y, merged)));
  const bool right =
      loss < 0.1 * first && difference(y, again) == 0 && difference(y, merged) < 1e-5f;
  return right ? EXIT_SUCCESS : EXIT_FAILURE;
}
