// Transactions, and what they are for: a call that throws has changed nothing, whether an allocation
// fails, whichever it is, or a user's for_each_module throws.
#include <support/allocations.hpp>
#include <support/messages.hpp>
#include <support/threads.hpp>

#include <lora/adapters/lora_model.hpp>
#include <lora/core/transaction.hpp>
#include <lora/models/mlp.hpp>
#include <lora/optim/adamw.hpp>
#include <lora/optim/sgd.hpp>

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace transaction_test {
using namespace lora;
using lora_test::FailingAllocations;
using lora_test::message_of;
using lora_test::Threads;

TEST(Transaction, ActsAtItsCommitAlone) {
  std::string name = "before";
  std::vector<std::string> list = {"a", "b"};
  {
    Transaction change;
    change.set(name, "after");
    change.append(list, "c");
    change.then([&list]() noexcept { std::erase(list, "a"); });
    EXPECT_EQ(name, "before");
    EXPECT_EQ(list.size(), 2u);
  }
  EXPECT_EQ(name, "before");
  Transaction change;
  change.then([&list]() noexcept { std::erase(list, "a"); });
  change.set(list[1], "B");  // values first: the element moves in the step above
  change.append(list, "c");
  change.set(name, "between");
  change.set(name, "after");
  change.commit();
  EXPECT_EQ(name, "after");
  EXPECT_EQ(list, (std::vector<std::string>{"B", "c"}));
}

TEST(Transaction, RefusesTwoElementsForOneList) {
  std::vector<int> list, other;
  Transaction change;
  change.append(list, 1);
  change.append(other, 1);
  EXPECT_HAS(message_of<Error>([&] { change.append(list, 2); }), "two new elements");
  change.commit();
  EXPECT_EQ(list, std::vector<int>{1});
}

TEST(Transaction, ChangeAtOnceCommitsUnlessItThrows) {
  int value = 1;
  change_at_once([&](Transaction& change) { change.set(value, 2); });
  EXPECT_EQ(value, 2);
  const auto fails = [&](Transaction& change) {
    change.set(value, 3);
    throw ConfigError("no");
  };
  EXPECT_THROW(change_at_once(fails), ConfigError);
  EXPECT_EQ(value, 2);
}

// ---- A model whose walks may throw -----------------------------------------------------------

struct Net : MLP<float> {
  static inline long visits = -1;  ///< layers that are visited before a walk throws; -1: none does

  Net() : MLP<float>({2, 3, 3, 2}) {}
  static void visit() {
    if (visits > 0) --visits;
    if (visits == 0) throw std::runtime_error("a walk that fails");
  }
  template <class Fn>
  void for_each_module(const NamePath& prefix, Fn&& fn) {
    MLP<float>::for_each_module(prefix, [&fn](const NamePath& name, auto& layer) {
      visit();
      fn(name, layer);
    });
    visit();
  }
  template <class Fn>
  void for_each_parameter(const NamePath& prefix, Fn&& fn) {
    for_each_module(
        prefix, [&fn](const NamePath& name, auto& layer) { layer.for_each_parameter(name, fn); });
  }
};

const std::string first = "a_name_that_needs_the_heap", renamed = "another_that_needs_the_heap";

LoRAConfig config_of(const char* bias = "none") {
  LoRAConfig config;
  config.r = 2;
  config.target_modules = {"layers.0", "layers.1"};
  config.init_lora_weights = false;
  config.bias = bias;
  config.modules_to_save = std::vector<std::string>{"layers.2"};
  return config;
}

/// All that calls are made on, with an optimiser of each kind.
struct World {
  LoRAModel<Net> model = LoRAModel<Net>(Net(), config_of("all"), first);
  AdamW<float> adamw{{.lr = 0.1, .amsgrad = true}};
  SGD<float> sgd{{.lr = 0.1, .momentum = 0.5}};
  OptimizerState<float> saved{};  ///< of adamw
  Net::Tape tape{};
  Matrix<float> x = Matrix<float>::Constant(2, 2, 0.5f), y = x;

  World() { model.add_adapter("b", config_of(), 1); }
  LoRALinear<float>& layer() { return model.base().layers()[0]; }
  void put_gradients() {
    model.for_each_parameter("", [](const NamePath&, auto& p) { p.grad.setConstant(0.5f); });
  }
};

// ---- The state of things ---------------------------------------------------------------------

struct State {
  std::string bytes;
  bool operator==(const State&) const = default;
  void add(const std::string& text) { bytes += text + "\n"; }
  void add(const std::vector<std::string>& names) {
    for (const std::string& name : names) add(name);
    add("");
  }
  void add(double number) { add(std::to_string(number)); }
  void add(const Matrix<float>& m) {
    add(std::to_string(m.rows()) + "x" + std::to_string(m.cols()));
    if (m.size() > 0)
      bytes.append(reinterpret_cast<const char*>(m.data()), sizeof(float) * std::size_t(m.size()));
  }
  void add(const Parameter<float>& p) {
    add(p.trainable ? "+" : "-");
    add(p.value);
    add(p.grad);
  }
};

void add_layer(State& state, LoRALinear<float>& layer) {
  state.add(layer.weight().dense());
  state.add(layer.bias());
  for (const Adapter<float>& a : layer.adapters().all()) {
    state.add(a.name);
    state.add(a.scaling);
    state.add(a.A);
    state.add(a.B);
  }
  state.add(layer.adapters().active());
  state.add(layer.adapters().merged());
  state.add(layer.adapters().enabled() ? "on" : "off");
  for (const TrainedCopy<float>& copy : layer.trained_copies().all()) {
    state.add(copy.name);
    state.add(copy.weight);
    state.add(copy.bias);
  }
  const auto* acting = layer.trained_copies().acting();
  state.add(acting != nullptr ? acting->name : "no copy");
  // What acts is seen in what comes out.
  Matrix<float> x = Matrix<float>::Constant(2, layer.in_features(), 0.5f),
                y(2, layer.out_features());
  layer.forward(x, y);
  state.add(y);
}

void add_optimizer(State& state, double steps, const OptimizerState<float>& own) {
  state.add(steps);
  for (const auto& [name, tensor] : own.tensors) {
    state.add(name);
    state.add(static_cast<double>(tensor.step));
    for (const auto& [kind, moment] : tensor.moments) {
      state.add(kind);
      state.add(moment);
    }
  }
}

State state_of(World& world) {
  State state;
  for (const std::string& name : world.model.adapter_names()) {
    state.add(name);
    state.add(world.model.config(name).bias);
  }
  state.add(world.model.active_adapters());
  state.add(world.model.enabled() ? "on" : "off");
  for (LoRALinear<float>& layer : world.model.base().layers()) add_layer(state, layer);
  // An optimiser's own index of its tensors is seen in what a step makes of them.
  AdamW<float> adamw = world.adamw;
  SGD<float> sgd = world.sgd;
  add_optimizer(state, static_cast<double>(adamw.steps()), adamw.state());
  add_optimizer(state, static_cast<double>(sgd.steps()), sgd.state());
  if (adamw.steps() == 0) return state;
  LoRAModel<Net> model = world.model;
  adamw.step(model);
  sgd.step(model);
  add_optimizer(state, static_cast<double>(adamw.steps()), adamw.state());
  add_optimizer(state, static_cast<double>(sgd.steps()), sgd.state());
  return state;
}

// ---- The calls -------------------------------------------------------------------------------

using Step = void (*)(World&);
struct Call {
  const char* what;
  Step before, call;
};

void nothing(World&) {}
void merge(World& w) { w.model.merge_adapter(); }
void set_none_active(World& w) { w.model.set_adapter(std::vector<std::string>{}); }

const Call model_calls[] = {
    {"add_adapter", nothing, [](World& w) { w.model.add_adapter("c", config_of(), 2); }},
    {"add_adapter and fill", nothing,
     [](World& w) {
       w.model.add_adapter("c", config_of(), 2, [&w] {
         w.model.for_each_layer([](const NamePath&, auto& layer) {
           auto* c = layer.adapters().find("c");
           if (c == nullptr) return;
           c->A.value.setConstant(2);
           c->B.value.setConstant(3);
         });
       });
     }},
    {"add_adapter to none active", set_none_active,
     [](World& w) { w.model.add_adapter("c", config_of(), 2); }},
    {"set_adapter b", nothing, [](World& w) { w.model.set_adapter("b"); }},
    {"set_adapter both", nothing,
     [](World& w) {
       w.model.set_adapter({"b", first});
     }},
    {"set_adapter none", nothing, set_none_active},
    {"set_adapter while merged", merge, [](World& w) { w.model.set_adapter("b"); }},
    {"rename_adapter", nothing, [](World& w) { w.model.rename_adapter(first, renamed); }},
    {"rename_adapter while merged", merge, [](World& w) { w.model.rename_adapter(first, "z"); }},
    {"set_requires_grad", nothing, [](World& w) { w.model.set_requires_grad({"b"}); }},
    {"set_requires_grad off", nothing,
     [](World& w) {
       w.model.set_requires_grad({first, "b"}, false);
     }},
    {"set_scale", nothing, [](World& w) { w.model.set_scale(first, 2.0); }},
    {"set_enabled", nothing, [](World& w) { w.model.set_enabled(false); }},
    {"set_enabled while merged", merge, [](World& w) { w.model.set_enabled(false); }},
    {"disable_adapters", nothing, [](World& w) { const auto off = w.model.disable_adapters(); }},
    {"delete_adapter", nothing, [](World& w) { w.model.delete_adapter(first); }},
    {"delete_adapter that is not active", nothing, [](World& w) { w.model.delete_adapter("b"); }},
    {"merge_adapter", nothing, merge},
    {"merge_adapter both", nothing,
     [](World& w) {
       w.model.merge_adapter({"b", first}, SafeMerge::yes);
     }},
    {"unmerge_adapter", merge, [](World& w) { w.model.unmerge_adapter(); }},
    {"merge_and_unload", nothing, [](World& w) { w.model.merge_and_unload(); }},
    {"unload", merge, [](World& w) { w.model.unload(); }},
    {"what only reads", nothing,
     [](World& w) {
       w.model.trainable_parameters_text();
       w.model.get_model_status();
       w.model.merged_adapters();
     }},
};

void train(World& w) {
  w.put_gradients();
  w.adamw.step(w.model);
  w.sgd.step(w.model);
  w.saved = w.adamw.state();
  w.model.set_adapter({"b", first});  // trains tensors that have no moments yet
  w.put_gradients();
}
void train_and_delete(World& w) {
  train(w);
  w.model.delete_adapter(first);
}

const Call optimizer_calls[] = {
    {"AdamW::step", train, [](World& w) { w.adamw.step(w.model); }},
    {"SGD::step", train, [](World& w) { w.sgd.step(w.model); }},
    {"AdamW::load_state", train,
     [](World& w) { w.adamw.load_state(w.saved, w.model, MissingState::start_fresh); }},
    {"AdamW::prune", train_and_delete, [](World& w) { w.adamw.prune(w.model); }},
    {"SGD::prune", train_and_delete, [](World& w) { w.sgd.prune(w.model); }},
};

void run_forward(World& w) {
  w.model.set_adapter({"b", first});
  w.model.base().forward(w.x, w.y, &w.tape, {.training = true});
}
void copy_too(World& w) {
  w.layer().add_trained_copy(first);
  w.layer().trained_copies().activate(first);
}
void unload_layer(World& w) { w.layer().unload(); }
void train_base(World& w) {
  w.layer().unload();
  w.layer().train_base();
  w.layer().trained_copies().all()[0].weight.value.setConstant(2);
}
void merge_layer(World& w) { w.layer().merge(); }

const Call layer_calls[] = {
    {"add_adapter", nothing, [](World& w) { w.layer().add_adapter("c", {.r = 2}); }},
    {"delete_adapter", copy_too, [](World& w) { w.layer().delete_adapter(first); }},
    {"rename_adapter", copy_too, [](World& w) { w.layer().rename_adapter(first, renamed); }},
    {"rename while merged", merge_layer, [](World& w) { w.layer().rename_adapter(first, "z"); }},
    {"add_trained_copy", nothing, [](World& w) { w.layer().add_trained_copy(renamed); }},
    {"set_weight", nothing,
     [](World& w) {
       w.layer().set_weight(FrozenWeight<float>(Matrix<float>(Matrix<float>::Constant(3, 2, 7))));
     }},
    {"train_base", unload_layer, [](World& w) { w.layer().train_base(); }},
    {"freeze_base", train_base, [](World& w) { w.layer().freeze_base(); }},
    {"unload with a copy", copy_too, [](World& w) { w.layer().unload(first); }},
    {"unload while merged", merge_layer, unload_layer},
    {"merge", nothing, [](World& w) { w.layer().merge({"b"}); }},
    {"merge more", merge_layer, [](World& w) { w.layer().merge({"b"}, SafeMerge::yes); }},
    {"set_active", nothing,
     [](World& w) {
       w.layer().adapters().set_active({"b", first});
     }},
    {"set_active frozen", nothing, [](World& w) { w.layer().adapters().set_active({"b"}, false); }},
    {"set_scale", nothing, [](World& w) { w.layer().adapters().set_scale("b", 3); }},
    {"AdapterSet::remove", nothing, [](World& w) { w.layer().adapters().remove(first); }},
    {"AdapterSet::rename", nothing, [](World& w) { w.layer().adapters().rename(first, renamed); }},
    {"Adapter::set_trainable", nothing,
     [](World& w) { w.layer().adapters().get("b").set_trainable(true); }},
    {"TrainedCopies::rename", copy_too,
     [](World& w) { w.layer().trained_copies().rename(first, renamed); }},
    {"backward", run_forward,
     [](World& w) {
       Matrix<float> dx;
       w.model.base().backward(w.x, w.y, w.tape, &dx);
     }},
};

// ---- The sweeps ------------------------------------------------------------------------------

/// Whether the call runs out of memory at its n-th allocation.
bool runs_out_of_memory(long n, const Call& one, World& world) {
  const FailingAllocations fail(n);
  try {
    one.call(world);
    return false;
  } catch (const std::bad_alloc&) {
    return true;
  }
}
/// Whether the call meets the end of a walk at the n-th layer.
bool meets_a_broken_walk(long n, const Call& one, World& world) {
  Net::visits = n + 1;
  bool failed = false;
  try {
    one.call(world);
  } catch (const std::runtime_error& error) {
    failed = std::string(error.what()) == "a walk that fails";
  }
  Net::visits = -1;
  return failed;
}

/// Makes each call on fresh objects with its n-th step failing, n = 0, 1, … until nothing fails any
/// more. After each failure the state must be what it was, and the call, made again, must do what
/// it does without one.
void sweep(const Call& one, bool (*fails)(long, const Call&, World&)) {
  SCOPED_TRACE(one.what);
  World undisturbed;
  one.before(undisturbed);
  one.call(undisturbed);
  const State expected = state_of(undisturbed);
  for (long n = 0; n < 3000; ++n) {
    World world;
    one.before(world);
    const State before = state_of(world);
    if (!fails(n, one, world)) {
      ASSERT_TRUE(state_of(world) == expected);
      ASSERT_GT(n, 0) << "there is nothing that can fail";
      return;
    }
    ASSERT_TRUE(state_of(world) == before) << "changed by failure " << n;
    one.call(world);
    ASSERT_TRUE(state_of(world) == expected) << "made again after failure " << n;
  }
  FAIL() << "fails without an end";
}

TEST(AllOrNothing, AModelThatRunsOutOfMemory) {
  LORA_NEEDS_ALLOCATION_FAILURES();
  const Threads one_thread(1);
  for (const Call& one : model_calls) sweep(one, runs_out_of_memory);
}

TEST(AllOrNothing, AModelWhoseWalkThrows) {
  const Threads one_thread(1);
  for (const Call& one : model_calls) sweep(one, meets_a_broken_walk);
}

TEST(AllOrNothing, AnOptimizer) {
  const Threads one_thread(1);
  for (const Call& one : optimizer_calls) {
    sweep(one, meets_a_broken_walk);
#if defined(LORA_TEST_GLIBC_MALLOC)
    sweep(one, runs_out_of_memory);
#endif
  }
}

TEST(AllOrNothing, ALayerThatRunsOutOfMemory) {
  LORA_NEEDS_ALLOCATION_FAILURES();
  const Threads one_thread(1);
  for (const Call& one : layer_calls) sweep(one, runs_out_of_memory);
}

}  // namespace transaction_test
