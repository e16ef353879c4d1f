// A whole training step over an MLP: forward, loss, backward, clipping, schedule, AdamW, as a
// program would write it.
#include <lora/io/peft/adapter_file.hpp>
#include <lora/lora.hpp>
#include <lora/models/mlp.hpp>
#include <lora/nn/losses.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "layers/layer_tools.hpp"
#include "support/allocations.hpp"
#include "support/shared.hpp"
#include "support/threads.hpp"

namespace training_step_test {
using namespace lora;
using namespace lora_test;
using Model = LoRAModel<MLP<float>>;

constexpr Index rows = 96, in = 61, hidden = 97, classes = 7;
constexpr Index total_steps = 40;
constexpr double max_norm = 0.1;

/// What stays the same in every run: data, base and configuration.
struct Task {
  Matrix<float> x = random_matrix<float>(rows, in, "training data");
  std::vector<std::int64_t> labels;
  Task() {
    const Matrix<float> direction = random_matrix<float>(in, classes, "labels");
    for (Index t = 0; t < rows; ++t) {
      Index best = 0;
      (x.row(t) * direction).maxCoeff(&best);
      labels.push_back(best);
    }
    labels[3] = labels[50] = -100;  // ignored
  }
  static LoRAConfig config() {
    LoRAConfig config;
    config.r = 5;
    config.lora_alpha = 8;
    config.lora_dropout = 0.1;
    config.target_modules = {"layers.0", "layers.1"};
    config.modules_to_save = {"layers.2"};
    config.bias = "lora_only";
    return config;
  }
  static Model model(std::uint64_t seed = 3) {
    return Model(MLP<float>({in, hidden, hidden, classes}, Activation::gelu, 11), config(),
                 "default", seed);
  }
};

/// One run of training, with everything that is reused from step to step.
struct Trainer {
  const Task& task;
  Model model = Task::model();
  AdamW<float> optimizer{{.lr = 2e-2, .weight_decay = 0.01}};
  LRSchedule schedule{"cosine", {.num_warmup_steps = 3, .num_training_steps = total_steps}};
  MLP<float>::Tape tape;
  Matrix<float> y{rows, classes}, dy{rows, classes};
  Index step = 0;
  double norm = 0;

  explicit Trainer(const Task& t) : task(t) {}

