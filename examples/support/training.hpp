// The training loop of adapt_digits: any model whose parameters are listed, around one network.
#pragma once

#include "digit_network.hpp"
#include "progress.hpp"

namespace examples {

struct TrainingPlan {
  std::string name = {};  ///< of what is trained, for messages
  Index steps = 0;
  Index batch_size = 64;
  double learning_rate =
      1e-3;                ///< the highest: a tenth of the steps rise to it, then a cosine falls
  double max_norm = 1.0;   ///< gradients are clipped to this norm
  std::uint64_t seed = 0;  ///< of the order of images and of dropout
  Index record_every = 1;
};

/// The state before a step; gradient_norm is before clipping.
struct StepState {
  Index step = 0;
  double loss = 0, gradient_norm = 0, learning_rate = 0;
};

/// Hands out batches: every epoch all images in another order, but for the rest that fills no
/// batch. The set must outlive it.
class Batches {
 public:
  Batches(const DigitSet& set, Index size, std::uint64_t seed)
      : images(std::min(size, set.size()), set.images.cols()),
        labels(static_cast<std::size_t>(images.rows())),
        set_(set),
        seed_(seed) {}

  /// Puts the next batch into `images` and `labels`.
  void next() {
    if (order_.empty() || at_ + images.rows() > set_.size()) {
      order_ = shuffled_order(set_.size(), lora::mix64(seed_ + ++epoch_));
      at_ = 0;
    }
    for (Index i = 0; i < images.rows(); ++i, ++at_) {
      const Index n = order_[static_cast<std::size_t>(at_)];
      images.row(i) = set_.images.row(n);
      labels[static_cast<std::size_t>(i)] = set_.labels[static_cast<std::size_t>(n)];
    }
  }

  lora::Matrix<float> images;  ///< (batch, pixels)
  std::vector<std::int64_t> labels;

 private:
  const DigitSet& set_;
  Index at_ = 0;
  std::uint64_t seed_, epoch_ = 0;
  std::vector<Index> order_;
};

/// Trains what is trainable in `model`, which holds `network`, with AdamW on cross entropy. `watch`
/// is called with the state at every record_every-th step and at the end, before the parameters
/// change. Returns the median time of a step in milliseconds, without batches and watching. Throws
/// lora::Error when loss or gradient is not finite any more.
template <class Model, class Watch>
double train(Model& model, Network& network, const DigitSet& set, const TrainingPlan& plan,
             ProgressMode mode, Watch&& watch) {
  using Clock = std::chrono::steady_clock;
  lora::AdamW<float> optimizer({.lr = plan.learning_rate});
  const lora::LRSchedule schedule(
      "cosine", {.num_warmup_steps = plan.steps / 10, .num_training_steps = plan.steps});
  Batches batch(set, plan.batch_size, plan.seed);
  Network::Tape tape;
  lora::Matrix<float> logits(batch.images.rows(), network.out_features()), dlogits = logits;
  std::vector<double> milliseconds;
  Progress progress(plan.name, plan.steps, {.mode = mode});
  for (Index step = 0; step <= plan.steps; ++step) {
    batch.next();
    const Clock::time_point start = Clock::now();
    lora::zero_grad(model);
    network.forward(
        batch.images, logits, &tape,
        {.training = true, .seed = lora::mix64(plan.seed + static_cast<std::uint64_t>(step))});
    const double loss = lora::cross_entropy<float>(logits, batch.labels, dlogits).loss;
    network.backward(batch.images, dlogits, tape);
    const double norm = lora::clip_grad_norm(model, plan.max_norm);
    const Clock::time_point ready = Clock::now();
    if (!std::isfinite(loss) || !std::isfinite(norm)) {
      throw lora::Error(plan.name + ": at step " + std::to_string(step) +
                        " loss or gradient is not " +
                        "finite any more; a lower learning rate may help");
    }
    const bool last = step == plan.steps;
    optimizer.set_lr_factor(schedule.factor(step));
    if (last || step % plan.record_every == 0) watch(StepState{step, loss, norm, optimizer.lr()});
    progress.update(step, "loss " + lora::fixed_text(loss, 3));
    if (last) break;
    const Clock::time_point again = Clock::now();
    optimizer.step(model);
    const auto taken = (ready - start) + (Clock::now() - again);
    milliseconds.push_back(std::chrono::duration<double, std::milli>(taken).count());
  }
  progress.finish();
  if (milliseconds.empty()) return 0;
  const auto middle = milliseconds.begin() + static_cast<std::ptrdiff_t>(milliseconds.size() / 2);
  std::nth_element(milliseconds.begin(), middle, milliseconds.end());
  return *middle;
}

}  // namespace examples
