#include <lora/train/training_checkpoint.hpp>

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <csignal>

#include "support/file_calls.hpp"
#include "support/shared.hpp"
#include "support/threads.hpp"
#include "train/toy.hpp"

namespace training_checkpoint_test {
using namespace lora;
using namespace lora_test;
namespace fs = std::filesystem;

/// A model after a step, with the optimiser that took it.
struct Trained {
  Toy model = toy_model();
  AdamW<float> optimizer{{.lr = 0.1}};
  TrainerState state;
  Json arguments = Json::object();

  Trained() {
    model.for_each_parameter("", [](const NamePath& name, Parameter<float>& p) {
      if (p.trainable) fill_normal(p.grad, RandomStream(7, name.str()), 1.0);
    });
    optimizer.step(model);
    state.global_step = 4;
    arguments["seed"] = 42;
  }
  void write(const fs::path& path) {
    write_training_checkpoint(path, model, optimizer.state(), state, arguments);
  }
};

std::vector<std::string> listing(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}
using Names = std::vector<std::string>;

TEST(TrainingCheckpoint, GivesEverythingBack) {
  const TemporaryFolder folder;
  Trained given;
  const fs::path path = checkpoint_path(folder.path, 4);
  given.write(path);
  EXPECT_EQ(listing(path), (Names{"adapter_config.json", "adapter_model.safetensors",
                                  "trainer_state.json", "training_state.safetensors"}));
  EXPECT_EQ(listing(folder.path), (Names{"checkpoint-4"}));
  const auto read = read_training_checkpoint<float>(path);
  EXPECT_EQ(read.state, given.state);
  EXPECT_EQ(read.arguments, given.arguments);
  Toy model = toy_model();
  AdamW<float> optimizer({.lr = 0.1});
  restore_training(read, model, &optimizer, path.string());
  EXPECT_EQ(trained(model), trained(given.model));
  // The next step of both is the same, to the bit.
  for (auto* one : {&model, &given.model}) {
    one->for_each_parameter("", [](const NamePath& name, Parameter<float>& p) {
      if (p.trainable) fill_normal(p.grad, RandomStream(8, name.str()), 1.0);
    });
  }
  optimizer.step(model);
  given.optimizer.step(given.model);
  EXPECT_EQ(trained(model), trained(given.model));
  // PEFT's part of it is an adapter by itself.
  Toy loaded(MLP<float>({5, 7, 4}, Activation::tanh, 1));
  EXPECT_NO_THROW(load_adapter(loaded, path));
}

TEST(TrainingCheckpoint, OfAModelThatIsTrainedWholeHasNoAdapter) {
  const TemporaryFolder folder;
  MLP<double> model({3, 2}, Activation::relu, 1);
  model.layers()[0].train_base();
  AdamW<double> optimizer;
  optimizer.step(model);
  const fs::path path = folder.path / "checkpoint-1";
  write_training_checkpoint(path, model, optimizer.state(), {}, Json::object());
  EXPECT_EQ(listing(path), (Names{"trainer_state.json", "training_state.safetensors"}));
  const auto read = read_training_checkpoint<double>(path);
  EXPECT_EQ(read.values.size(), 2u);
  MLP<double> other({3, 2}, Activation::relu, 2);
  other.layers()[0].train_base();
  restore_training(read, other, &optimizer, "x");
  EXPECT_EQ(other.layers()[0].trained_copies().find("__base__")->weight.value,
            model.layers()[0].trained_copies().find("__base__")->weight.value);
}

TEST(TrainingCheckpoint, TakesTheOldOnesPlace) {
  const TemporaryFolder folder;
  Trained given;
  const fs::path path = checkpoint_path(folder.path, 4);
  given.write(path);
  given.state.loss_sum = 3;
  given.write(path);
  EXPECT_EQ(read_training_checkpoint<float>(path).state.loss_sum, 3);
  EXPECT_EQ(listing(folder.path), (Names{"checkpoint-4"}));
}

TEST(TrainingCheckpoint, AreFoundByTheirStep) {
  const TemporaryFolder folder;
  EXPECT_TRUE(checkpoint_steps(folder.path / "no").empty());
  Trained given;
  for (const Index step : {10, 9, 200}) given.write(checkpoint_path(folder.path, step));
  fs::create_directory(folder.path / "checkpoint-300");  // has no state
  for (const char* name : {"checkpoint-x", "checkpoint-4x", "checkpoint-", "other"})
    fs::copy(folder.path / "checkpoint-9", folder.path / name);
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{9, 10, 200}));
}

