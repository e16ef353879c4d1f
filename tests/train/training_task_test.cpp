#include <lora/train/training_task.hpp>

#include <gtest/gtest.h>

namespace training_task_test {
using namespace lora;

TEST(TrainingTask, EvaluatesTheMeanOverAllLabels) {
  // Examples are numbers; the loss of a batch is their mean, and a negative one does not count.
  struct Nothing {};
  TrainingTask<Nothing, double> task;
  std::vector<std::size_t> sizes;
  task.loss = [&](Nothing&, std::span<const double* const> batch, const BatchRequest& request) {
    EXPECT_FALSE(request.gradient);
    EXPECT_FALSE(request.pass.training);
    EXPECT_EQ(request.num_items, 0);
    sizes.push_back(batch.size());
    BatchLoss found;
    for (const double* x : batch) {
      if (*x < 0) continue;
      found.loss += *x;
      ++found.counted;
    }
    if (found.counted > 0) found.loss /= static_cast<double>(found.counted);
    return found;
  };
  const std::vector<double> data = {1, 2, -1, -1, -1, -1, 9};
  Nothing model;
  std::vector<Index> progress;
  const Evaluation found =
      evaluate_task<Nothing, double>(model, task, data, 3, [&](Index done, Index total) {
        progress.push_back(done);
        EXPECT_EQ(total, 3);
      });
  EXPECT_EQ(sizes, (std::vector<std::size_t>{3, 3, 1}));
  EXPECT_EQ(progress, (std::vector<Index>{1, 2, 3}));
  EXPECT_EQ(found.loss, 4);
  EXPECT_EQ(found.counted, 3);
  EXPECT_EQ(found.tokens, 7);
  EXPECT_EQ(task.counted_in(1), 1);
  const auto nothing =
      evaluate_task<Nothing, double>(model, task, {}, 3, [](Index, Index) { FAIL(); });
  EXPECT_EQ(nothing.loss, 0);
}

}  // namespace training_task_test
