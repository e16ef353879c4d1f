// The tokenizer files of a model's directory, as transformers writes them.
#pragma once

#include <lora/io/file.hpp>
#include <lora/text/tokenizer_json.hpp>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace LORA_NAMESPACE {

namespace tokenizer_files {

inline constexpr std::uint64_t largest_file = std::uint64_t{256} << 20;

inline std::string read_text(const std::filesystem::path& path) {
  const std::vector<std::byte> bytes = read_file(path, largest_file);
  if (is_git_lfs_pointer(bytes))
    throw FormatError(path.string() +
                      ": is a pointer of git-lfs; fetch the file with `git lfs pull`");
  return std::string(as_text(bytes));
}

// A token that is written as its text or as an object with its text.
inline std::optional<std::string> token_text(JsonFields& fields, const std::string& name) {
  const Json* const field = fields.find(name);
  if (field == nullptr) return std::nullopt;
  return field->is_object() ? fields.object(name).text("content") : fields.text(name);
}

// bos_token, eos_token and pad_token, where `spec` has none yet.
inline void read_token_names(JsonFields& fields, TokenizerSpec& spec) {
  const auto take = [&](const char* name, std::optional<std::string>& token) {
    if (!token) token = token_text(fields, name);
  };
  take("bos_token", spec.bos_token);
  take("eos_token", spec.eos_token);
  take("pad_token", spec.pad_token);
}

// Ids by which tokenizer_config.json extends tokenizer.json.
inline void read_added_tokens_decoder(JsonFields& config, TokenizerSpec& spec) {
  const Json* const list = config.find("added_tokens_decoder");
  if (list == nullptr) return;
  if (!list->is_object()) config.refuse("added_tokens_decoder", "is no object");
  JsonFields all = config.object("added_tokens_decoder");
  for (const auto& [id, value] : list->items()) {
    JsonFields fields = all.object(id);
    AddedToken token = tokenizer_json::read_added_token(fields);
    fields.expect_no_more();
    if (id.empty() || id.size() > 7 || id.find_first_not_of("0123456789") != id.npos)
      config.refuse("added_tokens_decoder", in_quotes(id) + " is no id");
    token.id = static_cast<std::uint32_t>(std::stoul(id));
    const auto same = [&](const AddedToken& known) { return known.content == token.content; };
    const auto known = std::find_if(spec.added.begin(), spec.added.end(), same);
    if (known == spec.added.end()) {
      spec.added.push_back(std::move(token));
    } else if (known->id != token.id) {
      config.refuse("added_tokens_decoder", in_quotes(token.content) + " has id " + id +
                                                ", but in tokenizer.json " +
                                                std::to_string(known->id));
    }
  }
}

// The template itself, or the one called "default" of several.
inline std::string read_chat_template(JsonFields& config) {
  const Json* const field = config.find("chat_template");
  if (field == nullptr) return {};
  if (!field->is_array()) return config.text("chat_template");
  for (std::size_t i = 0; i < field->size(); ++i) {
    JsonFields named = config.element("chat_template", i);
    if (named.text("name") == "default") return named.text("template");
  }
  config.refuse("chat_template", "is a list without a template called \"default\"");
}

inline std::uint32_t need_id(const TokenizerSpec& spec, const std::optional<std::string>& token,
                             const JsonFields& config, const char* asked_by) {
  if (!token) config.refuse(asked_by, "is true, but no such token is named");
  for (const AddedToken& added : spec.added) {
    if (added.content == *token) return added.id;
  }
  for (const auto& [text, id] : spec.model.vocab) {
    if (text == *token) return id;
  }
  config.refuse(asked_by, "is true, but " + in_quotes(*token) + " is not in the vocabulary");
}

// add_bos_token and add_eos_token say what stands around a text, whatever tokenizer.json says.
inline void read_added_around(JsonFields& config, TokenizerSpec& spec) {
  const auto apply = [&](const char* name, const std::optional<std::string>& token,
                         std::vector<std::uint32_t>& ids) {
    if (config.find(name) == nullptr) return;
    ids.clear();
    if (config.flag(name, false)) ids.push_back(need_id(spec, token, config, name));
  };
  apply("add_bos_token", spec.bos_token, spec.before);
  apply("add_eos_token", spec.eos_token, spec.after);
}

// The next line of `text` without its end (LF or CRLF).
inline std::string_view next_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

// vocab.json and merges.txt, which say nothing of the words: that is what the class's name says.
inline TokenizerSpec read_vocab_and_merges(const std::filesystem::path& directory,
                                           const std::string& tokenizer_class) {
  TokenizerSpec spec;
  const std::filesystem::path vocab = directory / "vocab.json", merges = directory / "merges.txt";
  spec.model.where = vocab.string();
  const Json json = parse_json(read_text(vocab), vocab.string());
  if (!json.is_object()) throw FormatError(vocab.string() + ": is no object");
  tokenizer_json::read_ids(json, vocab.string(), spec.model);
  const std::string text = read_text(merges);
  std::string_view rest = text;
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = next_line(rest);
    if (line.empty() || (number == 1 && line.substr(0, 8) == "#version")) continue;
    spec.model.merges.push_back(tokenizer_json::read_merge(
        Json(std::string(line)), merges.string() + ": line " + std::to_string(number)));
  }
  if (tokenizer_class == "Qwen2Tokenizer" || tokenizer_class == "Qwen2TokenizerFast") {
    spec.normalizer.push_back({TextStep::Kind::nfc, "", ""});
    spec.split = WordSplit::qwen2;
  } else if (tokenizer_class.empty() || tokenizer_class == "GPT2Tokenizer" ||
             tokenizer_class == "GPT2TokenizerFast") {
    spec.split = WordSplit::gpt2;
  } else {
    throw FormatError((directory / "tokenizer_config.json").string() +
                      ": tokenizer_class: " + in_quotes(tokenizer_class) +
                      " without a tokenizer.json; only GPT2Tokenizer and Qwen2Tokenizer are known");
  }
  return spec;
}

