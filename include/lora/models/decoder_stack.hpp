// The blocks of a decoder one after the other and the norm behind them, forward and backward.
#pragma once

#include <lora/core/parameter.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/pass.hpp>
#include <lora/models/self_attention.hpp>

#include <utility>
#include <vector>

namespace lora {

/// What a forward keeps for backward.
enum class Keep {
  nothing,     ///< there will be no backward
  inputs,      ///< each block's input; backward runs the block once more (gradient checkpointing)
  everything,  ///< all that backward needs
};

/// Whether any tensor that `object` lists is trained.
template <class T>
bool is_trained(T& object) {
  bool trained = false;
  object.for_each_parameter("", [&](const auto&, auto& p) { trained = trained || p.trainable; });
  return trained;
}

/// The pass that an embedding gets: adapters for each row only when it has some of its own, since
/// it refuses them.
template <class S>
Pass embedding_pass(const LoRAEmbedding<S>& table, Pass pass) {
  if (table.adapters().empty() && table.trained_copies().empty()) pass.adapter_names = {};
  return pass;
}

/// hidden = norm(block_n-1(… block_0(x))). A Block has Scalar, Tape (of one forward), Scratch
/// (shared by all blocks) and
///   forward(x, y, tape, scratch, context, pass) const   y = block(x), y not x
///   backward(x, dx, tape, scratch, context, below)      adds gradients; dx = dL/dy becomes dL/dx
///                                                       when something below is trained
/// A Norm is RMSNorm or LayerNorm. Sizes are checked by the model that owns the stack.
template <class Block, class Norm>
struct DecoderStack {
  using S = typename Block::Scalar;

  /// What backward needs of one forward; reused from step to step.
  struct Tape {
    BatchContext<S> context;
    Keep keep = Keep::nothing;
    bool complete = false;          ///< the last forward came to its end
    std::vector<Matrix<S>> inputs;  ///< of each block, then of the norm; two in turn when not kept
    std::vector<typename Block::Tape> blocks;  ///< one when they are not kept
    std::size_t held = 0;                      ///< the block that one is of
    typename Block::Scratch scratch;
    Matrix<S> statistics;  ///< the norm's
    Matrix<S> again;       ///< what a block that runs once more computes
    Matrix<S> dx;
    Pass pass;
  };

  std::vector<Block> blocks;
  Norm norm;

  /// Begins a pass: what layers need to know of the batch, and the place (T, D) that the first
  /// block reads from, to be filled before forward(). With caches nothing is kept. Throws as
  /// BatchContext::begin.
  Matrix<S>& start(const char* where, Tape& tape, const TokenBatch& batch, Keep keep,
                   std::span<KVCache<S>* const> caches) const {
    const std::size_t n = blocks.size();
    if (!caches.empty()) keep = Keep::nothing;
    tape.complete = false;
    tape.context.begin(where, batch, caches);
    tape.keep = keep;
    tape.inputs.resize(keep == Keep::nothing ? std::min<std::size_t>(n + 1, 2) : n + 1);
    tape.blocks.resize(keep == Keep::everything ? n : std::min<std::size_t>(n, 1));
    for (Matrix<S>& input : tape.inputs) set_size(input, tape.context.rows, norm.size());
    return tape.inputs.front();
  }

  /// Runs what start() began; caches count the new tokens when all is done.
  void forward(Out<S> hidden, Tape& tape, const Pass& pass) const {
    tape.pass = pass;
    const std::size_t places = tape.inputs.size();
    tape.held = blocks.empty() ? 0 : blocks.size() - 1;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      blocks[i].forward(tape.inputs[i % places], tape.inputs[(i + 1) % places],
                        tape.blocks[tape.keep == Keep::everything ? i : 0], tape.scratch,
                        tape.context, pass);
    }
    norm.forward(tape.inputs[blocks.size() % places], hidden, tape.statistics);
    const BatchContext<S>& context = tape.context;
    for (std::size_t n = 0; n < context.caches.size(); ++n)
      context.caches[n]->advance(context.lengths[n]);
    tape.pass.adapter_names = {};  // the caller's names need not live until backward
    tape.complete = true;
  }

  /// Adds the gradients of the trained tensors. When `below` says that something is trained beneath
  /// the first block, gives dL/dx (T, D), otherwise null and nothing is computed below the lowest
  /// trained layer.
  Matrix<S>* backward(In<S> dhidden, Tape& tape, bool below) {
    const std::size_t n = blocks.size();
    norm.add_weight_gradient(tape.inputs[n], dhidden, tape.statistics);
    std::size_t lowest = 0;
    while (!below && lowest < n && !is_trained(blocks[lowest])) ++lowest;
    if (!below && lowest == n) return nullptr;
    set_zero(tape.dx, dhidden.rows(), dhidden.cols());
    norm.add_input_gradient(tape.inputs[n], dhidden, tape.statistics, tape.dx);
    for (std::size_t i = n; i-- > lowest;) {
      const bool kept = tape.keep == Keep::everything;
      typename Block::Tape& own = tape.blocks[kept ? i : 0];
      if (!kept && tape.held != i) {
        set_size(tape.again, tape.dx.rows(), tape.dx.cols());
        blocks[i].forward(tape.inputs[i], tape.again, own, tape.scratch, tape.context, tape.pass);
        tape.held = i;
      }
      blocks[i].backward(tape.inputs[i], tape.dx, own, tape.scratch, tape.context,
                         below || i > lowest);
    }
    return below ? &tape.dx : nullptr;
  }

  /// Throws Error unless the tape has seen a forward that kept what backward needs.
  void check_tape(const char* where, const Tape& tape, Index rows) const {
    const std::size_t n = blocks.size();
    if (!tape.complete || tape.keep == Keep::nothing || tape.inputs.size() != n + 1) {
      throw Error(std::string(where) +
                  ": the tape has seen no forward of this model that kept what backward needs");
    }
    if (tape.context.rows != rows) {
      check_shape(false, where, "dhidden", rows, norm.size(),
                  shape_text(tape.context.rows, norm.size()));
    }
    if (tape.keep != Keep::everything) return;
    for (std::size_t i = 0; i < n; ++i) blocks[i].check_tape(tape.blocks[i]);
  }
};

}  // namespace lora
