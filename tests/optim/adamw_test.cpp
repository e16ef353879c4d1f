#include <lora/optim/adamw.hpp>

#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "optim/toy_model.hpp"
#include "support/allocations.hpp"

using lora::AdamW;
using lora::AdamWOptions;
using lora::Index;
using lora::Matrix;
using lora::MissingState;
using lora::ParameterGroup;
using lora_test::draw_gradients;
using lora_test::same_bytes;
using lora_test::same_states;
using lora_test::same_values;
using lora_test::three_tensors;
using lora_test::ToyModel;

namespace adamw_test {

/// The groups of a case: lists of tensors with what they change of the defaults.
std::vector<ParameterGroup> groups_of(const lora_test::GoldenCase& one) {
  const auto& d = one.at("defaults");
  std::vector<ParameterGroup> groups;
  if (one.fields.contains("groups")) {
    for (const auto& group : one.at("groups")) {
      std::set<std::string> names;
      for (const int i : group.at("tensors")) names.insert(lora_test::tensor_name('p', i));
      const auto in = [names](const std::string& n, const auto&) { return names.count(n) > 0; };
      groups.push_back({*names.begin(), in, group.value("lr", d.at("lr").get<double>()),
                        group.value("weight_decay", d.at("weight_decay").get<double>())});
    }
  } else if (one.name().starts_with("adamw_groups")) {
    // A set whose cases.json gives the defaults only. From a zero state PyTorch's first step is
    // p1 = (1 − lr λ) p0 − lr g / (|g| + eps), and a least-squares fit of p1 to
    // (p0, −g / (|g| + eps)) gives to 14 digits lr 0.01 and λ 0 for tensor 0, and lr 0.001 and
    // λ 0.2 for tensors 1 and 2, with a residual of 1e-15.
    const auto others = [](const std::string& n, const auto&) { return n != "p0"; };
    groups.push_back({"others", others, 0.001, 0.2});
  }
  return groups;
}

template <class S>
void replay_case(const lora_test::GoldenCase& one) {
  const auto& d = one.at("defaults");
  AdamWOptions options;
  options.lr = d.at("lr");
  options.betas = {d.at("betas").at(0), d.at("betas").at(1)};
  options.eps = d.at("eps");
  options.weight_decay = d.at("weight_decay");
  options.amsgrad = d.at("amsgrad");
  options.maximize = d.at("maximize");
  lora_test::replay<S>(one, AdamW<S>(options, groups_of(one)), options.lr);
}

TEST(AdamW, EveryGoldenCaseInBothPrecisions) {
  lora_test::for_each_golden_optimiser(
      "adamw", [](const auto& one, auto scalar) { replay_case<decltype(scalar)>(one); });
}

// betas[0] below one half goes through the other branch of the moving average; held against the
// textbook in double.
TEST(AdamW, SmallBetasAgainstTheFormula) {
  auto model = three_tensors<double>();
  const auto start = model;
  AdamWOptions options;
  options.betas = {0.25, 0.5};
  options.amsgrad = true;
  AdamW<double> adamw(options);
  std::vector<double> p, m, v, largest;
  for (auto& [name, t] : model.list) p.insert(p.end(), t.value.data(), t.value.data() + t.size());
  m.assign(p.size(), 0), v = m, largest = m;
  for (int step = 1; step <= 5; ++step) {
    draw_gradients(model, step);
    adamw.step(model);
    std::size_t i = 0;
    for (auto& [name, t] : model.list) {
      for (Index k = 0; k < t.size(); ++k, ++i) {
        const double g = t.grad.data()[k];
        m[i] = 0.25 * m[i] + 0.75 * g;
        v[i] = 0.5 * v[i] + 0.5 * g * g;
        largest[i] = std::max(largest[i], v[i]);
        p[i] *= 1 - 1e-3 * 1e-2;
        p[i] -= 1e-3 / (1 - std::pow(0.25, step)) * m[i] /
                (std::sqrt(largest[i] / (1 - std::pow(0.5, step))) + 1e-8);
        EXPECT_LE(std::abs(t.value.data()[k] - p[i]), 1e-15 * 10 * (1 + std::abs(p[i])));
      }
    }
  }
  EXPECT_FALSE(same_values(start, model));
}

template <class S>
void resume_is_exact(bool amsgrad) {
  AdamWOptions options;
  options.amsgrad = amsgrad;
  auto whole = three_tensors<S>(), parts = three_tensors<S>();
  AdamW<S> straight(options), first(options), second(options);
  for (int step = 0; step < 8; ++step) {
    draw_gradients(whole, step), straight.step(whole);
  }
  for (int step = 0; step < 3; ++step) {
    draw_gradients(parts, step), first.step(parts);
  }
  const auto state = first.state();
  second.load_state(state, parts);
  EXPECT_EQ(second.steps(), 3);
  EXPECT_TRUE(same_states(state, second.state()));
  for (int step = 3; step < 8; ++step) {
    draw_gradients(parts, step), second.step(parts);
  }
  EXPECT_TRUE(same_values(whole, parts));
  EXPECT_TRUE(same_states(straight.state(), second.state()));
}
TEST(AdamW, ResumingGivesTheBytesOfAnUninterruptedRun) {
  resume_is_exact<float>(false);
  resume_is_exact<float>(true);
  resume_is_exact<double>(false);
}

TEST(AdamW, SameRunSameBytesAndCopiesAreIndependent) {
  auto a = three_tensors<float>(), b = three_tensors<float>();
  AdamW<float> one;
  draw_gradients(a, 1), one.step(a);
  draw_gradients(b, 1);
  AdamW<float> other;
  other.step(b);
  EXPECT_TRUE(same_values(a, b));
  const auto before = one.state();
  AdamW<float> copy = one;
  draw_gradients(b, 2), copy.step(b);
  EXPECT_TRUE(same_states(before, one.state()));
  draw_gradients(a, 2), one.step(a);
  EXPECT_TRUE(same_values(a, b));
}

TEST(AdamW, StateFollowsTheNameAndNotTheOrderOrTheAddress) {
  auto a = three_tensors<float>(), b = three_tensors<float>();
  AdamW<float> one, other;
  for (int step = 0; step < 4; ++step) {
    draw_gradients(a, step), one.step(a);
    draw_gradients(b, step), other.step(b);
    std::reverse(b.list.begin(), b.list.end());
    b = ToyModel<float>(b);
  }
  EXPECT_TRUE(same_values(a, b));
}

// As torch.optim.AdamW: t counts the updates of the tensor.
TEST(AdamW, FrozenStaysAndLaterStartsItsOwnBiasCorrection) {
  auto model = three_tensors<float>();
  model["t0"].set_trainable(false);
  const auto start = model;
  AdamW<float> adamw;
  for (int step = 0; step < 3; ++step) {
    draw_gradients(model, step), adamw.step(model);
  }
  EXPECT_TRUE(same_bytes(start.list[0].second.value, model["t0"].value));
  EXPECT_EQ(adamw.state().tensors.count("t0"), 0u);
  model["t0"].set_trainable(true);
  draw_gradients(model, 9), adamw.step(model);
  EXPECT_EQ(adamw.steps(), 4);
  EXPECT_EQ(adamw.state().tensors.at("t0").step, 1);
  EXPECT_EQ(adamw.state().tensors.at("t1").step, 4);
  auto fresh = three_tensors<float>();
  AdamW<float> alone;
  draw_gradients(fresh, 9), alone.step(fresh);
  EXPECT_TRUE(same_bytes(fresh["t0"].value, model["t0"].value));
}

/// Layers whose parameters have long names, which for_each_parameter puts together anew in each
/// visit.
struct TwoLayers {
  ToyModel<float> layers[2] = {three_tensors<float>(1), three_tensors<float>(2)};
  template <class Fn>
  void for_each_parameter(const lora::NamePath& prefix, Fn fn) {
    for (Index i = 0; i < 2; ++i) {
      layers[i].for_each_parameter(lora::NamePath(prefix, "a_model_with_a_long_name.layers", i),
                                   fn);
    }
  }
};

TEST(AdamW, ASteadyStepAllocatesNothing) {
  LORA_NEEDS_ALLOCATION_COUNTS();
  TwoLayers model;
  AdamWOptions options;
  options.amsgrad = true;
  AdamW<float> plain(AdamWOptions{}, {lora::no_decay()}), amsgrad(options);
  for (auto& layer : model.layers) draw_gradients(layer, 0);
  plain.step(model), amsgrad.step(model);
  EXPECT_EQ(plain.state().tensors.count("a_model_with_a_long_name.layers.1.t2"), 1u);
  model.layers[0]["t1"].set_trainable(false);
  plain.step(model);  // notices the other order
  lora_test::AllocationCounter counter;
  for (int step = 1; step < 5; ++step) {
    plain.set_lr_factor(0.5 / step);
    plain.step(model);
  }
  EXPECT_EQ(counter.stop().calls, 0u);
  model.layers[0]["t1"].set_trainable(true);
  lora_test::AllocationCounter second;
  for (int step = 1; step < 5; ++step) amsgrad.step(model);
  EXPECT_EQ(second.stop().calls, 0u);
}

TEST(AdamW, LearningRateFactor) {
  AdamWOptions options;
  options.lr = 0.1;
  const auto is_t0 = [](const std::string& n, const auto&) { return n == "t0"; };
  AdamW<double> adamw(options, {{"first", is_t0, 0.3}});
  adamw.set_lr_factor(0.5);
  EXPECT_EQ(adamw.lr(), 0.05);
  EXPECT_EQ(adamw.groups().lr(0), 0.15);
  auto model = three_tensors<double>();
  const auto start = model;
  draw_gradients(model, 0);
  adamw.set_lr_factor(0);
  adamw.step(model);
  EXPECT_TRUE(same_values(start, model));
  EXPECT_EQ(adamw.steps(), 1);
}

TEST(AdamW, NonFiniteGradientsGoIntoTheTensorsTheyBelongTo) {
  for (const bool amsgrad : {false, true}) {
    AdamWOptions options;
    options.amsgrad = amsgrad;
    auto model = three_tensors<float>();
    draw_gradients(model, 0);
    model["t2"].grad(0, 1) = std::numeric_limits<float>::quiet_NaN();
    AdamW<float> adamw(options);
    adamw.step(model);
    draw_gradients(model, 1), adamw.step(model);
    EXPECT_TRUE(std::isnan(model["t2"].value(0, 1)));
    EXPECT_TRUE(std::isfinite(model["t2"].value(0, 0)));
    EXPECT_TRUE(model["t0"].value.allFinite());
    if (amsgrad) {
      EXPECT_TRUE(std::isnan(adamw.state().tensors.at("t2").moments.at("max_exp_avg_sq")(0, 1)));
    }
  }
}

TEST(AdamW, EmptyTensorsAndEmptyModels) {
  ToyModel<float> model;
  AdamW<float> adamw;
  adamw.step(model);
  model.add("none", Matrix<float>(0, 4));
  adamw.step(model);
  EXPECT_EQ(adamw.steps(), 2);
}

TEST(AdamW, KernelAndItsPortableTwin) {
  lora::kernels::AdamWCoefficients<float> c{};
  c.decay = 0.999f, c.sign = 1, c.beta2 = 0.99f, c.one_minus_beta2 = 0.01f;
  c.root_correction2 = 0.3f, c.eps = 1e-8f, c.step_size = 1e-2f;
  for (const float w : {0.1f, 0.75f}) {
    c.one_minus_beta1 = w;
    for (const Index n : {0, 1, 7, 8, 9, 100}) {
      Matrix<float> m(5, n);
      lora::fill_normal(m, lora::RandomStream(3, "twin"), 1.0);
      m.row(3) = m.row(3).cwiseAbs();
      Matrix<float> other = m;
      c.sign = -c.sign;
      const auto row = [n](Matrix<float>& a, int i) { return a.data() + i * n; };
      lora::kernels::adamw_portable<float>(n, c, row(m, 0), row(m, 1), row(m, 2), row(m, 3),
                                           nullptr);
      lora::kernels::adamw_update<float, true>(n, c, row(other, 0), row(other, 1), row(other, 2),
                                               row(other, 3), nullptr);
#if defined(__FMA__) || !defined(__x86_64__)
      // The compiler may fuse differently in the two. Each of the ten operations loses one rounding
      // at most; the step's own size is bounded by step_size |m| / (root / root_correction2), a few
      // tenths here.
      if (n > 0) EXPECT_LE((m - other).cwiseAbs().maxCoeff(), 0x1p-20f) << n;
#else
      EXPECT_TRUE(same_bytes(m, other)) << n;
#endif
    }
  }
}

TEST(AdamW, PruneForgetsWhatTheModelNoLongerHas) {
  auto model = three_tensors<float>();
  AdamW<float> adamw;
  draw_gradients(model, 0), adamw.step(model);
  model.list.pop_back();
  EXPECT_EQ(adamw.state().tensors.size(), 3u);
  EXPECT_MESSAGE(lora::ConfigError, adamw.load_state(adamw.state(), model), "unknown: t2");
  adamw.prune(model);
  EXPECT_EQ(adamw.state().tensors.size(), 2u);
  model.add("t2", Matrix<float>::Ones(2, 2));
  adamw.step(model);
  EXPECT_EQ(adamw.state().tensors.at("t2").step, 1);
  EXPECT_EQ(adamw.state().tensors.at("t0").step, 2);
}

TEST(AdamWErrors, Options) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto with = [](auto change) {
    AdamWOptions options;
    change(options);
    return AdamW<float>(options);
  };
  EXPECT_MESSAGE(lora::ConfigError, with([](auto& o) { o.lr = -1e-9; }), "lr is -1e-09, expected");
  EXPECT_MESSAGE(lora::ConfigError, with([&](auto& o) { o.lr = nan; }), "lr is nan");
  EXPECT_MESSAGE(lora::ConfigError, with([](auto& o) { o.eps = -1; }), "AdamW: eps is -1");
  EXPECT_MESSAGE(lora::ConfigError, with([](auto& o) { o.betas[0] = 1; }),
                 "AdamW: betas[0] is 1, expected 0 <= betas[0] < 1");
  EXPECT_MESSAGE(lora::ConfigError, with([&](auto& o) { o.betas[1] = nan; }), "betas[1] is nan");
  EXPECT_MESSAGE(lora::ConfigError, with([](auto& o) { o.weight_decay = -2; }),
                 "group \"default\": weight_decay is -2");
  AdamW<float> adamw;
  EXPECT_MESSAGE(lora::ConfigError, adamw.set_lr_factor(nan), "factor of the learning rate is nan");
  EXPECT_EQ(adamw.lr(), 1e-3);
}

