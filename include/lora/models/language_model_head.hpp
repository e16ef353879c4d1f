// Computes logits and the loss over a vocabulary from hidden states, a few tokens at a time.
#pragma once

#include <lora/layers/lora_linear.hpp>
#include <lora/models/token_batch.hpp>
#include <lora/nn/losses.hpp>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

namespace lora {

/// The loss: Σ −log p[label] over the counted tokens, divided by their number or by num_items.
template <class S>
struct LanguageModelLoss {
  WideOf<S> loss = 0;
  Index counted = 0;
};

/// Returns how many rows of logits are computed at a time: 48, or for a small vocabulary as many as
/// take 16 MiB in float32, at most 128. A vocabulary of 151 936 takes 28 MiB for any T.
inline Index logit_rows(Index vocabulary) {
  return std::clamp<Index>((Index{1} << 22) / std::max<Index>(vocabulary, 1), 48, 128);
}

/// The workspace of a loss, reused from step to step.
template <class S>
struct LossTape {
  /// The memory for a piece of the rows.
  struct Piece {
    Matrix<S> hidden, dhidden;
    typename LoRALinear<S>::Tape head;
  };
  std::vector<Index> rows;           ///< the counted rows of hidden
  std::vector<std::int64_t> labels;  ///< their labels
  Piece whole, last;                 ///< the last piece is shorter and has memory of its own
  Matrix<S> logits;                  ///< logits of either piece, in the first rows
};

/// Lists the rows whose next token, in the same sequence, has a label that counts.
/// Throws: ShapeError unless there is one label per id; Error for a label outside the vocabulary.
template <class S>
void list_counted(const char* where, const TokenBatch& batch, std::span<const Index> lengths,
                  std::span<const std::int64_t> labels, Index vocabulary, LossTape<S>& tape) {
  if (labels.size() != batch.ids.size()) {
    throw ShapeError(std::string(where) + ": there are " + std::to_string(labels.size()) +
                     " labels, expected one for each of " + std::to_string(batch.rows()) + " ids");
  }
  for (std::size_t t = 0; t < labels.size(); ++t) {
    if (labels[t] == ignored_label || (labels[t] >= 0 && labels[t] < vocabulary)) continue;
    throw Error(std::string(where) + ": labels[" + std::to_string(t) + "] is " +
                std::to_string(labels[t]) + ", expected 0 to " + std::to_string(vocabulary - 1) +
                " or " + std::to_string(ignored_label) + " for a token that does not count");
  }
  tape.rows.clear();
  tape.labels.clear();
  Index first = 0;
  for (const Index length : lengths) {
    for (Index t = first; t + 1 < first + length; ++t) {
      const std::int64_t label = labels[static_cast<std::size_t>(t) + 1];
      if (label == ignored_label) continue;
      tape.rows.push_back(t);
      tape.labels.push_back(label);
    }
    first += length;
  }
}

/// Computes the loss of the rows of hidden (T, D) that list_counted() listed, with the sum divided
/// by `divisor`. With `train`, adds the gradients of what is trained in `head`, and if dhidden ≠
/// nullptr, sets it to the gradient (T, D), zero in rows that do not count. Logits are computed for
/// logit_rows() tokens at a time and replaced by their gradient, so memory does not grow with T.
/// Allocates: when the number of rows changes.
template <class S>
LanguageModelLoss<S> head_loss(LoRALinear<S>& head, In<S> hidden, Index divisor, const Pass& pass,
                               bool train, Matrix<S>* dhidden, LossTape<S>& tape) {
  const Index D = hidden.cols(), V = head.out_features(),
              count = static_cast<Index>(tape.rows.size());
  const Index most = logit_rows(V);
  LanguageModelLoss<S> result{0, count};
  if (dhidden != nullptr) set_zero(*dhidden, hidden.rows(), D);
  if (tape.logits.rows() < std::min(most, count) || tape.logits.cols() != V)
    set_size(tape.logits, std::min(most, count), V);
  CrossEntropyOptions options;
  options.num_items = divisor;
  for (Index first = 0; first < count; first += most) {
    const Index n = std::min(most, count - first);
    typename LossTape<S>::Piece& piece = n == most ? tape.whole : tape.last;
    const std::span<const Index> rows(tape.rows.data() + first, static_cast<std::size_t>(n));
    const std::span<const std::int64_t> labels(tape.labels.data() + first,
                                               static_cast<std::size_t>(n));
    auto logits = tape.logits.topRows(n);
    set_size(piece.hidden, n, D);
    for (Index i = 0; i < n; ++i)
      piece.hidden.row(i) = hidden.row(rows[static_cast<std::size_t>(i)]);
    Pass part = pass;
    part.first_row += first;
    head.forward(piece.hidden, logits, &piece.head, part);
    if (!train) {
      result.loss += cross_entropy<S>(logits, labels, options).loss;
      continue;
    }
    result.loss += cross_entropy<S>(logits, labels, logits, options).loss;
    head.backward(piece.hidden, logits, piece.head, dhidden == nullptr ? nullptr : &piece.dhidden);
    if (dhidden == nullptr) continue;
    for (Index i = 0; i < n; ++i)
      dhidden->row(rows[static_cast<std::size_t>(i)]) = piece.dhidden.row(i);
  }
  return result;
}

}  // namespace lora
