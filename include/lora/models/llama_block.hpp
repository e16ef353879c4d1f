// One block of Llama: attention and a gated feed-forward layer, each after a norm and with a
// residual connection.
#pragma once

#include <lora/models/decoder_stack.hpp>
#include <lora/models/llama_config.hpp>
#include <lora/models/weight_source.hpp>
#include <lora/nn/gated.hpp>

namespace lora {

/// Computes, with q, k, v of norm1(x),
///   m = x + o(attention(rotate(q), rotate(k), v)),
///   y = m + down(f(gate(n)) ⊙ up(n)) with n = norm2(m).
/// With qk_norm, each head of q and k passes through a norm before it is rotated. DecoderStack
/// documents the functions. A value type.
/// Threads: forward() may run on several threads, each with its own tape.
template <class S>
struct LlamaBlock {
  using Scalar = S;

  /// What backward needs from one forward: everything that is expensive to recompute.
  struct Tape {
    Matrix<S> q, k, v;        ///< rotated; with qk_norm, q and k as the layers returned them
    Matrix<S> attended, lse;  ///< the result of attention (T, H·K), and (T, H)
    Matrix<S> middle;         ///< m
    Matrix<S> gate, up;
    Matrix<S> rho_1, rho_2, rho_q, rho_k;
    typename LoRALinear<S>::Tape q_tape, k_tape, v_tape, o_tape, gate_tape, up_tape, down_tape;
  };
  /// Temporary memory of a block.
  struct Scratch {
    Matrix<S> normed, q, k, hidden, dhidden, dnormed, dattended, dq, dk, dv, dq_turned, dk_turned;
    AttentionScratch<S> attention;
  };

  LoRALinear<S> q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj;
  RMSNorm<S> input_layernorm, post_attention_layernorm, q_norm, k_norm;
  AttentionShape shape;
  Activation activation = Activation::silu;
  Index layer = 0;

  LlamaBlock() = default;
  /// Reads layer `index` from `source` with the names prefix.self_attn.q_proj ….
  template <WeightSource<S> Source>
  LlamaBlock(const LlamaConfig& c, Index index, const std::string& prefix, Source& source)
      : shape{c.num_attention_heads, c.num_key_value_heads, c.head_dim,
              index >= c.first_sliding_layer ? c.sliding_window : 0},
        activation(c.hidden_act),
        layer(index) {
    const Index D = c.hidden_size, F = c.intermediate_size, Q = shape.heads * shape.head_dim,
                KV = shape.kv_heads * shape.head_dim;
    const auto bias = [](bool has) { return has ? Bias::yes : Bias::no; };
    const auto linear = [&](const char* name, Index out, Index in, bool has_bias) {
      return linear_from<S>(source, prefix + name, out, in, bias(has_bias));
    };
    const auto norm = [&](const char* name, Index n) {
      return rms_norm_from<S>(source, prefix + name, n, c.rms_norm_eps,
                              rms_norm_type(c.model_type));
    };
    q_proj = linear(".self_attn.q_proj", Q, D, c.qkv_bias);
    k_proj = linear(".self_attn.k_proj", KV, D, c.qkv_bias);
    v_proj = linear(".self_attn.v_proj", KV, D, c.qkv_bias);
    o_proj = linear(".self_attn.o_proj", D, Q, c.o_bias);
    gate_proj = linear(".mlp.gate_proj", F, D, c.mlp_bias);
    up_proj = linear(".mlp.up_proj", F, D, c.mlp_bias);
    down_proj = linear(".mlp.down_proj", D, F, c.mlp_bias);
    input_layernorm = norm(".input_layernorm", D);
    post_attention_layernorm = norm(".post_attention_layernorm", D);
    if (!c.qk_norm) return;
    q_norm = norm(".self_attn.q_norm", c.head_dim);
    k_norm = norm(".self_attn.k_norm", c.head_dim);
  }

