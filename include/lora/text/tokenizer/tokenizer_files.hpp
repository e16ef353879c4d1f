// Reads the tokenizer files of a model's directory, as transformers writes them.
#pragma once

#include <lora/io/file.hpp>
#include <lora/text/tokenizer/tokenizer_json.hpp>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace lora {

namespace tokenizer_files {

inline constexpr std::uint64_t largest_file = std::uint64_t{256} << 20;

inline std::string read_text(const std::filesystem::path& path) {
  const std::vector<std::byte> bytes = read_file(path, largest_file);
  refuse_git_lfs_pointer(bytes, path.string());
  return std::string(as_text(bytes));
}

// Returns the template, or the one named "default" of several.
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

// add_bos_token and add_eos_token determine the ids around a text, unless tokenizer.json does.
inline void read_added_around(JsonFields& config, bool whole, TokenizerSpec& spec) {
  const special_tokens::AddedVocabulary vocabulary(spec);
  const auto apply = [&](const char* name, const std::optional<std::string>& token,
                         std::vector<std::uint32_t>& ids) {
    if (config.find(name) == nullptr) return;
    const bool asked = config.flag(name, false);
    std::vector<std::uint32_t> wanted;
    if (const auto id = token ? vocabulary.find(*token) : std::nullopt; asked && id)
      wanted.push_back(*id);
    const bool nothing_to_add = asked && wanted.empty();
    if (nothing_to_add) {
      spec.notices.push_back(config.path(name) + ": is true, but no such token is named; ignored");
    } else if (!whole) {
      ids = wanted;
    } else if (ids != wanted) {
      spec.notices.push_back(config.path(name) + ": is " + (asked ? "true" : "false") +
                             ", but the post_processor of tokenizer.json says otherwise and "
                             "decides, as in transformers 5");
    }
  };
  apply("add_bos_token", spec.bos_token, spec.before);
  apply("add_eos_token", spec.eos_token, spec.after);
}

inline bool is_class(const std::string& tokenizer_class, std::string_view name) {
  return tokenizer_class == name || tokenizer_class == std::string(name) + "Fast";
}

// Whether the step puts a space, or its mark, before a text.
inline bool is_prefix(const TextStep& step) {
  return step.kind == TextStep::Kind::prepend || step.kind == TextStep::Kind::prepend_first ||
         step.kind == TextStep::Kind::prepend_unless_there;
}

// Applies add_prefix_space, for the classes of transformers 5 that build their tokenizer with it.
inline void read_prefix_space(JsonFields& config, const std::string& tokenizer_class,
                              TokenizerSpec& spec) {
  if (config.find("add_prefix_space") == nullptr) return;
  const bool asked = config.flag("add_prefix_space", false);
  const auto has = [](const std::vector<TextStep>& steps) {
    return std::any_of(steps.begin(), steps.end(), is_prefix);
  };
  if (asked == (has(spec.normalizer) || has(spec.pre_tokenizer))) return;
  const bool bytes =
      is_class(tokenizer_class, "GPT2Tokenizer") || is_class(tokenizer_class, "Qwen2Tokenizer");
  if (bytes && spec.model.byte_level && asked) {
    // After a Split, each piece is a text of its own; GPT-2's expression belongs to ByteLevel.
    if (spec.split == WordSplit::qwen2 || spec.split == WordSplit::llama3) {
      TextCut cut;
      cut.find = TextCut::Find::pattern;
      cut.pattern.emplace(regex_of(spec.split));
      spec.cuts.push_back(std::move(cut));
      spec.split = WordSplit::none;
    }
    spec.pre_tokenizer.insert(spec.pre_tokenizer.begin(),
                              {TextStep::Kind::prepend_unless_there, "", " "});
  } else if (!asked && ((bytes && spec.model.byte_level) ||
                        (is_class(tokenizer_class, "LlamaTokenizer") && !spec.model.byte_level))) {
    std::erase_if(spec.normalizer, is_prefix);
    std::erase_if(spec.pre_tokenizer, is_prefix);
    spec.decoder.strip_left = 0;
  } else {
    spec.notices.push_back(config.path("add_prefix_space") + ": is " + (asked ? "true" : "false") +
                           ", but tokenizer.json says otherwise and decides");
  }
}

// Whether the tokenizer turns spaces into marks and does nothing else: with a normalizer, whose
// result added tokens may see, or with Metaspace without a prefix.
inline bool only_marks_spaces(const TokenizerSpec& spec) {
  const auto marks = [](const std::vector<TextStep>& steps) {
    return steps.size() == 1 && steps[0].kind == TextStep::Kind::replace && !steps[0].pattern &&
           steps[0].from == " " && steps[0].to == space_mark;
  };
  if (spec.normalizer.empty()) return marks(spec.pre_tokenizer);
  const auto sees = [](const AddedToken& token) {
    return token.normalized &&
           (token.lstrip || token.rstrip || token.content.find(' ') != token.content.npos ||
            token.content.find(space_mark) != token.content.npos);
  };
  return spec.pre_tokenizer.empty() && marks(spec.normalizer) &&
         std::none_of(spec.added.begin(), spec.added.end(), sees);
}

// Reads the fields that change encoding and decoding.
inline void read_behavior(JsonFields& config, const std::string& tokenizer_class, bool whole,
                          TokenizerSpec& spec) {
  read_prefix_space(config, tokenizer_class, spec);
  spec.split_special = config.flag("split_special_tokens", false);
  const char* const force =
      "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
  if (config.flag(force, false)) config.refuse(force, "is not supported, only false");
  if (!whole || !is_class(tokenizer_class, "LlamaTokenizer") || spec.model.byte_level) return;
  const bool legacy = config.flag("legacy", false), prefix = config.flag("add_prefix_space", true);
  const auto kind = legacy ? TextStep::Kind::prepend_unless_there : TextStep::Kind::prepend_first;
  const auto& steps = spec.pre_tokenizer;
  const bool same = spec.cuts.empty() && spec.split == WordSplit::none &&
                    (prefix ? spec.normalizer.empty() && steps.size() == 2 && steps[1].kind == kind
                            : only_marks_spaces(spec));
  if (!same) {
    spec.notices.push_back(
        config.path("tokenizer_class") + ": " + in_quotes(tokenizer_class) +
        ": ids are those that the tokenizers library gives for tokenizer.json; transformers 5 "
        "builds another tokenizer for this class, whose ids differ at the beginning of a text, "
        "after added tokens and in runs of spaces");
  }
}

// Returns the next line of `text` without its end (LF or CRLF).
inline std::string_view next_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

// Reads vocab.json and merges.txt. They do not describe how words are split; the name of the class
// does.
inline TokenizerSpec read_vocab_and_merges(const std::filesystem::path& directory,
                                           const std::string& tokenizer_class) {
  TokenizerSpec spec;
  const std::filesystem::path vocab = directory / "vocab.json", merges = directory / "merges.txt";
  spec.model.where = vocab.string();
  const Json json = parse_json(read_text(vocab), vocab.string());
  tokenizer_json::read_ids(expect_object(json, vocab.string()), vocab.string(), spec.model);
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

// Returns the tokens that the classes of transformers assume if no file names them.
inline std::vector<std::pair<std::string, std::string>> default_tokens(
    const std::string& tokenizer_class) {
  const std::string end = "<|endoftext|>";
  if (tokenizer_class.starts_with("GPT2Tokenizer"))
    return {{"bos_token", end}, {"eos_token", end}, {"unk_token", end}};
  if (tokenizer_class.starts_with("Qwen2Tokenizer"))
    return {{"eos_token", end}, {"unk_token", end}, {"pad_token", end}};
  if (tokenizer_class.starts_with("LlamaTokenizer"))
    return {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}};
  return {};
}

// Returns the token of an id, if there is one.
inline std::optional<std::string> token_of(const TokenizerSpec& spec, std::uint32_t id) {
  for (const AddedToken& added : spec.added) {
    if (added.id == id) return added.content;
  }
  for (const auto& [text, known] : spec.model.vocab) {
    if (known == id) return text;
  }
  return std::nullopt;
}

// If no tokenizer file names the begin and end tokens, takes the end token of
// generation_config.json or config.json, and the one token that tokenizer.json puts before a text.
// An empty name counts as none.
inline void name_tokens_by_id(const std::filesystem::path& directory, TokenizerSpec& spec) {
  for (auto* token : {&spec.bos_token, &spec.eos_token, &spec.pad_token}) {
    if (*token && (*token)->empty()) token->reset();
  }
  if (!spec.bos_token && spec.before.size() == 1) spec.bos_token = token_of(spec, spec.before[0]);
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::filesystem::path path = directory / name;
    if (spec.eos_token || !std::filesystem::exists(path)) continue;
    const Json json = parse_json(read_text(path), path.string());
    const Json* id = JsonFields(json, path.string()).find("eos_token_id");
    if (id != nullptr && id->is_array() && !id->empty()) id = &id->front();
    if (id != nullptr && id->is_number_unsigned() && id->get<std::uint64_t>() <= 0x7FFFFFFFu)
      spec.eos_token = token_of(spec, id->get<std::uint32_t>());
  }
}

}  // namespace tokenizer_files

