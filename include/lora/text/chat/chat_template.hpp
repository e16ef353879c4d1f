// The chat templates, found by name or recognised from the Jinja text of a model.
#pragma once

#include <lora/core/random.hpp>
#include <lora/text/chat/llama_chat.hpp>
#include <lora/text/chat/other_chat.hpp>
#include <lora/text/chat/qwen_chat.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

/// A built-in chat template; a small value. To add one, write a function in a header beside
/// qwen_chat.hpp, a line in all() (with its markers), and the digest of its Jinja text in
/// digests().
class ChatTemplate {
 public:
  /// Returns the template called `name`.
  /// Throws: ConfigError that lists all names.
  static ChatTemplate named(std::string_view name) {
    for (const Entry& entry : all()) {
      if (entry.name == name) return ChatTemplate(entry);
    }
    throw ConfigError("chat template " + in_quotes(name) + " is not known; there are " + names());
  }
  /// Returns the template with this Jinja text, equal character for character except white space at
  /// its ends: a similar template may differ in a space, and a model notices.
  /// Throws: ConfigError that names `where` and lists all names.
  static ChatTemplate recognised(std::string_view jinja, const std::string& where) {
    const std::uint64_t digest = digest_of(jinja);
    for (const Digest& known : digests()) {
      if (known.digest == digest) return named(known.name);
    }
    throw ConfigError(where + ": the chat template is none of the built-in ones (it begins with " +
                      in_quotes(jinja.substr(0, 60)) + "); choose one by name: " + names());
  }
  /// Returns "chatml, qwen2, ...".
  static std::string names() {
    std::string text;
    for (const Entry& entry : all()) text += (text.empty() ? "" : ", ") + std::string(entry.name);
    return text;
  }
  /// Returns the digest that recognised() compares, of the text without white space at its ends.
  static std::uint64_t digest_of(std::string_view jinja) {
    return stream_key(0, chat_formats::stripped(jinja));
  }

  std::string_view name() const { return entry_->name; }
  /// Returns the texts that begin and end turns. A tokenizer made for the template has one token
  /// for each.
  std::vector<std::string_view> markers() const {
    std::vector<std::string_view> all;
    for (std::string_view rest = entry_->markers; !rest.empty();) {
      const std::size_t end = std::min(rest.find(' '), rest.size());
      all.push_back(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return all;
  }
  /// Returns the field of chat_template_kwargs that the template reads ("enable_thinking"), or "".
  std::string_view setting() const { return entry_->setting; }

  /// Renders the conversation as the model reads it, equal to what transformers renders from the
  /// Jinja text.
  /// Throws: ConfigError for an empty conversation and for what the template does not allow.
  Rendered render(const Conversation& conversation, const RenderOptions& options) const {
    const ChatInput in{conversation, options, entry_->name};
    if (conversation.messages.empty()) in.refuse("the conversation is empty");
    return entry_->render(in);
  }

 private:
  using Renderer = Rendered (*)(const ChatInput&);
  struct Entry {
    std::string_view name;
    Renderer render;
    std::string_view markers;  // separated by spaces
    std::string_view setting;
  };
  struct Digest {
    std::uint64_t digest;
    std::string_view name;
  };

  static const std::array<Entry, 17>& all() {
    namespace f = chat_formats;
    constexpr std::string_view none, im = "<|im_start|> <|im_end|>", date = "date_string",
                                     llama = "<|start_header_id|> <|end_header_id|> <|eot_id|>";
    static constexpr std::array<Entry, 17> entries = {
        {{"chatml", f::chatml, im, none},
         {"qwen2", f::qwen2, im, none},
         {"qwen2.5", f::qwen25, im, none},
         {"qwen3", f::qwen3, im, "enable_thinking"},
         {"llama2", f::llama2, none, none},
         {"llama2-chat", f::llama2_chat, none, none},
         {"llama3", f::llama3, llama, none},
         {"llama3.1", f::llama31, llama, date},
         {"llama3.2", f::llama31, llama, date},
         {"mistral", f::mistral, "[INST] [/INST]", none},
         {"mistral-v0.1", f::mistral_v01, none, none},
         {"mistral-v0.2", f::mistral_v02, none, none},
         {"gemma", f::gemma, "<start_of_turn> <end_of_turn>", none},
         {"phi3", f::phi3, "<|system|> <|user|> <|assistant|> <|end|>", none},
         {"deepseek-r1", f::deepseek_r1, "<｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜>", none},
         {"alpaca", f::alpaca, none, none},
         {"plain", f::plain, none, none}}};
    return entries;
  }
  // A template has two digests if its line ends occur in both forms that Jinja knows.
  static const std::array<Digest, 21>& digests() {
    static constexpr std::array<Digest, 21> known = {{
        {0xC16E1A5D9340EA3D, "qwen2.5"},      {0x1ADCC7494EBCACD4, "qwen3"},
        {0x31FB065F0D6DB137, "deepseek-r1"},  {0x11C4B9AE59E9A6A8, "gemma"},
        {0xB03CCB3C960143DA, "llama3.1"},     {0xA2E7D27AC310630C, "llama3.2"},
        {0x4062C68E06B08DAC, "phi3"},         {0x4B23AF67A9B9684F, "mistral"},
        {0xD2E515168B5DFD02, "chatml"},       {0xD150D6B1B2767CFE, "llama2"},
        {0x46A4BABAAE1982C8, "qwen2"},  // of LLaMA-Factory, which always asks for an answer
        {0xB7347C87B3BF0106, "qwen2"},        {0x2FEB15E522C3ECC7, "qwen2"},
        {0x6D61E24CE9EC8EAB, "llama3"},       {0xB16BD55775E47EB4, "llama3"},
        {0x4DE0180223D609C8, "chatml"},       {0xB6B97F92200B10A2, "chatml"},
        {0x5C3651CB42F177CC, "llama2-chat"},  {0x82311ECB9020584D, "llama2-chat"},
        {0x98D3C5EC2DA5406E, "mistral-v0.1"}, {0xD140F07EBD4E50B8, "mistral-v0.2"},
    }};
    return known;
  }

  explicit ChatTemplate(const Entry& entry) : entry_(&entry) {}

  const Entry* entry_;  // one of all(), valid for the whole program
};

}  // namespace lora
