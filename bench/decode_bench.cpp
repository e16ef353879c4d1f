// Generates text with a language model of random weights: tokens per second of generate() without
// and with an adapter, greedy and sampled, for one text and for several with an adapter each.
//
// Names: decode/<model>/<storage>/<adapter>/<choice>/texts:<n>. Counters: tokens per second of all
// texts together, and the weights read for them as a share of the memory bandwidth that this
// process measured. An iteration generates 40 tokens of each text; the prompts of 8 tokens and the
// first tokens are not timed. bench/language_model_bench.cpp measures the step below: logits alone,
// and prompts.
#include <lora/serve/generate.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "support/model_shapes.hpp"
#include "support/run.hpp"

namespace {

using namespace lora;
using Model = LoRAModel<CausalLM<float>>;

struct Setting {
  std::string model;
  Precision precision = Precision::bfloat16;
  bool adapter = false, draw = false;
  std::size_t texts = 1;

  std::string name() const {
    return "decode/" + model + (precision == Precision::bfloat16 ? "/bf16" : "/f32") +
           (adapter ? "/adapter" : "/base") + (draw ? "/drawn" : "/greedy") +
           "/texts:" + std::to_string(texts);
  }
};

/// The model with adapters "one" and "two", of rank 16 on all linear layers; the first is active if
/// requested. Only one model exists at a time.
Model& loaded(const Setting& s) {
  static std::string key;
  static std::unique_ptr<Model> model;
  const std::string wanted = s.model + (s.precision == Precision::bfloat16 ? "b" : "f");
  if (key != wanted) {
    model.reset();
    model = std::make_unique<Model>(CausalLM<float>(bench::model_shape(s.model, 1 << 20),
                                                    RandomWeights<float>{.packed = s.precision}));
    LoRAConfig config;
    config.r = 16;
    config.lora_alpha = 32;
    config.target_modules = "all-linear";
    for (const char* name : {"one", "two"}) model->add_adapter(name, config);
    key = wanted;
  }
  model->set_adapter(s.adapter ? std::vector<std::string>{"one"} : std::vector<std::string>());
  return *model;
}

double weight_bytes(Model& model) {
  double bytes = 0;
  model.for_each_layer([&](const NamePath& path, auto& layer) {
    if (path.str() != "model.embed_tokens") bytes += static_cast<double>(layer.weight().bytes());
  });
  return bytes;
}

void decode(benchmark::State& state, const Setting& s) {
  Model& model = loaded(s);
  const char* names[] = {"one", "two", "__base__"};
  std::vector<Prompt> prompts;
  for (std::size_t i = 0; i < s.texts; ++i) {
    Prompt& prompt = prompts.emplace_back();
    for (std::int64_t t = 0; t < 8; ++t) prompt.ids.push_back((t * 7919 + 13) % 30011);
    if (s.texts > 1 && s.adapter) prompt.adapter_name = names[i % 3];
    prompt.seed = i;
  }
  GenerationConfig config;
  config.do_sample = s.draw;
  config.temperature = 0.8;
  config.top_p = 0.95;
  constexpr Index tokens = 40;
  config.max_new_tokens = tokens + 1;
  std::size_t written = 0;
  for (auto _ : state) {
    std::size_t begun = 0;
    std::chrono::steady_clock::time_point first;
    generate<float>(model, prompts, config, {.on_token = [&](const NewToken&) {
                      if (++begun == s.texts) first = std::chrono::steady_clock::now();
                      return Streaming::go_on;
                    }});
    written += begun - s.texts;
    state.SetIterationTime(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - first).count());
  }
  using benchmark::Counter;
  state.counters["tokens_per_second"] = Counter(static_cast<double>(written), Counter::kIsRate);
  state.counters["share_of_bandwidth"] = Counter(
      weight_bytes(model) * tokens / bench::peaks().bytes_read, Counter::kIsIterationInvariantRate);
}

void register_all() {
  for (const std::string model : {"llama_134M", "qwen_494M"}) {
    for (const Setting& s : std::vector<Setting>{
             {model, Precision::bfloat16, false, false, 1},
             {model, Precision::bfloat16, true, false, 1},
             {model, Precision::bfloat16, false, true, 1},
             {model, Precision::bfloat16, false, false, 4},
             {model, Precision::bfloat16, true, false, 4},
         }) {
      benchmark::RegisterBenchmark(s.name().c_str(),
                                   [s](benchmark::State& state) { decode(state, s); })
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all, true); }