TEST(AdamWErrors, AStepThatIsRefusedChangesNothing) {
  auto model = three_tensors<float>();
  AdamW<float> adamw;
  draw_gradients(model, 0), adamw.step(model);
  const auto state = adamw.state();
  const auto untouched = [&](ToyModel<float>& broken, const ToyModel<float>& copy) {
    return same_states(state, adamw.state()) && same_values(broken, copy);
  };
  auto twice = model;
  twice.add("new", Matrix<float>::Ones(2, 3));
  twice.add("t1", Matrix<float>::Ones(1, 7));
  const auto twice_copy = twice;
  EXPECT_MESSAGE(lora::ConfigError, adamw.step(twice),
                 "AdamW::step: two trainable parameters are called \"t1\"");
  EXPECT_TRUE(untouched(twice, twice_copy));

  auto reshaped = model;
  reshaped["t2"] = lora::Parameter<float>(Matrix<float>::Ones(2, 2), true);
  const auto reshaped_copy = reshaped;
  EXPECT_MESSAGE(lora::ShapeError, adamw.step(reshaped),
                 "AdamW::step: t2 is (2, 2), expected (11, 13) as in the steps before");
  EXPECT_TRUE(untouched(reshaped, reshaped_copy));

  auto gradless = model;
  gradless["t2"].grad.resize(0, 0);
  const auto gradless_copy = gradless;
  EXPECT_MESSAGE(lora::ShapeError, adamw.step(gradless),
                 "the gradient of t2 is (0, 0), expected (11, 13)");
  EXPECT_TRUE(untouched(gradless, gradless_copy));

  draw_gradients(model, 1), adamw.step(model);  // and it still works
  EXPECT_EQ(adamw.steps(), 2);
  // The name that was refused with the rest left no trace: it may come with another shape.
  model.add("new", Matrix<float>::Ones(4, 4));
  adamw.step(model);
  EXPECT_EQ(adamw.state().tensors.at("new").step, 1);
}