  double one_step() {
    zero_grad(model);
    model.base().forward(task.x, y, &tape,
                         {.training = true, .seed = static_cast<std::uint64_t>(step)});
    const double loss = cross_entropy<float>(y, task.labels, dy).loss;
    model.base().backward(task.x, dy, tape);
    norm = clip_grad_norm(model, max_norm);
    optimizer.set_lr_factor(schedule.factor(step));
    optimizer.step(model);
    ++step;
    return loss;
  }
  double steps(Index count) {
    double loss = 0;
    for (Index i = 0; i < count; ++i) loss = one_step();
    return loss;
  }
  double evaluate() {
    model.base().forward(task.x, y);
    return cross_entropy<float>(y, task.labels).loss;
  }
  /// The adapter's file as it would be saved.
  std::string bytes() {
    const TemporaryFolder folder;
    save_adapter_file(model, folder.path / "a");
    const auto read = read_file(folder.path / "a", 1 << 24);
    return std::string(as_text(read));
  }
};

/// Every tensor that is not trained, and each frozen weight.
std::map<std::string, Matrix<float>> frozen(Model& model) {
  std::map<std::string, Matrix<float>> tensors;
  model.for_each_parameter("", [&](const NamePath& name, auto& p) {
    if (!p.trainable) tensors[name] = p.value;
  });
  model.for_each_layer([&](const NamePath& name, auto& layer) {
    tensors[name.str() + ".weight"] = layer.weight().stored();
  });
  return tensors;
}

TEST(TrainingStep, TheLossFalls) {
  const Task task;
  Trainer run(task);
  const double before = run.evaluate();
  const double first = run.one_step();
  EXPECT_GT(run.norm, max_norm) << "clipping is part of what is tested";
  run.steps(total_steps - 1);
  const double after = run.evaluate();
  EXPECT_LT(after, 0.5 * before);
  EXPECT_LT(after, 0.5 * first);
  // Chance is log 7.
  EXPECT_LT(after, std::log(7.0));
}

TEST(TrainingStep, TheSameRunTwiceGivesTheSameBytes) {
  const Task task;
  Trainer one(task), two(task);
  one.steps(total_steps);
  two.steps(total_steps);
  EXPECT_TRUE(one.bytes() == two.bytes());
  Trainer other(task);
  other.model = Task::model(4);
  other.steps(total_steps);
  EXPECT_FALSE(one.bytes() == other.bytes()) << "another seed";
}

TEST(TrainingStep, TheNumberOfThreadsChangesNoByte) {
  const Task task;
  std::string first;
  for (const int threads : {1, 2, 3, 7}) {
    const Threads set(threads);
    Trainer run(task);
    run.steps(total_steps);
    if (first.empty()) first = run.bytes();
    EXPECT_TRUE(run.bytes() == first) << threads << " threads";
  }
}

TEST(TrainingStep, OnlyWhatIsTrainedMovesAndAllOfItDoes) {
  const Task task;
  Trainer run(task);
  const auto before = frozen(run.model);
  std::map<std::string, Matrix<float>> trained;
  run.model.for_each_parameter("", [&](const NamePath& name, auto& p) {
    if (p.trainable) trained[name] = p.value;
  });
  EXPECT_EQ(trained.size(), 2u * 2 + 2 + 2);
  run.steps(5);
  for (const auto& [name, tensor] : frozen(run.model))
    EXPECT_TRUE(same_bits(tensor, before.at(name))) << name;
  run.model.for_each_parameter("", [&](const NamePath& name, auto& p) {
    if (p.trainable) {
      EXPECT_FALSE(same_bits(p.value, trained.at(name))) << name.str();
    }
    if (!p.trainable) {
      EXPECT_EQ(p.grad.size(), 0) << name.str();
    }
  });
  MLP<float> fresh({in, hidden, hidden, classes}, Activation::gelu, 11);
  EXPECT_EQ(run.model.base().layers().size(), fresh.layers().size());
  for (std::size_t i = 0; i < fresh.layers().size(); ++i) {
    EXPECT_TRUE(same_bits(run.model.base().layers()[i].weight().stored(),
                          fresh.layers()[i].weight().stored()))
        << i;
  }
}

TEST(TrainingStep, ASteadyStepAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  const Task task;
  for (const int threads : {1, 3}) {
    const Threads set(threads);
    Trainer run(task);
    run.steps(3);
    AllocationCounter counter;
    const double loss = run.steps(3);
    const Allocations made = counter.stop();
    EXPECT_EQ(made.calls, 0u) << made.bytes << " bytes with " << threads << " threads";
    EXPECT_TRUE(std::isfinite(loss));
  }
}

TEST(TrainingStep, ResumedFromFileAndStateItGoesOnWithTheSameBits) {
  const Task task;
  Trainer whole(task);
  whole.steps(total_steps);

  Trainer first(task);
  first.steps(17);
  const TemporaryFolder folder;
  save_adapter_file(first.model, folder.path / "a");
  const OptimizerState<float> state = first.optimizer.state();
  EXPECT_EQ(state.step, 17);
  EXPECT_EQ(state.tensors.size(), 8u);

  Trainer second(task);
  // The seed is part of the dropout's stream, so it must be the same; the values come from the
  // file.
  second.model.for_each_parameter("", [](const NamePath&, auto& p) {
    if (p.trainable) p.value.setConstant(7);
  });
  load_adapter_file(second.model, folder.path / "a");
  second.optimizer.load_state(state, second.model);
  second.step = 17;
  second.steps(total_steps - 17);
  EXPECT_TRUE(second.bytes() == whole.bytes());

  Trainer forgetful(task);
  forgetful.model = first.model;
  forgetful.step = 17;
  forgetful.steps(total_steps - 17);
  EXPECT_FALSE(forgetful.bytes() == whole.bytes()) << "the optimiser's state matters";
}

TEST(TrainingStep, GradientsOfMicroBatchesAddUp) {
  const Task task;
  Trainer run(task);
  run.steps(4);
  const auto gradients = [&](Index parts) {
    zero_grad(run.model);
    const Index size = rows / parts;
    for (Index first = 0; first < rows; first += size) {
      const Matrix<float> x = task.x.middleRows(first, size);
      const std::span<const std::int64_t> labels(task.labels.data() + first,
                                                 static_cast<std::size_t>(size));
      Matrix<float> y(size, classes), dy(size, classes);
      run.model.base().forward(x, y, &run.tape, {.training = true, .seed = 5, .first_row = first});
      cross_entropy<float>(y, labels, dy, {.num_items = rows - 2});
      run.model.base().backward(x, dy, run.tape);
    }
    std::map<std::string, Matrix<float>> all;
    run.model.for_each_parameter("", [&](const NamePath& name, auto& p) {
      if (p.trainable) all[name] = p.grad;
    });
    return all;
  };
  const auto whole = gradients(1), parts = gradients(4);
  for (const auto& [name, gradient] : whole) {
    // The same terms in another order: sums over 96 rows of products whose factors are sums over at
    // most 97 + 5.
    const float bound = 10 * (96 + 3 * 102) * 0x1.0p-24f * gradient.cwiseAbs().maxCoeff();
    EXPECT_LE((gradient - parts.at(name)).cwiseAbs().maxCoeff(), bound) << name;
    EXPECT_GT(gradient.cwiseAbs().maxCoeff(), 0.0f) << name;
  }
}

TEST(TrainingStep, ALoopSkipsAStepThatIsNotFinite) {
  const Task task;
  Trainer run(task);
  run.steps(2);
  const std::string before = run.bytes();
  Matrix<float> x = task.x;
  x(0, 0) = std::numeric_limits<float>::quiet_NaN();
  zero_grad(run.model);
  run.model.base().forward(x, run.y, &run.tape, {.training = true});
  EXPECT_TRUE(std::isnan(cross_entropy<float>(run.y, task.labels, run.dy).loss));
  run.model.base().backward(x, run.dy, run.tape);
  EXPECT_FALSE(gradients_finite(run.model));
  EXPECT_TRUE(
      throws<Error>([&] { clip_grad_norm(run.model, 1.0, {.non_finite = NonFinite::refuse}); },
                    {"clip_grad_norm", "the first non-finite gradient is that of layers."}));
  EXPECT_TRUE(run.bytes() == before);
  run.one_step();  // zero_grad leaves nothing of it
  EXPECT_TRUE(gradients_finite(run.model));
  EXPECT_FALSE(run.bytes() == before);
}

TEST(TrainingStep, TheTrainedModelMergesToTheSameFunction) {
  const Task task;
  Trainer run(task);
  run.steps(total_steps);
  run.evaluate();
  const MLP<float> merged = run.model.merge_and_unload(SafeMerge::yes);
  Matrix<float> y(rows, classes);
  merged.forward(task.x, y);
  // Three layers, each with sums of at most 97 + 5 products; what one rounds the next carries on.
  EXPECT_LE((y - run.y).cwiseAbs().maxCoeff(),
            3 * 10 * 102 * 0x1.0p-24f * run.y.cwiseAbs().maxCoeff());
}

}  // namespace training_step_test