  void forward(In<S> x, Out<S> y, Tape& tape, Scratch& scratch, const BatchContext<S>& context,
               const Pass& pass) const {
    const Index T = x.rows();
    normed(input_layernorm, x, tape.rho_1, scratch);
    run(q_proj, scratch.normed, tape.q, tape.q_tape, pass);
    run(k_proj, scratch.normed, tape.k, tape.k_tape, pass);
    run(v_proj, scratch.normed, tape.v, tape.v_tape, pass);
    if (!has_qk_norm()) {
      rotate<S>(tape.q, context.rotation);
      rotate<S>(tape.k, context.rotation);
    }
    const auto [q, k] = turned(tape, scratch, context);
    set_size(tape.attended, T, tape.q.cols());
    set_size(tape.lse, T, shape.heads);
    self_attention<S>(shape, layer, context, *q, *k, tape.v, tape.attended, tape.lse,
                      scratch.attention);
    run(o_proj, tape.attended, tape.middle, tape.o_tape, pass);
    add_rows<S>(x, tape.middle);

    normed(post_attention_layernorm, tape.middle, tape.rho_2, scratch);
    run(gate_proj, scratch.normed, tape.gate, tape.gate_tape, pass);
    run(up_proj, scratch.normed, tape.up, tape.up_tape, pass);
    set_size(scratch.hidden, T, tape.gate.cols());
    gated_forward<S>(activation, tape.gate, tape.up, scratch.hidden);
    down_proj.forward(scratch.hidden, y, &tape.down_tape, pass);
    add_rows<S>(tape.middle, y);
  }

  void backward(In<S> x, Matrix<S>& dx, Tape& tape, Scratch& scratch,
                const BatchContext<S>& context, bool below) {
    const bool below_attention = below || is_trained(q_proj) || is_trained(k_proj) ||
                                 is_trained(v_proj) || trained(input_layernorm) ||
                                 trained(q_norm) || trained(k_norm);
    const bool below_mlp = below_attention || is_trained(o_proj);
    backward_mlp(dx, tape, scratch, below_mlp);
    if (!below_mlp) return;
    set_size(scratch.dattended, dx.rows(), tape.attended.cols());
    o_proj.backward(tape.attended, dx, tape.o_tape, below_attention ? &scratch.dattended : nullptr);
    if (!below_attention) return;
    backward_heads(tape, scratch, context);
    const bool need_dnormed = below || trained(input_layernorm);
    Matrix<S>* dnormed = need_dnormed ? &scratch.dnormed : nullptr;
    normed(input_layernorm, x, tape.rho_1, scratch);
    q_proj.backward(scratch.normed, scratch.dq, tape.q_tape, dnormed);
    k_proj.backward(scratch.normed, scratch.dk, tape.k_tape, dnormed, Accumulate::yes);
    v_proj.backward(scratch.normed, scratch.dv, tape.v_tape, dnormed, Accumulate::yes);
    if (!need_dnormed) return;
    input_layernorm.add_weight_gradient(x, scratch.dnormed, tape.rho_1);
    if (below) input_layernorm.add_input_gradient(x, scratch.dnormed, tape.rho_1, dx);
  }

