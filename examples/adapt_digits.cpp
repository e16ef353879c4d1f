// Shows what LoRA is for: trains a network on handwritten digits, freezes it, and adapts it to a
// shifted task with a few per cent of its parameters. Compares with full fine-tuning and no tuning.
#include <lora/lora.hpp>

#include "../tools/support/output_path.hpp"
#include "../tools/support/program.hpp"
#include "support/adapt_options.hpp"
#include "support/adapt_report.hpp"

#include <iostream>

namespace {

using namespace examples;
using tools::InputPaths, tools::ProgramWords;

constexpr Index kCurvePoints = 24, kCurveImages = 500;
constexpr const char* kBaseFile = "base.safetensors";

Index steps_of(Index epochs, const DigitSet& set, Index batch_size) {
  return std::max<Index>(1, epochs * (set.size() / std::min(batch_size, set.size())));
}

TrainingPlan base_plan(const AdaptOptions& options, const Tasks& tasks) {
  return {.name = "base network",
          .steps = steps_of(options.base_epochs, tasks.a.train, options.batch_size),
          .batch_size = options.batch_size,
          .learning_rate = options.full_learning_rate,
          .seed = options.digits.seed,
          .quiet = options.quiet};
}

AdaptationPlan adaptation_plan(const AdaptOptions& options, const Tasks& tasks) {
  AdaptationPlan plan;
  plan.training = base_plan(options, tasks);
  plan.training.steps = options.steps > 0
                            ? options.steps
                            : steps_of(options.epochs, tasks.b.train, options.batch_size);
  plan.training.record_every = std::max<Index>(1, plan.training.steps / kCurvePoints);
  plan.curve_images = kCurveImages;
  return plan;
}

/// Prints progress to standard output unless --quiet is given.
class Speaker {
 public:
  explicit Speaker(bool quiet) : quiet_(quiet) {}
  void operator()(const std::string& line) const {
    if (!quiet_) std::cout << line << std::endl;
  }

