// The pieces of the main job: tasks, batches, the network's file, how far a layer has moved. The
// program itself is run by examples/check_adapt_digits.cmake.
#include "../../examples/support/adaptation.hpp"
#include "support/messages.hpp"
#include "support/shared.hpp"

#include <gtest/gtest.h>

#include <unistd.h>

namespace adapt_digits_test {
using lora_test::message_of;

using namespace examples;

/// A folder of this test alone, gone at its end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            (std::string("lora_") + info->name() + std::to_string(::getpid()));
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

TEST(Tasks, DrawnDigitsAreSplitAndTaskBIsTheSameTurned) {
  const Tasks tasks = load_tasks({.images = 40});
  EXPECT_EQ(tasks.a.train.size(), 40);
  EXPECT_EQ(tasks.a.held_out.size(), 10);
  EXPECT_EQ(tasks.b.words, "the same, rotated 45°");
  EXPECT_EQ(tasks.a.train.labels, tasks.b.train.labels);
  EXPECT_EQ(tasks.b.held_out.images, shifted(tasks.a.held_out, Shift{.rotate_degrees = 45}).images);
}

TEST(Tasks, NoiseOfImagesHeldOutIsAnother) {
  DigitSources sources{.images = 40};
  sources.shift = Shift{.noise = 0.5, .seed = 3};
  const Tasks tasks = load_tasks(sources);
  const auto noise = [](const Task& b, const Task& a, bool held_out) {
    return held_out ? (b.held_out.images - a.held_out.images).eval().topRows(5).eval()
                    : (b.train.images - a.train.images).eval().topRows(5).eval();
  };
  const auto first = noise(tasks.b, tasks.a, false), second = noise(tasks.b, tasks.a, true);
  EXPECT_GT((first - second).cwiseAbs().maxCoeff(), 0.1f);
}

TEST(Tasks, TwoKindsOfFilesAreTwoTasksOfOneSize) {
  LORA_NEEDS_SHARED("data/digits");
  const std::filesystem::path data = lora_test::shared_dir() / "data/digits";
  DigitSources sources{.images = 200};
  sources.mnist_images = {data / "t10k-images-idx3-ubyte.gz"};
  sources.mnist_labels = {data / "t10k-labels-idx1-ubyte.gz"};
  const Tasks one = load_tasks(sources);
  EXPECT_EQ(one.a.held_out.size(), 2000);
  EXPECT_EQ(one.b.words, "the same, rotated 45°");
  sources.optdigits = {data / "optdigits.tra", data / "optdigits.tes"};
  const Tasks two = load_tasks(sources);
  EXPECT_EQ(two.b.words, "optdigits (optdigits.tra, optdigits.tes)");
  EXPECT_EQ(two.b.train.size(), 200);
  EXPECT_EQ(two.b.held_out.size(), 1797);
  EXPECT_EQ(two.b.held_out.height, 28);
}

TEST(Tasks, SourcesThatDoNotGoTogetherAreRefused) {
  const auto refused = [](DigitSources sources) {
    return message_of<lora::ConfigError>([&] { load_tasks(sources); });
  };
  EXPECT_HAS(refused({.mnist_images = {"a", "b"}, .mnist_labels = {"c"}}), "as many of each");
  EXPECT_HAS(refused({.optdigits = {"a", "b", "c"}}), "more than two files of one kind");
  EXPECT_HAS(refused({.drawn_first = true}), "need one kind of files");
  EXPECT_HAS(refused({.images = 9}), "images is 9, expected at least 10");
  const DigitSet small = draw_digits({.count = 10, .height = 8, .width = 8});
  const DigitSet large = draw_digits({.count = 10});
  EXPECT_HAS(message_of<lora::FormatError>([&] { detail::pair_task(small, large); }),
             "images are (28, 28), expected (8, 8)");
}

TEST(DigitTask, LossAndGradientAreOfTheImagesThatABatchNames) {
  const DigitSet set = draw_digits({.count = 30, .height = 4, .width = 4});
  Network network(std::vector<Index>{16, 8, 10}, lora::Activation::relu, 3);
  for (auto& layer : network.layers()) layer.train_base();
  const auto task = digit_task<Network>(set);
  const std::vector<Index> numbers{7, 2, 29};
  const std::vector<const Index*> batch{&numbers[0], &numbers[1], &numbers[2]};
  const auto loss = [&](double divisor, bool gradient) {
    lora::zero_grad(network);
    return task
        .loss(network, batch, {.num_items = static_cast<Index>(divisor), .gradient = gradient})
        .loss;
  };
  const DigitSet three = select(set, numbers);
  lora::Matrix<float> logits(3, 10), dlogits(3, 10);
  network.forward(three.images, logits);
  const double expected = lora::cross_entropy<float>(logits, three.labels, dlogits).loss;
  EXPECT_EQ(loss(0, false), expected);
  EXPECT_EQ(lora::grad_norm(network), 0);
  EXPECT_NEAR(loss(6, true), expected / 2, 1e-6);  // the other half is in another batch
  const double half = lora::grad_norm(network);
  loss(3, true);
  EXPECT_NEAR(lora::grad_norm(network), 2 * half, 1e-5 * half);
  EXPECT_EQ(task.counted_in(numbers[0]), 1);
}

TEST(NetworkFile, GivesBackEveryBit) {
  const TemporaryFolder folder;
  Network network(std::vector<Index>{16, 5, 10}, lora::Activation::relu, 4);
  network.layers()[0].train_base();
  network.layers()[0].trained_copies().all()[0].weight.value(2, 3) = 9;
  save_network(network, folder / "n.safetensors", {"some digits", "4"});
  NetworkOrigin origin;
  const Network again = load_network(folder / "n.safetensors", 16, origin);
  EXPECT_EQ(origin.digits, "some digits");
  EXPECT_EQ(origin.seed, "4");
  EXPECT_EQ(shape_words(again), "16-5-10");
  EXPECT_EQ(network_size(again), 16 * 5 + 5 + 5 * 10 + 10);
  EXPECT_EQ(again.layers()[0].weight().stored()(2, 3), 9);
  lora::Matrix<float> x = lora::Matrix<float>::Random(7, 16), y(7, 10), z(7, 10);
  network.forward(x, y);
  again.forward(x, z);
  EXPECT_EQ(y, z);
}

TEST(NetworkFile, RefusesWhatIsNoNetworkForTheseImages) {
  const TemporaryFolder folder;
  const auto refused = [&folder](const lora::Matrix<float>& weight, Index biases) {
    lora::SafetensorsWriter writer;
    const lora::Matrix<float> bias = lora::Matrix<float>::Zero(1, biases);
    writer.add("layers.0.weight", weight, lora::DType::F32);
    if (biases > 0) writer.add("layers.0.bias", bias, lora::DType::F32, {biases});
    writer.write(folder / "n.safetensors");
    NetworkOrigin origin;
    return message_of<lora::FormatError>(
        [&] { load_network(folder / "n.safetensors", 16, origin); });
  };
  using M = lora::Matrix<float>;
  EXPECT_HAS(refused(M::Zero(10, 15), 10),
             "layers.0.weight is [10, 15], expected [O, 16] for these");
  EXPECT_HAS(refused(M::Zero(10, 16), 9), "layers.0.bias is [9], expected [10]");
  EXPECT_HAS(refused(M::Zero(10, 16), 0), "has no layers.0.bias, so it is not a network");
  EXPECT_HAS(refused(M::Zero(9, 16), 9), "ends in 9 outputs, expected 10");
  EXPECT_HAS(refused(M::Constant(10, 16, std::nanf("")), 10),
             "layers.0 has values that are not finite");
}

TEST(Moved, IsTheNormOfWhatMergingAddsOverThatOfW) {
  const lora::Matrix<float> w = lora::Matrix<float>::Random(9, 13);
  lora::LoRALinear<float> layer(w);
  EXPECT_EQ(moved(layer), 0);
  layer.add_adapter("default", {.r = 3, .lora_alpha = 6});
  layer.adapters().set_active({"default"});
  EXPECT_EQ(moved(layer), 0);  // B is 0
  auto& adapter = layer.adapters().get("default");
  adapter.B.value.setRandom();
  const lora::Matrix<double> A = adapter.A.value.cast<double>(), B = adapter.B.value.cast<double>();
  const double expected = (2.0 * B * A).norm() / w.cast<double>().norm();
  // w's norm is summed in float: 117 terms, each sum rounded.
  EXPECT_LE(std::abs(moved(layer) - expected), expected * 117 * 0x1p-24);

  lora::LoRALinear<float> whole(w);
  whole.train_base();
  EXPECT_EQ(moved(whole), 0);
  whole.trained_copies().all()[0].weight.value *= 1.5f;
  EXPECT_LE(std::abs(moved(whole) - 0.5), 0.5 * 2 * 117 * 0x1p-24);
}

TEST(Adaptation, LearnsTaskBAndLeavesTheBaseAsItWas) {
  const TemporaryFolder folder;
  const Tasks tasks = load_tasks({.images = 400});
  const TrainingPlan plan{
      .name = "base", .steps = 100, .batch_size = 32, .learning_rate = 3e-3, .quiet = true};
  const Network base = train_base_network({784, 24, 10}, tasks, plan);
  AdaptationPlan adaptation{plan, 50};
  adaptation.training.record_every = 40;
  const Outcome none = leave_alone(base, tasks);
  std::string said;
  const Outcome lora_4 = adapt_lora(base, 4, 0.1, tasks, adaptation, folder / "a",
                                    [&](const std::string& line) { said = line; });
  const Outcome full = adapt_fully(base, tasks, adaptation, folder / "f", {});
  EXPECT_EQ(said,
            "LoRA r = 4: trainable params: 3,368 || all params: 22,458 || trainable%: 14.9969");
  EXPECT_EQ(*lora_4.a_without, none.accuracy_a);
  EXPECT_GT(lora_4.accuracy_b, none.accuracy_b + 5);
  EXPECT_GT(full.accuracy_b, none.accuracy_b + 5);
  EXPECT_EQ(full.trainable, full.all);
  EXPECT_EQ(lora_4.bytes, std::filesystem::file_size(folder / "a"));
  std::vector<Index> steps;
  for (const CurvePoint& p : lora_4.curve) steps.push_back(p.state.step);
  EXPECT_EQ(steps, (std::vector<Index>{0, 40, 80, 100}));
  EXPECT_EQ(lora_4.curve.front().moved, (std::vector<double>{0, 0}));
  EXPECT_GT(lora_4.curve.back().moved[1], 0);
  EXPECT_TRUE(std::isnan(lora_4.curve[0].state.loss));
  EXPECT_GT(lora_4.curve[1].state.loss, lora_4.curve[3].state.loss);
  EXPECT_GT(lora_4.milliseconds, 0);
}

TEST(Training, SaysWhenItDiverges) {
  const Tasks tasks = load_tasks({.images = 40});
  const TrainingPlan plan{
      .name = "too fast", .steps = 50, .batch_size = 8, .learning_rate = 1e30, .quiet = true};
  EXPECT_HAS(message_of<lora::Error>([&] {
               train_base_network({784, 8, 10}, tasks, plan);
             }),
             "too fast: at step ");
}

}  // namespace adapt_digits_test