TEST(AdamWErrors, LoadStateListsAllThatDoesNotFitAndChangesNothing) {
  auto model = three_tensors<float>();
  AdamW<float> adamw;
  for (int step = 0; step < 2; ++step) {
    draw_gradients(model, step), adamw.step(model);
  }
  const auto before = adamw.state();
  auto bad = before;
  bad.tensors["ghost"] = bad.tensors["t0"];
  bad.tensors.erase("t1");
  bad.tensors["t0"].moments["exp_avg"].resize(5, 3);
  bad.tensors["t0"].moments["max_exp_avg_sq"].setZero(3, 5);
  bad.tensors["t2"].moments.erase("exp_avg_sq");
  bad.tensors["t2"].step = 3;
  const std::string text =
      lora_test::message_of<lora::ConfigError>([&] { adamw.load_state(bad, model); });
  for (const char* part :
       {"AdamW::load_state: the state does not fit the model:", "unknown: ghost", "missing: t1",
        "t0, exp_avg is (5, 3), expected (3, 5)", "unknown: t0, max_exp_avg_sq",
        "missing: t2, exp_avg_sq", "t2: step is 3, expected 1 to 2"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
  EXPECT_TRUE(same_states(before, adamw.state()));
  bad = before;
  bad.step = -1;
  EXPECT_MESSAGE(lora::ConfigError, adamw.load_state(bad, model), "step is -1, expected 0 to 2^53");
  bad.step = std::numeric_limits<Index>::max();  // the next step() would overflow
  EXPECT_MESSAGE(lora::ConfigError, adamw.load_state(bad, model),
                 "step is 9223372036854775807, expected 0 to 2^53");
}

TEST(AdamWErrors, MissingStateMayStartFreshWhenAsked) {
  auto model = three_tensors<float>();
  AdamW<float> adamw, other;
  draw_gradients(model, 0), adamw.step(model);
  auto state = adamw.state();
  state.tensors.erase("t1");
  EXPECT_MESSAGE(lora::ConfigError, other.load_state(state, model), "missing: t1");
  other.load_state(state, model, MissingState::start_fresh);
  other.step(model);
  EXPECT_EQ(other.state().tensors.at("t1").step, 1);
  EXPECT_EQ(other.state().tensors.at("t0").step, 2);
  other.load_state(AdamW<float>().state(),
                   model);  // before the first step there is nothing to miss
  EXPECT_EQ(other.steps(), 0);
  EXPECT_TRUE(other.state().tensors.empty());
  // What is frozen by now keeps its state.
  model["t0"].set_trainable(false);
  other.load_state(adamw.state(), model);
  EXPECT_TRUE(same_states(adamw.state(), other.state()));
}

}  // namespace adamw_test
