#include <lora/optim/schedule.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "optim/toy_model.hpp"

using lora::Index;
using lora::LRSchedule;
using lora::ScheduleOptions;

namespace schedule_test {

ScheduleOptions from_json(const lora::Json& row) {
  ScheduleOptions o;
  o.num_warmup_steps = row.at("num_warmup_steps");
  o.num_training_steps = row.at("num_training_steps").get<Index>();
  o.base_lr = row.at("base_lr").get<double>();
  for (const auto& [key, value] : row.at("options").items()) {
    if (key == "num_cycles")
      o.num_cycles = value.get<double>();
    else if (key == "lr_end")
      o.lr_end = value.get<double>();
    else if (key == "power")
      o.power = value.get<double>();
    else if (key == "timescale")
      o.timescale = value.get<Index>();
    else if (key == "min_lr_rate")
      o.min_lr_rate = value.get<double>();
    else if (key == "num_decay_steps")
      o.num_decay_steps = value.get<Index>();
    else if (key == "min_lr_ratio")
      o.min_lr_ratio = value.get<double>();
    else
      ADD_FAILURE() << "schedules.json has an option that this test does not know: " << key;
  }
  return o;
}

TEST(LRSchedule, EveryGoldenSchedule) {
  lora_test::for_each_golden_case("schedule", [](const lora_test::GoldenCase& one) {
    std::set<std::string> names;
    for (const auto& row : one.json()) {
      const LRSchedule schedule(row.at("name"), from_json(row));
      names.insert(schedule.name());
      const double base = row.at("base_lr");
      Index step = 0;
      for (const double lr : row.at("lr")) {
        // A dozen roundings of numbers of at most 2π; near zero they are those of 1 + cos.
        EXPECT_LE(std::abs(base * schedule.factor(step) - lr), base * 16 * 0x1p-53)
            << schedule.name() << " step " << step;
        ++step;
      }
      EXPECT_GT(step, row.at("num_training_steps").get<Index>()) << schedule.name();
    }
    EXPECT_EQ(names.size(), 9u);
  });
}

ScheduleOptions steps(Index warmup, Index training) {
  ScheduleOptions o;
  o.num_warmup_steps = warmup;
  o.num_training_steps = training;
  return o;
}

// Not in the golden file; transformers' formula by hand.
TEST(LRSchedule, CosineWarmupWithMinLr) {
  ScheduleOptions o = steps(4, 12);
  o.min_lr = 0.0002, o.base_lr = 0.002;
  const LRSchedule s("cosine_warmup_with_min_lr", o);
  const auto cosine = [](double q) {
    return 0.5 * (1 + std::cos(3.141592653589793 * q)) * 0.9 + 0.1;
  };
  EXPECT_EQ(s.factor(0), 0.25);
  EXPECT_EQ(s.factor(3), 1);
  EXPECT_NEAR(s.factor(4), cosine(1.0 / 8), 1e-15);
  EXPECT_NEAR(s.factor(10), cosine(7.0 / 8), 1e-15);
  EXPECT_NEAR(s.factor(11), 0.1, 1e-15);
  o.warmup_lr_rate = 0.4;
  const LRSchedule from("cosine_warmup_with_min_lr", o);
  EXPECT_EQ(from.factor(0), 0.4);
  EXPECT_NEAR(from.factor(1), 0.6, 1e-15);
  EXPECT_NEAR(from.factor(3), 1, 1e-15);
}

TEST(LRSchedule, TheOtherShapesOfWarmupStableDecay) {
  ScheduleOptions o;
  o.num_warmup_steps = 4, o.num_stable_steps = 2, o.num_decay_steps = 4;
  o.warmup_type = "cosine", o.decay_type = "linear";
  const LRSchedule a("warmup_stable_decay", o);
  EXPECT_NEAR(a.factor(2), 0.5, 1e-15);
  EXPECT_NEAR(a.factor(1), 0.5 * (1 - std::sqrt(0.5)), 1e-15);
  EXPECT_EQ(a.factor(5), 1);
  EXPECT_EQ(a.factor(7), 0.75);
  EXPECT_EQ(a.factor(10), 0);
  EXPECT_EQ(a.factor(1000), 0);
  o.warmup_type = o.decay_type = "1-sqrt";
  const LRSchedule b("warmup_stable_decay", o);
  EXPECT_NEAR(b.factor(3), 0.5, 1e-15);
  EXPECT_NEAR(b.factor(7), 0.5, 1e-15);
}

TEST(LRSchedule, DefaultsAndEdges) {
  ScheduleOptions o = steps(0, 10);
  o.base_lr = 1e-3;
  const LRSchedule polynomial("polynomial", o);
  EXPECT_EQ(polynomial.factor(0), 1);
  EXPECT_NEAR(polynomial.factor(5), 0.5 + 0.5e-4, 1e-15);
  EXPECT_NEAR(polynomial.factor(10), 1e-4, 1e-19);
  EXPECT_EQ(LRSchedule("inverse_sqrt", steps(0, 0)).factor(30000), 0.5);
  EXPECT_EQ(LRSchedule("inverse_sqrt", steps(5, 0)).factor(20), 0.5);
  for (const char* name : {"linear", "cosine", "cosine_with_restarts"}) {
    EXPECT_EQ(LRSchedule(name, steps(0, 0)).factor(0), name == std::string("linear") ? 0 : 1);
    EXPECT_EQ(LRSchedule(name, steps(7, 3)).factor(6), 6.0 / 7) << name;
    EXPECT_TRUE(std::isfinite(LRSchedule(name, steps(7, 3)).factor(7))) << name;
  }
  EXPECT_EQ(LRSchedule("polynomial",
                       [] {
                         ScheduleOptions p = steps(3, 3);
                         p.base_lr = 1;
                         return p;
                       }())
                .factor(3),
            1);
  EXPECT_EQ(LRSchedule("constant").factor(0), 1);
  EXPECT_EQ(LRSchedule("constant_with_warmup", steps(2, 0)).factor(1), 0.5);
}

TEST(LRScheduleErrors, Names) {
  EXPECT_MESSAGE(lora::ConfigError, LRSchedule("cosin"),
                 "LRSchedule \"cosin\": is not a schedule; expected one of linear, cosine, ");
  EXPECT_MESSAGE(lora::ConfigError, LRSchedule(""), "warmup_stable_decay");
  EXPECT_MESSAGE(lora::ConfigError, LRSchedule("reduce_lr_on_plateau"), "depends on the loss");
}

TEST(LRScheduleErrors, Options) {
  const auto make = [](const char* name, auto change) {
    ScheduleOptions o = steps(2, 10);
    o.base_lr = 0.1;
    change(o);
    return LRSchedule(name, o);
  };
  const auto expect = [&](const char* name, auto change, const char* part) {
    EXPECT_MESSAGE(lora::ConfigError, make(name, change), part);
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect(
      "linear", [](auto& o) { o.num_training_steps.reset(); }, "num_training_steps is not set");
  expect(
      "linear", [](auto& o) { o.num_cycles = 1; }, "\"linear\": has no option num_cycles");
  expect(
      "polynomial", [](auto& o) { o.min_lr = 1; }, "has no option min_lr; it has lr_end power");
  // A name that is the beginning or the end of another is still another.
  expect(
      "warmup_stable_decay", [](auto& o) { o.min_lr = 1; }, "has no option min_lr; it has");
  expect(
      "cosine_with_min_lr", [](auto& o) { o.min_lr_rate = 0.1, o.warmup_lr_rate = 0.1; },
      "has no option warmup_lr_rate");
  expect(
      "linear", [](auto& o) { o.num_warmup_steps = -1; },
      "num_warmup_steps is -1, expected a finite number >= 0");
  expect(
      "linear", [](auto& o) { o.num_training_steps = -3; }, "num_training_steps is -3");
  expect(
      "inverse_sqrt", [](auto& o) { o.timescale = 0; },
      "timescale is 0, expected a finite number > 0");
  expect(
      "cosine", [&](auto& o) { o.num_cycles = nan; }, "num_cycles is nan");
  expect(
      "polynomial", [](auto& o) { o.power = 0; }, "power is 0");
  expect(
      "polynomial", [](auto& o) { o.base_lr.reset(); }, "base_lr is not set, and lr_end");
  expect(
      "polynomial", [](auto& o) { o.lr_end = 0.1; },
      "lr_end is 0.1, expected less than base_lr = 0.1");
  expect(
      "cosine_with_min_lr", [](auto&) {}, "neither min_lr nor min_lr_rate is set");
  expect(
      "cosine_with_min_lr", [](auto& o) { o.min_lr = o.min_lr_rate = 0.1; },
      "min_lr and min_lr_rate are both set");
  expect(
      "cosine_with_min_lr", [](auto& o) { o.min_lr = 0.1, o.base_lr.reset(); },
      "base_lr is not set, and min_lr");
  expect(
      "warmup_stable_decay", [](auto&) {}, "num_decay_steps is not set");
  expect(
      "warmup_stable_decay", [](auto& o) { o.num_decay_steps = 9; },
      "num_warmup_steps + num_decay_steps is more than num_training_steps = 10");
  expect(
      "warmup_stable_decay", [](auto& o) { o.num_decay_steps = 2, o.num_training_steps.reset(); },
      "neither num_training_steps nor num_stable_steps is set");
  expect(
      "warmup_stable_decay", [](auto& o) { o.num_decay_steps = 2, o.decay_type = "sqrt"; },
      "\"sqrt\"; expected linear, cosine or 1-sqrt");
  const LRSchedule good = make("linear", [](auto&) {});
  EXPECT_MESSAGE(lora::ConfigError, good.factor(-1), "\"linear\": the step is -1, expected >= 0");
}

}  // namespace schedule_test