TEST(TrainingCheckpoint, AreLimited) {
  const TemporaryFolder folder;
  Trained given;
  for (const Index step : {1, 2, 3, 4, 5}) given.write(checkpoint_path(folder.path, step));
  limit_checkpoints(folder.path, 3, 1);
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{1, 4, 5}));
  limit_checkpoints(folder.path, 1, 1);
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{1, 5})) << "the newest stays";
  limit_checkpoints(folder.path, 1, -1);
  EXPECT_EQ(checkpoint_steps(folder.path), (std::vector<Index>{5}));
  FileCalls calls = posix_calls();
  calls.rename = [](const char*, const char*) {
    errno = EPERM;
    return -1;
  };
  given.write(checkpoint_path(folder.path, 6));
  EXPECT_HAS(message_of<IoError>(
                 [&] { with_calls(calls, [&] { limit_checkpoints(folder.path, 1, -1); }); }),
             "checkpoint-5: cannot remove this checkpoint: Operation not permitted");
}

TEST(TrainingCheckpoint, LeftoversAreRemoved) {
  const TemporaryFolder folder;
  for (const char* name : {".lora-0123456789abcdef.tmp", "checkpoint-4.next", "checkpoint-4",
                           ".lora-x.tmp", "mine.tmp"})
    fs::create_directory(folder.path / name);
  detail::remove_leftovers(folder.path);
  EXPECT_EQ(listing(folder.path), (Names{".lora-x.tmp", "checkpoint-4", "mine.tmp"}));
}

TEST(TrainingCheckpoint, OfAnotherModelIsRefused) {
  Trained given;
  TrainingCheckpoint<float> checkpoint;
  checkpoint.optimizer = given.optimizer.state();
  given.model.for_each_parameter("", [&](const NamePath& name, Parameter<float>& p) {
    if (p.trainable) checkpoint.values[name.str()] = p.value;
  });
  Toy model = toy_model();
  const std::vector<float> before = trained(model);
  AdamW<float> optimizer;
  const auto refused = [&](const TrainingCheckpoint<float>& one) {
    const std::string text =
        message_of<ConfigError>([&] { restore_training(one, model, &optimizer, "place"); });
    EXPECT_EQ(trained(model), before);
    EXPECT_EQ(optimizer.steps(), 0);
    return text;
  };
  auto changed = checkpoint;
  changed.values.erase("layers.0.lora_A.default.weight");
  changed.values["layers.1.lora_B.default.weight"] = Matrix<float>::Zero(2, 2);
  changed.values["other"] = Matrix<float>::Zero(1, 1);
  EXPECT_EQ(refused(changed),
            "place: is not a checkpoint of what this model trains:"
            "\n  missing: layers.0.lora_A.default.weight"
            "\n  layers.1.lora_B.default.weight is (2, 2), expected (4, 3)"
            "\n  unexpected: other");
  changed = checkpoint;
  changed.optimizer.tensors.begin()->second.moments.erase("exp_avg");
  EXPECT_HAS(refused(changed), "place: AdamW::load_state: the state does not fit the model");
}

