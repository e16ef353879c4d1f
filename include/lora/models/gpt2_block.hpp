// One block of GPT-2: attention and a feed-forward layer, each after a norm and with a residual
// connection.
#pragma once

#include <lora/models/decoder_stack.hpp>
#include <lora/models/gpt2_config.hpp>
#include <lora/models/weight_source.hpp>
#include <lora/nn/activations.hpp>
#include <lora/nn/layer_norm.hpp>

namespace lora {

/// Computes
///   m = x + attn.c_proj(attention(c_attn(ln_1(x)))),
///   y = m + mlp.c_proj(f(c_fc(ln_2(m)))).
/// c_attn returns q, k and v side by side. Weights are (in, out), as in GPT-2's Conv1D.
/// DecoderStack documents the functions. A value type.
/// Threads: forward() may run on several threads, each with its own tape.
template <class S>
struct GPT2Block {
  using Scalar = S;

  /// What backward needs from one forward: everything that is expensive to recompute.
  struct Tape {
    Matrix<S> qkv;            ///< (T, 3D)
    Matrix<S> attended, lse;  ///< the result of attention (T, D), and (T, H)
    Matrix<S> middle;         ///< m
    Matrix<S> inner;          ///< the result of c_fc, before f
    Matrix<S> statistics_1, statistics_2;
    typename LoRALinear<S>::Tape attn_tape, attn_proj_tape, fc_tape, proj_tape;
  };
  /// Temporary memory of a block.
  struct Scratch {
    Matrix<S> normed, hidden, dhidden, dnormed, dattended, dqkv;
    AttentionScratch<S> attention;
  };

  LoRALinear<S> c_attn, attn_c_proj, c_fc, mlp_c_proj;
  LayerNorm<S> ln_1, ln_2;
  AttentionShape shape;
  Activation activation = Activation::gelu_tanh;
  Index layer = 0;

  GPT2Block() = default;
  /// Reads layer `index` from `source` with the names prefix.attn.c_attn ….
  template <WeightSource<S> Source>
  GPT2Block(const GPT2Config& c, Index index, const std::string& prefix, Source& source)
      : shape{c.n_head, c.n_head, c.n_embd / c.n_head, 0},
        activation(c.activation_function),
        layer(index) {
    const Index D = c.n_embd, F = c.inner();
    const auto linear = [&](const char* name, Index out, Index in) {
      return linear_from<S>(source, prefix + name, out, in, Bias::yes, Layout::in_out);
    };
    c_attn = linear(".attn.c_attn", 3 * D, D);
    attn_c_proj = linear(".attn.c_proj", D, D);
    c_fc = linear(".mlp.c_fc", F, D);
    mlp_c_proj = linear(".mlp.c_proj", D, F);
    ln_1 = layer_norm_from<S>(source, prefix + ".ln_1", D, c.layer_norm_epsilon);
    ln_2 = layer_norm_from<S>(source, prefix + ".ln_2", D, c.layer_norm_epsilon);
  }

  void forward(In<S> x, Out<S> y, Tape& tape, Scratch& scratch, const BatchContext<S>& context,
               const Pass& pass) const {
    const Index T = x.rows();
    normed(ln_1, x, tape.statistics_1, scratch);
    run(c_attn, scratch.normed, tape.qkv, tape.attn_tape, pass);
    set_size(tape.attended, T, x.cols());
    set_size(tape.lse, T, shape.heads);
    self_attention<S>(shape, layer, context, part(tape.qkv, 0), part(tape.qkv, 1),
                      part(tape.qkv, 2), tape.attended, tape.lse, scratch.attention);
    run(attn_c_proj, tape.attended, tape.middle, tape.attn_proj_tape, pass);
    add_rows<S>(x, tape.middle);

    normed(ln_2, tape.middle, tape.statistics_2, scratch);
    run(c_fc, scratch.normed, tape.inner, tape.fc_tape, pass);
    set_size(scratch.hidden, T, tape.inner.cols());
    activation_forward<S>(activation, tape.inner, scratch.hidden);
    mlp_c_proj.forward(scratch.hidden, y, &tape.proj_tape, pass);
    add_rows<S>(tape.middle, y);
  }