// GPT-2's one special token, which its two files do not mark as one.
inline void add_end_of_text(TokenizerSpec& spec) {
  constexpr std::string_view end = "<|endoftext|>";
  for (const AddedToken& token : spec.added) {
    if (token.content == end) return;
  }
  for (const auto& [token, id] : spec.model.vocab) {
    if (token != end) continue;
    AddedToken added;
    added.id = id;
    added.content = token;
    added.special = true;
    spec.added.push_back(added);
    if (!spec.bos_token) spec.bos_token = token;
    if (!spec.eos_token) spec.eos_token = token;
  }
}

}  // namespace tokenizer_files

/// The tokenizer in `directory`: tokenizer.json, or vocab.json and merges.txt (GPT-2, Qwen2), with
/// what tokenizer_config.json, special_tokens_map.json and chat_template.jinja add: the names of
/// the beginning, end and padding tokens, further added tokens, add_bos_token and add_eos_token
/// (which win over tokenizer.json), the chat template. Throws IoError or FormatError (see
/// parse_tokenizer_json) naming the file.
inline TokenizerSpec read_tokenizer_spec(const std::filesystem::path& directory) {
  namespace files = tokenizer_files;
  const auto there = [&](const char* name) { return std::filesystem::exists(directory / name); };
  const std::filesystem::path config_path = directory / "tokenizer_config.json";
  const Json config_json = there("tokenizer_config.json")
                               ? parse_json(files::read_text(config_path), config_path.string())
                               : Json::object();
  JsonFields config(config_json, config_path.string());

  TokenizerSpec spec;
  const bool whole = there("tokenizer.json");
  if (whole) {
    const std::filesystem::path path = directory / "tokenizer.json";
    spec = parse_tokenizer_json(files::read_text(path), path.string());
  } else if (there("vocab.json") && there("merges.txt")) {
    spec = files::read_vocab_and_merges(directory, config.text("tokenizer_class", ""));
  } else {
    throw IoError(directory.string() + ": no tokenizer.json, nor vocab.json with merges.txt" +
                  (there("tokenizer.model")
                       ? "; tokenizer.model alone is not supported: save the tokenizer once with "
                         "transformers' AutoTokenizer(...).save_pretrained"
                       : ""));
  }
  files::read_token_names(config, spec);
  if (there("special_tokens_map.json")) {
    const std::filesystem::path path = directory / "special_tokens_map.json";
    const Json json = parse_json(files::read_text(path), path.string());
    JsonFields map(json, path.string());
    files::read_token_names(map, spec);
  }
  files::read_added_tokens_decoder(config, spec);
  if (!whole && spec.split == WordSplit::gpt2) files::add_end_of_text(spec);
  files::read_added_around(config, spec);
  spec.chat_template = there("chat_template.jinja")
                           ? files::read_text(directory / "chat_template.jinja")
                           : files::read_chat_template(config);
  return spec;
}

inline Tokenizer Tokenizer::open(const std::filesystem::path& directory) {
  return Tokenizer(read_tokenizer_spec(directory));
}

}  // namespace LORA_NAMESPACE