TEST(TrainingCheckpoint, ThatIsDamagedIsRefused) {
  const TemporaryFolder folder;
  Trained given;
  const fs::path path = checkpoint_path(folder.path, 4);
  given.write(path);
  const auto verdict = [&] {
    try {
      read_training_checkpoint<float>(path);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_HAS(message_of<FormatError>([&] { read_training_checkpoint<double>(path); }),
             "is F32, expected F64, the model's own type");
  fs::resize_file(path / training_tensors_file, 1000);
  EXPECT_HAS(verdict(), training_tensors_file);
  SafetensorsWriter writer;
  const std::vector<std::byte> two(16);
  writer.add("step", DType::I64, {2}, two);
  writer.write(path / training_tensors_file);
  EXPECT_HAS(verdict(), "\"step\" is not one number");
  Json json = state_json(given.state);
  atomic_write(path / trainer_state_file, json.dump());
  EXPECT_HAS(verdict(), "trainer_state.json: arguments is missing, expected an object");
  atomic_write(path / trainer_state_file, "{");
  EXPECT_HAS(verdict(), "not valid JSON");
}

TEST(TrainingCheckpoint, OfTransformersIsNamed) {
  const TemporaryFolder folder;
  atomic_write(folder.path / trainer_state_file,
               R"({"global_step": 4, "log_history": [], "num_input_tokens_seen": null})");
  const auto verdict = [&] {
    return message_of<FormatError>([&] { read_training_checkpoint<float>(folder.path); });
  };
  EXPECT_HAS(verdict(),
             "is not a checkpoint of this library's Trainer but seems to be one of transformers");
  EXPECT_HAS(verdict(), "there is no training_state.safetensors; a new run can start");
  atomic_write(folder.path / training_tensors_file, "");
  EXPECT_HAS(
      verdict(),
      "trainer_state.json: seems to come from transformers' Trainer, expected the one that this "
      "library wrote with training_state.safetensors");
  fs::remove(folder.path / training_tensors_file);
  atomic_write(folder.path / trainer_state_file, "{}");
  EXPECT_HAS(verdict(),
             "is not a checkpoint of this library's Trainer: there is no training_state");
}

TEST(TrainingCheckpoint, SaysHowRunsDiffer) {
  const Json now =
      parse_json(R"({"seed":1,"learning_rate":0.1,"logging_steps":3,"data":"7"})", "x");
  EXPECT_TRUE(check_same_run(now, now, "place").empty());
  Json before = now;
  before["logging_steps"] = 4;
  before["learning_rate"] = 0.2;
  EXPECT_EQ(check_same_run(before, now, "place"),
            (std::vector<std::string>{"learning_rate was 0.2 and is 0.1: the run will differ "
                                      "from the interrupted one"}));
  before["seed"] = 2;
  EXPECT_HAS(message_of<ConfigError>([&] { check_same_run(before, now, "place"); }),
             "place: is a checkpoint of another run: seed was 2 and is 1");
}

// A process that is killed at a system call of its checkpoints, one after the other.
struct Kill {
  static inline int countdown = 0;
  static void tick() {
    if (countdown-- == 0) ::raise(SIGKILL);
  }
  static FileCalls calls() {
    FileCalls calls = posix_calls();
    calls.write = [](int fd, const void* bytes, std::size_t n) {
      tick();
      return ::write(fd, bytes, n);
    };
    calls.fsync = [](int fd) {
      tick();
      return ::fsync(fd);
    };
    calls.rename = [](const char* from, const char* to) {
      tick();
      return std::rename(from, to);
    };
    return calls;
  }
};

/// Runs or resumes the toy's training in `folder`; true when it came to its end.
bool run_in_child(const fs::path& folder, int kill_at) {
  const pid_t child = ::fork();
  if (child == 0) {
    Kill::countdown = kill_at;
    const FileCalls calls = Kill::calls();
    const WithFileCalls in_force(calls);
    Toy model = toy_model(0.2);
    TrainingArguments a = toy_arguments(folder);
    a.save_total_limit = 2;
    ToyTrainer trainer(model, a, toy_task(), toy_examples());
    trainer.train(trainer.last_checkpoint());
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status);
}

TEST(TrainingCheckpoint, ARunThatIsKilledAtAnyCallEndsWithTheSameBytes) {
  const Threads one(1);  // a child has no workers
  const TemporaryFolder whole;
  ASSERT_TRUE(run_in_child(whole.path, 1 << 30));
  int kills = 0;
  for (int at = 0;; at += 3) {
    const TemporaryFolder folder;
    if (run_in_child(folder.path, at)) break;
    ++kills;
    // Killed once more on the way, then left alone.
    for (int next = at + 1; !run_in_child(folder.path, next); next = 1 << 30) {
    }
    EXPECT_EQ(listing(folder.path), listing(whole.path)) << at;
    for (const char* file :
         {training_tensors_file, "adapter_model.safetensors", "adapter_config.json"}) {
      ASSERT_EQ(content(folder.path / "checkpoint-15" / file),
                content(whole.path / "checkpoint-15" / file))
          << at << " " << file;
    }
  }
  EXPECT_GT(kills, 10);
}

TEST(TrainingCheckpoint, ARunThatIsKilledAtAnyTimeEndsWithTheSameBytes) {
  const Threads one(1);
  const TemporaryFolder whole, folder;
  const auto steps = [](const fs::path& path, int milliseconds) {
    const pid_t child = ::fork();
    if (child == 0) {
      Toy model = toy_model(0.2);
      TrainingArguments a = toy_arguments(path);
      a.num_train_epochs = 40;
      a.save_steps = 7;
      a.save_total_limit = 1;
      ToyTrainer trainer(model, a, toy_task(), toy_examples());
      trainer.train(trainer.last_checkpoint());
      ::_exit(0);
    }
    if (milliseconds > 0) {
      ::usleep(static_cast<unsigned>(milliseconds) * 1000);
      ::kill(child, SIGKILL);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status);
  };
  ASSERT_TRUE(steps(whole.path, 0));
  for (const int milliseconds : {5, 11, 23, 31, 17, 43, 0}) steps(folder.path, milliseconds);
  EXPECT_EQ(content(folder.path / "checkpoint-200" / training_tensors_file),
            content(whole.path / "checkpoint-200" / training_tensors_file));
  EXPECT_EQ(listing(folder.path), (Names{"checkpoint-200"}));
}

}  // namespace training_checkpoint_test
