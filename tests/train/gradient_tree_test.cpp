#include <lora/train/gradient_tree.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "support/allocations.hpp"
#include "train/toy.hpp"

namespace gradient_tree_test {
using namespace lora;
using namespace lora_test;

/// A trained vector and a frozen one.
struct Pair {
  using Scalar = float;
  Parameter<float> w{Matrix<float>::Zero(2, 3), true}, base{Matrix<float>::Zero(2, 2)};

  template <class Fn>
  void for_each_parameter(const NamePath& path, Fn&& fn) {
    fn(NamePath(path, "base"), base);
    fn(NamePath(path, "w"), w);
  }
};

/// The formula itself.
Matrix<float> tree(const std::vector<Matrix<float>>& leaves, std::size_t first, std::size_t count) {
  if (count == 1) return leaves[first];
  return tree(leaves, first, count / 2) + tree(leaves, first + count / 2, count - count / 2);
}

std::vector<Matrix<float>> random_leaves(Index count) {
  std::vector<Matrix<float>> leaves;
  for (Index i = 0; i < count; ++i) {
    Matrix<float>& leaf = leaves.emplace_back(2, 3);
    fill_normal(leaf, RandomStream(3, "leaf" + std::to_string(i)), 1.0);
  }
  return leaves;
}

TEST(GradientTree, IsTheBalancedSumInOrder) {
  Pair model;
  GradientTree<float> gradients;
  int differences = 0;
  for (Index count : {0, 1, 2, 3, 4, 5, 7, 8, 13, 64, 65, 3}) {
    const std::vector<Matrix<float>> leaves = random_leaves(count);
    Index next = 0;
    model.w.grad.setConstant(7);  // of the step before
    gradients.sum(model, count, [&](Index i) {
      EXPECT_EQ(i, next++);
      EXPECT_TRUE((model.w.grad.array() == 0).all()) << i;
      model.w.grad += leaves[static_cast<std::size_t>(i)];
    });
    EXPECT_EQ(next, count);
    Matrix<float> chain = Matrix<float>::Zero(2, 3);
    for (const Matrix<float>& leaf : leaves) chain += leaf;
    if (count == 0) {
      EXPECT_EQ(model.w.grad, chain);
      continue;
    }
    EXPECT_EQ(model.w.grad, tree(leaves, 0, leaves.size())) << count;
    differences += model.w.grad != chain;
  }
  EXPECT_GT(differences, 3) << "a chain would pass too";
}

TEST(GradientTree, KeepsALogarithmOfBuffers) {
  const std::pair<Index, Index> expected[] = {{0, 0}, {1, 0}, {2, 1}, {3, 2},  {4, 2},
                                              {5, 3}, {8, 3}, {9, 4}, {64, 6}, {65, 7}};
  for (const auto& [leaves, buffers] : expected)
    EXPECT_EQ(gradient_buffers(leaves), buffers) << leaves;
}

TEST(GradientTree, SteadyStepsAllocateNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  Pair model;
  GradientTree<float> gradients;
  const auto step = [&](Index leaves) {
    AllocationCounter counter;
    gradients.sum(model, leaves, [&](Index i) { model.w.grad.array() += static_cast<float>(i); });
    return counter.stop().calls;
  };
  EXPECT_EQ(step(1), 0u);
  EXPECT_GT(step(6), 0u);
  EXPECT_EQ(step(6), 0u);
  EXPECT_EQ(step(1), 0u);
  EXPECT_EQ(step(6), 0u) << "after the short step at the end of an epoch";
}

TEST(GradientTree, FollowsWhatIsTrained) {
  Pair model;
  GradientTree<float> gradients;
  const auto add_ones = [&](Index) {
    model.w.grad.array() += 1;
    if (model.base.trainable) model.base.grad.array() += 2;
  };
  gradients.sum(model, 3, add_ones);
  model.base.set_trainable(true);
  gradients.sum(model, 3, add_ones);
  EXPECT_TRUE((model.w.grad.array() == 3).all());
  EXPECT_TRUE((model.base.grad.array() == 6).all());
}

// ---- a training step is this sum ----

using Gradients = std::vector<Matrix<float>>;

Gradients gradients_of(Toy& model) {
  Gradients all;
  model.for_each_parameter("", [&](const NamePath&, Parameter<float>& p) {
    if (p.trainable) all.push_back(p.grad);
  });
  return all;
}

/// Keeps the gradients of each step before they are used.
struct Watch : TrainerCallback {
  Toy* model;
  std::vector<Gradients> steps;
  explicit Watch(Toy* m) : model(m) {}
  void on_pre_optimizer_step(const TrainerEvent&) override {
    steps.push_back(gradients_of(*model));
  }
};

Gradients add_up(const std::vector<Gradients>& leaves, std::size_t first, std::size_t count) {
  if (count == 1) return leaves[first];
  Gradients sum = add_up(leaves, first, count / 2);
  const Gradients right = add_up(leaves, first + count / 2, count - count / 2);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += right[i];
  return sum;
}

// Many processes that hold whole micro-batches give the bytes of one: each leaf is made in a model
// of its own, the last one first, and the leaves are added up afterwards.
TEST(GradientTree, ManyModelsGiveTheBytesOfOneStep) {
  for (const Index micro_batches : {1, 2, 3, 5, 8}) {
    TrainingArguments arguments = toy_arguments();
    arguments.per_device_train_batch_size = 3;
    arguments.gradient_accumulation_steps = micro_batches;
    arguments.max_steps = 1;
    arguments.train_sampling_strategy = TrainSampling::sequential;
    Toy model = toy_model(0.3);
    const std::vector<Rows> data = toy_data(3 * micro_batches);
    ToyTrainer trainer(model, arguments, toy_task(), data);
    const auto watch = std::make_shared<Watch>(&model);
    trainer.add_callback(watch);
    trainer.train();
    ASSERT_EQ(watch->steps.size(), 1u);

    const TrainingTask<Toy, Rows> task = toy_task();
    BatchRequest request;
    request.pass.training = true;
    request.pass.seed = mix64(stream_key(arguments.seed, "dropout"));
    Index rows = 0;
    std::vector<Index> first_rows;
    for (std::size_t i = 0; i < data.size(); ++i) {
      if (i % 3 == 0) first_rows.push_back(rows);
      rows += data[i].x.rows();
      request.num_items += task.counted_in(data[i]);
    }
    std::vector<Gradients> leaves(static_cast<std::size_t>(micro_batches));
    for (std::size_t leaf = leaves.size(); leaf-- > 0;) {
      Toy own = toy_model(0.3);
      zero_grad(own);
      const Rows* const batch[] = {&data[3 * leaf], &data[3 * leaf + 1], &data[3 * leaf + 2]};
      request.pass.first_row = first_rows[leaf];
      task.loss(own, batch, request);
      leaves[leaf] = gradients_of(own);
    }
    EXPECT_EQ(watch->steps[0], add_up(leaves, 0, leaves.size())) << micro_batches;
  }
}

}  // namespace gradient_tree_test