/// Reads the tokenizer in `directory`: tokenizer.json, or vocab.json and merges.txt (GPT-2, Qwen2).
/// Adds what tokenizer_config.json, special_tokens_map.json, added_tokens.json (see
/// add_special_tokens) and chat_template.jinja say: further added tokens, the begin, end and
/// padding tokens, the chat template, and without a tokenizer.json add_bos_token and add_eos_token.
/// If none of them names an end token, takes that of generation_config.json or config.json.
/// Throws: IoError; FormatError that names the file (see parse_tokenizer_json).
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
  const auto small = [&](const char* name) {
    const std::filesystem::path path = directory / name;
    return there(name) ? parse_json(files::read_text(path), path.string()) : Json();
  };
  const Json map = small("special_tokens_map.json"), added = small("added_tokens.json");
  special_tokens::Files around;
  around.directory = directory.string();
  if (there("tokenizer_config.json")) around.config = &config_json;
  if (!map.is_null()) around.map = &map;
  if (!added.is_null()) around.added = &added;
  std::string tokenizer_class = config.text("tokenizer_class", "");
  if (!whole && tokenizer_class.empty()) tokenizer_class = "GPT2Tokenizer";
  add_special_tokens(around, files::default_tokens(tokenizer_class), spec);
  files::read_added_around(config, whole, spec);
  files::name_tokens_by_id(directory, spec);
  files::read_behavior(config, tokenizer_class, whole, spec);
  spec.chat_template = there("chat_template.jinja")
                           ? files::read_text(directory / "chat_template.jinja")
                           : files::read_chat_template(config);
  return spec;
}

inline Tokenizer Tokenizer::open(const std::filesystem::path& directory) {
  return Tokenizer(read_tokenizer_spec(directory));
}

}  // namespace lora