  /// Throws: the Error that backward would throw for this tape.
  void check_tape(const Tape& tape) const {
    q_proj.check_tape(tape.q_tape);
    k_proj.check_tape(tape.k_tape);
    v_proj.check_tape(tape.v_tape);
    o_proj.check_tape(tape.o_tape);
    gate_proj.check_tape(tape.gate_tape);
    up_proj.check_tape(tape.up_tape);
    down_proj.check_tape(tape.down_tape);
  }

  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    const NamePath attention(prefix, "self_attn"), mlp(prefix, "mlp");
    fn(NamePath(attention, "q_proj"), q_proj);
    fn(NamePath(attention, "k_proj"), k_proj);
    fn(NamePath(attention, "v_proj"), v_proj);
    fn(NamePath(attention, "o_proj"), o_proj);
    if (has_qk_norm()) {
      fn(NamePath(attention, "q_norm"), q_norm);
      fn(NamePath(attention, "k_norm"), k_norm);
    }
    fn(NamePath(mlp, "gate_proj"), gate_proj);
    fn(NamePath(mlp, "up_proj"), up_proj);
    fn(NamePath(mlp, "down_proj"), down_proj);
    fn(NamePath(prefix, "input_layernorm"), input_layernorm);
    fn(NamePath(prefix, "post_attention_layernorm"), post_attention_layernorm);
  }
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    for_each_module(
        prefix, [&fn](const NamePath& name, auto& module) { module.for_each_parameter(name, fn); });
  }

 private:
  struct Turned {
    const Matrix<S>*q, *k;
  };

  bool has_qk_norm() const { return !q_norm.weight.empty(); }
  static bool trained(const RMSNorm<S>& norm) { return norm.weight.trainable; }
  static void run(const LoRALinear<S>& layer, In<S> x, Matrix<S>& y,
                  typename LoRALinear<S>::Tape& tape, const Pass& pass) {
    set_size(y, x.rows(), layer.out_features());
    layer.forward(x, y, &tape, pass);
  }
  static void normed(const RMSNorm<S>& norm, In<S> x, Matrix<S>& rho, Scratch& scratch) {
    set_size(scratch.normed, x.rows(), x.cols());
    norm.forward(x, scratch.normed, rho);
  }
  /// Returns the heads of x (T, H·K) stacked, (T·H, K).
  static auto heads_of(Matrix<S>& x, Index K) {
    return Eigen::Map<Matrix<S>>(x.data(), x.size() / K, K);
  }

  /// Returns q and k as attention reads them.
  Turned turned(Tape& tape, Scratch& scratch, const BatchContext<S>& context) const {
    if (!has_qk_norm()) return {&tape.q, &tape.k};
    const auto turn = [&](const RMSNorm<S>& norm, Matrix<S>& raw, Matrix<S>& rho, Matrix<S>& to) {
      set_size(to, raw.rows(), raw.cols());
      norm.forward(heads_of(raw, shape.head_dim), heads_of(to, shape.head_dim), rho);
      rotate<S>(to, context.rotation);
    };
    turn(q_norm, tape.q, tape.rho_q, scratch.q);
    turn(k_norm, tape.k, tape.rho_k, scratch.k);
    return {&scratch.q, &scratch.k};
  }

  /// Turns dx from dL/dy into dL/dm, if that is needed.
  void backward_mlp(Matrix<S>& dx, Tape& tape, Scratch& scratch, bool below) {
    const bool need_dnormed = below || trained(post_attention_layernorm);
    const bool need_dhidden = need_dnormed || is_trained(gate_proj) || is_trained(up_proj);
    if (!need_dhidden && !is_trained(down_proj)) return;
    set_size(scratch.hidden, dx.rows(), tape.gate.cols());
    gated_forward<S>(activation, tape.gate, tape.up, scratch.hidden);
    down_proj.backward(scratch.hidden, dx, tape.down_tape,
                       need_dhidden ? &scratch.dhidden : nullptr);
    if (!need_dhidden) return;
    gated_backward<S>(activation, tape.gate, tape.up, scratch.dhidden, scratch.hidden);
    normed(post_attention_layernorm, tape.middle, tape.rho_2, scratch);
    Matrix<S>* dnormed = need_dnormed ? &scratch.dnormed : nullptr;
    gate_proj.backward(scratch.normed, scratch.hidden, tape.gate_tape, dnormed);
    up_proj.backward(scratch.normed, scratch.dhidden, tape.up_tape, dnormed, Accumulate::yes);
    if (!need_dnormed) return;
    post_attention_layernorm.add_weight_gradient(tape.middle, scratch.dnormed, tape.rho_2);
    if (below)
      post_attention_layernorm.add_input_gradient(tape.middle, scratch.dnormed, tape.rho_2, dx);
  }

  /// Computes the gradients of the outputs of the q, k and v layers from dattended.
  void backward_heads(Tape& tape, Scratch& scratch, const BatchContext<S>& context) {
    const Index T = tape.attended.rows();
    const auto [q, k] = turned(tape, scratch, context);
    set_size(scratch.dq, T, tape.q.cols());
    set_size(scratch.dk, T, tape.k.cols());
    set_size(scratch.dv, T, tape.v.cols());
    self_attention_backward<S>(shape, context,
                               {*q, *k, tape.v, tape.attended, tape.lse, scratch.dattended,
                                scratch.dq, scratch.dk, scratch.dv},
                               scratch.attention);
    rotate<S>(scratch.dq, context.rotation, Turn::backward);
    rotate<S>(scratch.dk, context.rotation, Turn::backward);
    if (!has_qk_norm()) return;
    const auto through = [&](RMSNorm<S>& norm, Matrix<S>& raw, Matrix<S>& rho, Matrix<S>& d,
                             Matrix<S>& memory) {
      const Index K = shape.head_dim;
      norm.add_weight_gradient(heads_of(raw, K), heads_of(d, K), rho);
      set_zero(memory, d.rows(), d.cols());
      norm.add_input_gradient(heads_of(raw, K), heads_of(d, K), rho, heads_of(memory, K));
      d.swap(memory);
    };
    through(q_norm, tape.q, tape.rho_q, scratch.dq, scratch.dq_turned);
    through(k_norm, tape.k, tape.rho_k, scratch.dk, scratch.dk_turned);
  }
};

}  // namespace lora
