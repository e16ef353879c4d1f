// README.md of an adapter: its front matter, and that nobody's text is overwritten.
#include <lora/io/peft/model_card.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "layers/layer_tools.hpp"
#include "support/shared.hpp"

namespace model_card_test {
using namespace lora;
using namespace lora_test;

std::string front_matter(const LoRAConfig& config) {
  const std::string text = model_card(config);
  return text.substr(0, text.find("\n---\n") + 5);
}
std::string read(const std::filesystem::path& path) {
  return std::string(as_text(read_file(path, 1 << 20)));
}

TEST(ModelCard, FrontMatter) {
  LoRAConfig config;
  EXPECT_EQ(front_matter(config), "---\nlibrary_name: peft\ntags:\n- lora\n---\n");
  config.base_model_name_or_path = "meta-llama/Llama-3.2-3B";
  config.task_type = "CAUSAL_LM";
  EXPECT_EQ(front_matter(config),
            "---\nbase_model: meta-llama/Llama-3.2-3B\nlibrary_name: peft\n"
            "pipeline_tag: text-generation\ntags:\n- base_model:adapter:meta-llama/Llama-3.2-3B\n"
            "- lora\n---\n");
}

TEST(ModelCard, NamesThatYamlWouldReadOtherwiseAreQuoted) {
  for (const char* name : {"/models/x", "null", "1/2", "a b/c", "a/b: c", "a/b #c",
                           "a/b\nlicense: x", "- a/b", "a/\"b\"", "a/日本", "a/b:"}) {
    LoRAConfig config;
    config.base_model_name_or_path = name;
    EXPECT_NE(front_matter(config).find("base_model: " + Json(name).dump() + "\n"),
              std::string::npos)
        << front_matter(config);
  }
  LoRAConfig config;
  config.base_model_name_or_path = "a\xff";
  EXPECT_TRUE(
      throws<ConfigError>([&] { model_card(config); }, {"model card: ", "not valid UTF-8"}));
}

TEST(ModelCard, SaysWhatTheAdapterIs) {
  LoRAConfig config;
  config.r = 4;
  config.lora_alpha = 6;
  config.target_modules = {"q_proj", "v`proj"};
  config.modules_to_save = {"lm_head"};
  config.base_model_name_or_path = "base/`name`\n# forged";
  const std::string text = model_card(config);
  for (const char* part :
       {"# LoRA adapter\n", "`base/'name'\\x0a# forged`",
        "- rank r = 4, alpha = 6, scale 1.5 (alpha / r)\n", "- targets: `q_proj`, `v'proj`\n",
        "- fully trained modules: `lm_head`\n", "PeftModel.from_pretrained",
        "lora::from_pretrained"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  config.use_rslora = true;
  config.rank_pattern = {{"a", 2}};
  config.target_modules = "a.*";
  const std::string other = model_card(config);
  for (const char* part :
       {"scale 3 (alpha / sqrt(r)); other values for some layers", "targets: `a.*`"})
    EXPECT_NE(other.find(part), std::string::npos) << part << "\n" << other;
  config.target_modules = {};
  EXPECT_NE(model_card(config).find("targets: the defaults of the model's type"),
            std::string::npos);
  config.target_modules = std::vector<std::string>(17, "x");
  EXPECT_NE(model_card(config).find("`x`, ...\n"), std::string::npos);
}

TEST(ModelCard, IsWrittenOnlyWhereThereIsNone) {
  const TemporaryFolder folder;
  write_model_card(folder.path, LoRAConfig());
  EXPECT_EQ(read(folder.path / "README.md"), model_card(LoRAConfig()));
  atomic_write(folder.path / "README.md", "mine");
  write_model_card(folder.path, LoRAConfig());
  EXPECT_EQ(read(folder.path / "README.md"), "mine");
  std::filesystem::remove(folder.path / "README.md");
  std::filesystem::create_symlink("nowhere", folder.path / "README.md");
  write_model_card(folder.path, LoRAConfig());
  EXPECT_TRUE(std::filesystem::is_symlink(folder.path / "README.md"));
  EXPECT_TRUE(
      throws<IoError>([&] { write_model_card(folder.path / "no", LoRAConfig()); }, {"README.md"}));
}

TEST(ModelCard, IsWrittenBeforeTheAdapterAndGoesWithIt) {
  const TemporaryFolder folder;
  const std::filesystem::path directory = folder.path / "new", path = directory / "README.md";
  const auto fail = [&] { throw Error("no adapter"); };
  const auto write = [&](const auto& adapters) {
    write_with_model_card(directory, LoRAConfig(), adapters);
  };
  EXPECT_TRUE(throws<Error>([&] { write(fail); }, {"no adapter"}));
  EXPECT_FALSE(std::filesystem::exists(path));
  write([&] { EXPECT_EQ(read(path), model_card(LoRAConfig())); });
  EXPECT_TRUE(throws<Error>([&] { write(fail); }, {"no adapter"}));
  EXPECT_EQ(read(path), model_card(LoRAConfig())) << "was there before";
  LoRAConfig unwritable;
  unwritable.base_model_name_or_path = "a\xff";
  bool called = false;
  EXPECT_THROW(write_with_model_card(folder.path / "other", unwritable, [&] { called = true; }),
               ConfigError);
  EXPECT_FALSE(called || std::filesystem::exists(folder.path / "other"));
}

}  // namespace model_card_test
