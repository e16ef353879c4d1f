// Every header has its test, where one looks for it.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "structure/source_tree.hpp"

namespace test_files_test {
using namespace lora_test;

// Headers whose test has another name, with the reason.
const std::map<std::string, std::string> tested_elsewhere = {
    // The parts of io/safetensors/safetensors.hpp: what one writes is what the other is tested with.
    {"io/safetensors/safetensors_reader.hpp", "io/safetensors_test.cpp"},
    {"io/atomic_file.hpp", "io/file_test.cpp"},
    {"io/folder.hpp", "io/staged_directory_test.cpp"},
    {"io/safetensors/safetensors_header.hpp", "io/safetensors_test.cpp"},
    {"io/safetensors/safetensors_writer.hpp", "io/safetensors_test.cpp"},
    // The parts of io/gguf/gguf.hpp, in the same way.
    {"io/gguf/gguf_cursor.hpp", "io/gguf_test.cpp"},
    {"io/gguf/gguf_reader.hpp", "io/gguf_test.cpp"},
    {"io/gguf/gguf_types.hpp", "io/gguf_test.cpp"},
    {"io/gguf/gguf_writer.hpp", "io/gguf_test.cpp"},
    // The optimiser's test holds the two loops together; a second adamw_test would be the same
    // program.
    {"kernels/adamw.hpp", "optim/adamw_test.cpp"},
    {"train/checkpoint_folders.hpp", "train/training_checkpoint_test.cpp"},
    // One test holds the kernels of every instruction set against plain loops.
    {"kernels/avx2.hpp", "kernels/tiles_test.cpp"},
    {"kernels/avx512.hpp", "kernels/tiles_test.cpp"},
    {"kernels/avx512bf16.hpp", "weights/packed_weight_test.cpp"},
    {"kernels/bf16_pairs.hpp", "weights/packed_weight_test.cpp"},
    {"weights/pair_product.hpp", "weights/packed_weight_test.cpp"},
    {"weights/pieces.hpp", "weights/packed_weight_test.cpp"},
    {"kernels/portable.hpp", "kernels/tiles_test.cpp"},
    {"kernels/vector.hpp", "kernels/tiles_test.cpp"},
    {"kernels/dropout.hpp", "layers/dropout_test.cpp"},
    {"kernels/merge.hpp", "weights/change_test.cpp"},
    // Parts of one thing, tested through the whole.
    {"io/hf/config_json.hpp", "io/hf_config_test.cpp"},
    {"models/causal_lm_config.hpp", "models/causal_lm_test.cpp"},
    {"models/decoder_stack.hpp", "models/llama_test.cpp"},
    {"models/gpt2_block.hpp", "models/gpt2_test.cpp"},
    {"models/llama_block.hpp", "models/llama_test.cpp"},
    {"models/self_attention.hpp", "models/causal_lm_test.cpp"},
    {"nn/attention_block.hpp", "nn/attention_test.cpp"},
    {"nn/attention_rows.hpp", "nn/attention_test.cpp"},
    {"core/code_points.hpp", "regex/pattern_test.cpp"},
    {"adapters/config_values.hpp", "adapters/config_test.cpp"},
    {"regex/pattern_code.hpp", "regex/pattern_test.cpp"},
    {"regex/pattern_parser.hpp", "regex/pattern_test.cpp"},
    {"regex/pattern_text.hpp", "regex/pattern_test.cpp"},
    {"adapters/match_report.hpp", "adapters/matching_test.cpp"},
    {"adapters/name_rules.hpp", "adapters/matching_test.cpp"},
    {"adapters/near_names.hpp", "adapters/matching_test.cpp"},
    {"optim/optimizer_base.hpp", "optim/adamw_test.cpp"},
    {"optim/optimizer_state.hpp", "optim/adamw_test.cpp"},
    {"text/tokenizer/byte_spelling.hpp", "text/bpe_test.cpp"},
    {"text/unicode_tables.hpp", "text/unicode_test.cpp"},
    // Chat templates are told apart by what they render from the same conversations.
    {"text/chat/chat_input.hpp", "text/chat_template_test.cpp"},
    {"text/chat/conversation.hpp", "text/chat_template_test.cpp"},
    {"text/chat/llama_chat.hpp", "text/chat_template_test.cpp"},
    {"text/chat/other_chat.hpp", "text/chat_template_test.cpp"},
    {"text/chat/qwen_chat.hpp", "text/chat_template_test.cpp"},
    {"text/data/message_fields.hpp", "text/instruction_data_test.cpp"},
    {"text/data/template_fit.hpp", "text/tokenized_example_test.cpp"},
};

std::filesystem::path tests_dir() { return std::filesystem::path(LORA_SOURCE_DIR) / "tests"; }

std::string expected_test(const Header& header) {
  const auto other = tested_elsewhere.find(header.path);
  if (other != tested_elsewhere.end()) return other->second;
  return header.folder() + "/" + header.name() + "_test.cpp";
}

TEST(TestFiles, EveryHeaderHasOneOfItsName) {
  std::vector<std::string> faults;
  for (const Header& header : all_headers()) {
    if (only_includes(header) || header.path.ends_with(".inc")) continue;
    const std::string test = expected_test(header);
    if (!std::filesystem::exists(tests_dir() / test))
      faults.push_back(header.path + ": there is no tests/" + test);
  }
  EXPECT_TRUE(faults.empty()) << joined(faults);
}

TEST(TestFiles, ExceptionsAreStillNeeded) {
  for (const auto& [header, test] : tested_elsewhere) {
    EXPECT_TRUE(std::filesystem::exists(std::filesystem::path(LORA_SOURCE_DIR) / "include" /
                                        "lora" / header))
        << header;
    const std::filesystem::path own =
        tests_dir() / (Header{header, ""}.folder() + "/" + Header{header, ""}.name() + "_test.cpp");
    EXPECT_FALSE(std::filesystem::exists(own)) << own;
  }
}

// Several test files are one translation unit, so each keeps its names in a namespace of its own. The program and the
// namespace of a test file are called after it alone, so no two share a name.
TEST(TestFiles, NamesAndNamespacesAreUnique) {
  const std::set<std::string> programs_of_their_own = {"file_test", "two_units_test"};
  std::map<std::string, std::string> seen;
  for (const auto& folder : std::filesystem::directory_iterator(tests_dir())) {
    if (!folder.is_directory()) continue;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
      const std::string name = entry.path().filename().string(),
                        stem = entry.path().stem().string();
      if (!name.ends_with("_test.cpp")) continue;
      const auto [other, fresh] = seen.emplace(name, folder.path().filename().string());
      EXPECT_TRUE(fresh) << name << " is in tests/" << other->second << " and in tests/"
                         << folder.path().filename().string();
      if (programs_of_their_own.count(stem) > 0) continue;
      std::ifstream file(entry.path());
      const std::string text(std::istreambuf_iterator<char>(file), {});
      EXPECT_NE(text.find("\nnamespace " + stem + " {\n"), text.npos) << entry.path();
      EXPECT_EQ(text.find("\nnamespace {\n"), text.npos) << entry.path();
    }
  }
  EXPECT_GT(seen.count("test_files_test.cpp"), 0u);
}

}  // namespace test_files_test