 private:
  bool quiet_;
};

void describe(const Tasks& tasks, const Speaker& say) {
  const auto words = [](const char* name, const Task& task) {
    return std::string(name) + task.words + "; " + std::to_string(task.train.size()) +
           " training images, " + std::to_string(task.held_out.size()) + " held out";
  };
  say(words("Task A: ", tasks.a));
  say(words("Task B: ", tasks.b));
}

std::filesystem::path adapter_file(const AdaptOptions& options, Index rank) {
  return options.output / ("adapter_r" + std::to_string(rank) + ".safetensors");
}

/// Returns the base network: reads it from --base, or trains it on task A and saves it.
Network base_network(const AdaptOptions& options, const Tasks& tasks, const Speaker& say) {
  const Index pixels = tasks.a.train.images.cols();
  const NetworkOrigin here{tasks.a.words, std::to_string(options.digits.seed)};
  if (!options.base.empty()) {
    NetworkOrigin origin;
    InputPaths written{options.output / "full_fine_tuning.safetensors"};
    for (const Index rank : options.ranks) written.push_back(adapter_file(options, rank));
    tools::refuse_input_as_output(written, {options.base});
    Network network = load_network(options.base, pixels, origin);
    if (origin.digits != here.digits || origin.seed != here.seed) {
      std::cerr << "note: " << options.base.string() << " learned from " << origin.digits
                << " (seed " << origin.seed
                << "), so it may have seen images that are held out now\n";
    }
    say("Base network " + shape_words(network) + " from " + options.base.string());
    return network;
  }
  std::vector<Index> sizes = {pixels};
  sizes.insert(sizes.end(), options.hidden.begin(), options.hidden.end());
  sizes.push_back(10);
  TrainingPlan plan = base_plan(options, tasks);
  plan.record_every = std::max<Index>(1, plan.steps / kCurvePoints);
  say("Training the base network on task A:");
  Network network = train_base_network(sizes, tasks, plan);
  say("Base network " + shape_words(network) + ", " +
      lora::grouped_text(static_cast<std::uint64_t>(network_size(network))) +
      " parameters, trained on task A and frozen");
  save_network(network, options.output / kBaseFile, here);
  return network;
}

std::vector<Outcome> run_all(const AdaptOptions& options, const Tasks& tasks, const Network& base,
                             const Speaker& say) {
  const auto words = [](const Outcome& o) {
    using lora::fixed_text;
    return "  " + fixed_text(o.accuracy_b, 2) + " % of task B, " + fixed_text(o.accuracy_a, 2) +
           " % of task A" +
           (o.file.empty() ? "" : ", " + fixed_text(o.milliseconds, 2) + " ms a step");
  };
  AdaptationPlan plan = adaptation_plan(options, tasks);
  std::vector<Outcome> outcomes = {leave_alone(base, tasks)};
  say("No tuning:\n" + words(outcomes.back()));
  plan.training.learning_rate = options.learning_rate;
  for (const Index rank : options.ranks) {
    const auto file = adapter_file(options, rank);
    outcomes.push_back(adapt_lora(base, rank, options.dropout, tasks, plan, file, say));
    say(words(outcomes.back()));
  }
  plan.training.learning_rate = options.full_learning_rate;
  say("Full fine-tuning:");
  const NetworkOrigin origin{tasks.a.words + ", then " + tasks.b.words,
                             std::to_string(options.digits.seed)};
  outcomes.push_back(
      adapt_fully(base, tasks, plan, options.output / "full_fine_tuning.safetensors", origin));
  say(words(outcomes.back()));
  return outcomes;
}

void adapt_and_report(const AdaptOptions& options) {
  const Speaker say(options.quiet);
  const Tasks tasks = load_tasks(options.digits);
  std::filesystem::create_directories(options.output);
  {
    const lora::AtomicFile probe(options.output / "curves.svg");
  }  // fail now rather than after training
  describe(tasks, say);
  const Network base = base_network(options, tasks, say);
  const std::vector<Outcome> outcomes = run_all(options, tasks, base, say);

  const Experiment experiment{
      tasks.a.words, tasks.b.words, shape_words(base), options.digits.seed,
      std::min(kCurveImages, std::max(tasks.a.held_out.size(), tasks.b.held_out.size()))};
  lora::atomic_write(options.output / "results.csv", results_csv(outcomes));
  lora::atomic_write(options.output / "metrics.csv", metrics_csv(outcomes));
  lora::atomic_write(options.output / "curves.svg", results_svg(outcomes, experiment));
  say("");
  std::cout << results_table(outcomes);
  say("\n" + findings(outcomes));
  say("Files in " + options.output.string() + ":");
  say("  curves.svg                    the picture: open it in a browser");
  say("  results.csv, metrics.csv      the table; loss, gradient norm and movement of each layer "
      "by step");
  for (const Outcome& o : outcomes) {
    if (!o.file.empty()) say("  " + o.file.filename().string());
  }
  if (options.base.empty()) say("  base.safetensors              the frozen network");
  say("Evaluate a saved adapter: " + options.again + " --load " +
      best_adapter(outcomes).file.string());
}

/// Returns the rank of the adapter in a file.
/// Throws: lora::FormatError if there is none.
Index rank_in(const std::filesystem::path& path) {
  const lora::SafetensorsFile file = lora::SafetensorsFile::open(path);
  for (const std::string& name : file.names()) {
    const std::vector<Index>& shape = file.info(name).shape;
    if (name.ends_with(".lora_A.weight") && shape.size() == 2 && shape[0] >= 1) return shape[0];
  }
  throw lora::FormatError(path.string() + ": has no tensor lora_A.weight, so it is not an adapter");
}

/// Evaluates a saved adapter on the saved network (--load), without training.
void evaluate_adapter(AdaptOptions options) {
  const Speaker say(false);
  const Index rank = rank_in(options.load);
  if (options.base.empty()) options.base = options.load.parent_path() / kBaseFile;
  const Tasks tasks = load_tasks(options.digits);
  if (!options.quiet) describe(tasks, say);
  lora::LoRAModel model(base_network(options, tasks, Speaker(options.quiet)),
                        adapter_config(rank, 0.0));
  lora::load_adapter_file(model, options.load);
  const auto row = [&](const char* name) {
    const auto cell = [&](const DigitSet& images) {
      return "  " +
             examples::detail::padded(lora::fixed_text(accuracy(model.base(), images), 2), 7) +
             " %";
    };
    say(examples::detail::padded(name, -17) + cell(tasks.a.held_out) + cell(tasks.b.held_out));
  };
  say("Adapter " + options.load.string() + ", rank " + std::to_string(rank));
  say("                      task A     task B");
  {
    const auto off = model.disable_adapters();
    row("adapter disabled");
  }
  row("adapter enabled");
  model.merge_adapter({}, lora::SafeMerge::yes);
  row("adapter merged");
}

/// Joins the lines of a message.
std::string one_line(std::string text) {
  for (std::size_t at = 0; (at = text.find("\n  ", at)) != std::string::npos; ++at) {
    text.replace(at, 3, at > 0 && text[at - 1] == ':' ? " " : "; ");
  }
  return text;
}

void run(const AdaptOptions& options) {
  if (options.threads > 0) lora::set_num_threads(options.threads);
  if (options.load.empty()) {
    adapt_and_report(options);
  } else {
    evaluate_adapter(options);
  }
}

}  // namespace

int main(int argc, char** argv) {
  AdaptOptions options;
  const ProgramWords words{"adapt_digits", "a smaller --batch-size, fewer --images", 1};
  return tools::run_program(words, [&] {
    try {
      if (const std::optional<int> code = parse_adapt_options(argc, argv, options)) return *code;
      run(options);
      return 0;
    } catch (const lora::ConfigError& error) {
      std::cerr << "adapt_digits: " << one_line(error.what()) << " (see --help)\n";
      return 2;
    } catch (const lora::Error& error) {
      std::cerr << "adapt_digits: " << one_line(error.what()) << "\n";
      return 1;
    }
  });
}
