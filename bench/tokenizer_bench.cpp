// Measures a tokenizer on one thread: opening its files, encoding a text at once and line by line,
// decoding.
//   tokenizer_bench --tokenizer DIR --text FILE [options of Google Benchmark]
//
// Names: tokenizer/<open|encode|encode_lines|decode>. Counters: bytes_per_second of text.
// compare_tokenizers.sh compares it with HuggingFace's tokenizers.
#include <lora/io/file.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "support/run.hpp"

namespace {

using lora::SpecialTokens;
using lora::Tokenizer;

struct Job {
  std::string directory;
  std::string text;
};

void count(benchmark::State& state, const Job& job) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                          static_cast<std::int64_t>(job.text.size()));
}

void open(benchmark::State& state, const Job& job) {
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::open(job.directory).vocab_size());
}

void encode(benchmark::State& state, const Job& job) {
  const Tokenizer tokenizer = Tokenizer::open(job.directory);
  for (auto _ : state)
    benchmark::DoNotOptimize(tokenizer.encode(job.text, SpecialTokens::none).data());
  count(state, job);
}

void encode_lines(benchmark::State& state, const Job& job) {
  const Tokenizer tokenizer = Tokenizer::open(job.directory);
  for (auto _ : state) {
    const std::string_view text = job.text;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      benchmark::DoNotOptimize(
          tokenizer.encode(text.substr(at, end - at), SpecialTokens::none).data());
      at = end + 1;
    }
  }
  count(state, job);
}

void decode(benchmark::State& state, const Job& job) {
  const Tokenizer tokenizer = Tokenizer::open(job.directory);
  const std::vector<std::int64_t> ids = tokenizer.encode(job.text, SpecialTokens::none);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(ids).data());
  count(state, job);
}

// Removes "--name value" from the arguments.
std::string take(int& argc, char** argv, const char* name) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], name) != 0) continue;
    std::string value = argv[i + 1];
    std::copy(argv + i + 2, argv + argc + 1, argv + i);
    argc -= 2;
    return value;
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Job job;
  job.directory = take(argc, argv, "--tokenizer");
  const std::string file = take(argc, argv, "--text");
  const bool measures = !job.directory.empty() && !file.empty();
  if (measures) job.text = lora::as_text(lora::read_file(file, std::uint64_t{1} << 30));
  return bench::run(argc, argv, [&] {
    if (!measures) std::fprintf(stderr, "nothing to do: name --tokenizer DIR and --text FILE\n");
    using Function = void (*)(benchmark::State&, const Job&);
    for (const auto& [name, function] : {std::pair<const char*, Function>{"open", open},
                                         {"encode", encode},
                                         {"encode_lines", encode_lines},
                                         {"decode", decode}}) {
      if (!measures) break;
      const std::string full = std::string("tokenizer/") + name;
      benchmark::RegisterBenchmark(full.c_str(), function, job)->Unit(benchmark::kMillisecond);
    }
  });
}