  void backward(In<S> x, Matrix<S>& dx, Tape& tape, Scratch& scratch,
                const BatchContext<S>& context, bool below) {
    const bool below_attention = below || is_trained(c_attn) || is_trained(ln_1);
    const bool below_mlp = below_attention || is_trained(attn_c_proj);
    backward_mlp(dx, tape, scratch, below_mlp);
    if (!below_mlp) return;
    attn_c_proj.backward(tape.attended, dx, tape.attn_proj_tape,
                         below_attention ? &scratch.dattended : nullptr);
    if (!below_attention) return;
    Matrix<S>& d = scratch.dqkv;
    set_size(d, dx.rows(), tape.qkv.cols());
    self_attention_backward<S>(
        shape, context,
        {part(tape.qkv, 0), part(tape.qkv, 1), part(tape.qkv, 2), tape.attended, tape.lse,
         scratch.dattended, place(d, 0), place(d, 1), place(d, 2)},
        scratch.attention);
    const bool need_dnormed = below || is_trained(ln_1);
    normed(ln_1, x, tape.statistics_1, scratch);
    c_attn.backward(scratch.normed, d, tape.attn_tape, need_dnormed ? &scratch.dnormed : nullptr);
    if (!need_dnormed) return;
    ln_1.add_weight_gradient(x, scratch.dnormed, tape.statistics_1);
    if (below) ln_1.add_input_gradient(x, scratch.dnormed, tape.statistics_1, dx);
  }

  /// Throws: the Error that backward would throw for this tape.
  void check_tape(const Tape& tape) const {
    c_attn.check_tape(tape.attn_tape);
    attn_c_proj.check_tape(tape.attn_proj_tape);
    c_fc.check_tape(tape.fc_tape);
    mlp_c_proj.check_tape(tape.proj_tape);
  }

  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    const NamePath attention(prefix, "attn"), mlp(prefix, "mlp");
    fn(NamePath(prefix, "ln_1"), ln_1);
    fn(NamePath(attention, "c_attn"), c_attn);
    fn(NamePath(attention, "c_proj"), attn_c_proj);
    fn(NamePath(prefix, "ln_2"), ln_2);
    fn(NamePath(mlp, "c_fc"), c_fc);
    fn(NamePath(mlp, "c_proj"), mlp_c_proj);
  }
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    for_each_module(
        prefix, [&fn](const NamePath& name, auto& module) { module.for_each_parameter(name, fn); });
  }

 private:
  static void run(const LoRALinear<S>& linear, In<S> x, Matrix<S>& y,
                  typename LoRALinear<S>::Tape& tape, const Pass& pass) {
    set_size(y, x.rows(), linear.out_features());
    linear.forward(x, y, &tape, pass);
  }
  static void normed(const LayerNorm<S>& norm, In<S> x, Matrix<S>& statistics, Scratch& scratch) {
    set_size(scratch.normed, x.rows(), x.cols());
    norm.forward(x, scratch.normed, statistics);
  }
  /// Returns q, k or v from a matrix that holds them side by side.
  static View<S> part(const Matrix<S>& qkv, Index i) {
    return View<S>(qkv).middle_cols(i * (qkv.cols() / 3), qkv.cols() / 3);
  }
  static MutableView<S> place(Matrix<S>& qkv, Index i) {
    return MutableView<S>(qkv).middle_cols(i * (qkv.cols() / 3), qkv.cols() / 3);
  }

  /// Turns dx from dL/dy into dL/dm, if that is needed.
  void backward_mlp(Matrix<S>& dx, Tape& tape, Scratch& scratch, bool below) {
    const bool need_dnormed = below || is_trained(ln_2);
    const bool need_dhidden = need_dnormed || is_trained(c_fc);
    if (!need_dhidden && !is_trained(mlp_c_proj)) return;
    set_size(scratch.hidden, dx.rows(), tape.inner.cols());
    activation_forward<S>(activation, tape.inner, scratch.hidden);
    mlp_c_proj.backward(scratch.hidden, dx, tape.proj_tape,
                        need_dhidden ? &scratch.dhidden : nullptr);
    if (!need_dhidden) return;
    activation_backward<S>(activation, tape.inner, scratch.dhidden, scratch.dhidden);
    normed(ln_2, tape.middle, tape.statistics_2, scratch);
    c_fc.backward(scratch.normed, scratch.dhidden, tape.fc_tape,
                  need_dnormed ? &scratch.dnormed : nullptr);
    if (!need_dnormed) return;
    ln_2.add_weight_gradient(tape.middle, scratch.dnormed, tape.statistics_2);
    if (below) ln_2.add_input_gradient(tape.middle, scratch.dnormed, tape.statistics_2, dx);
  }
};

}  // namespace lora
