// The blocks of a decoder and its final norm, forward and backward.
#pragma once

#include <lora/core/parameter.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/pass.hpp>
#include <lora/models/self_attention.hpp>

#include <utility>
#include <vector>

namespace lora {

/// What forward keeps for backward.
enum class Keep {
  nothing,     ///< no backward follows
  inputs,      ///< each block's input; backward reruns the block (gradient checkpointing)
  everything,  ///< all that backward needs
};

/// Returns the pass for an embedding. It keeps the adapter names of rows only if the embedding has
/// adapters, because an embedding rejects them.
template <class S>
Pass embedding_pass(const LoRAEmbedding<S>& table, Pass pass) {
  if (table.adapters().empty() && table.trained_copies().empty()) pass.adapter_names = {};
  return pass;
}

/// Computes hidden = norm(block_n-1(… block_0(x))). A Block has Scalar, Tape (of one forward),
/// Scratch (shared by all blocks) and
///   forward(x, y, tape, scratch, context, pass) const   y = block(x), where y is not x
///   backward(x, dx, tape, scratch, context, below)      adds gradients; turns dx from dL/dy into
///                                                       dL/dx if something below is trained
/// A Norm is RMSNorm or LayerNorm. The model that owns the stack checks sizes.
template <class Block, class Norm>
struct DecoderStack {
  using S = typename Block::Scalar;

  /// What backward needs from one forward, reused from step to step.
  struct Tape {
    BatchContext<S> context;
    Keep keep = Keep::nothing;
    bool complete = false;          ///< the last forward finished
    std::vector<Matrix<S>> inputs;  ///< per block, then the norm's; two alternate if not kept
    std::vector<typename Block::Tape> blocks;  ///< a single one if they are not kept
    std::size_t held = 0;                      ///< the block that the single tape belongs to
    typename Block::Scratch scratch;
    Matrix<S> statistics;  ///< statistics of the norm
    Matrix<S> again;       ///< output of a block that backward reruns
    Matrix<S> dx;
    Pass pass;
  };

  std::vector<Block> blocks;
  Norm norm;

  /// Begins a pass: prepares the batch context and returns the input (T, D) of the first block,
  /// which the caller fills before forward(). With caches, nothing is kept.
  /// Throws: as BatchContext::begin.
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

  /// Runs the pass that start() began. At its end the caches count the new tokens.
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
    tape.pass.adapter_names = {};  // the caller's names may die before backward
    tape.complete = true;
  }

  /// Adds the gradients of the trained tensors. If `below` says that something beneath the first
  /// block is trained, returns dL/dx (T, D). Otherwise returns null, and computes nothing below the
  /// lowest trained layer.
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

  /// Checks that the tape comes from a forward that kept what backward needs.
  /// Throws: Error; ShapeError for another number of rows.
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
