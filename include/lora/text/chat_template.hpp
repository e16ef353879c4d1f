// Chat templates by name, or recognised from the Jinja text that a model brings.
#pragma once

#include <lora/core/random.hpp>
#include <lora/text/llama_chat.hpp>
#include <lora/text/other_chat.hpp>
#include <lora/text/qwen_chat.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace LORA_NAMESPACE {

/// One of the built-in chat templates; a small value. To add one: a function in a header beside
/// qwen_chat.hpp, a line in all(), the digest of its Jinja text in digests().
class ChatTemplate {
 public:
  /// The template called `name`. Throws ConfigError with all names.
  static ChatTemplate named(std::string_view name) {
    for (const Entry& entry : all()) {
      if (entry.name == name) return ChatTemplate(entry);
    }
    throw ConfigError("chat template " + in_quotes(name) + " is not known; there are " + names());
  }
  /// The template whose Jinja text this is, character for character but for white space at its
  /// ends. Throws ConfigError, naming `where`, with all names: a template that looks alike may
  /// differ in a space, and a model notices.
  static ChatTemplate recognised(std::string_view jinja, const std::string& where) {
    const std::uint64_t digest = digest_of(jinja);
    for (const Digest& known : digests()) {
      if (known.digest == digest) return named(known.name);
    }
    throw ConfigError(where + ": the chat template is none of the built-in ones (it begins with " +
                      in_quotes(jinja.substr(0, 60)) + "); choose one by name: " + names());
  }
  /// "chatml, qwen2, ...".
  static std::string names() {
    std::string text;
    for (const Entry& entry : all()) text += (text.empty() ? "" : ", ") + std::string(entry.name);
    return text;
  }
  /// What recognised() compares: of the text without white space at its ends.
  static std::uint64_t digest_of(std::string_view jinja) {
    return stream_key(0, chat_formats::stripped(jinja));
  }

  std::string_view name() const { return name_; }

  /// The conversation as the model reads it, equal to what transformers renders from the Jinja
  /// text. Throws ConfigError for an empty conversation and for what the template does not allow.
  Rendered render(const Conversation& conversation, const RenderOptions& options) const {
    const ChatInput in{conversation, options, name_};
    if (conversation.messages.empty()) in.refuse("the conversation is empty");
    return render_(in);
  }

 private:
  using Renderer = Rendered (*)(const ChatInput&);
  struct Entry {
    std::string_view name;
    Renderer render;
  };
  struct Digest {
    std::uint64_t digest;
    std::string_view name;
  };

  static const std::array<Entry, 17>& all() {
    namespace f = chat_formats;
    static constexpr std::array<Entry, 17> entries = {{{"chatml", f::chatml},
                                                       {"qwen2", f::qwen2},
                                                       {"qwen2.5", f::qwen25},
                                                       {"qwen3", f::qwen3},
                                                       {"llama2", f::llama2},
                                                       {"llama2-chat", f::llama2_chat},
                                                       {"llama3", f::llama3},
                                                       {"llama3.1", f::llama31},
                                                       {"llama3.2", f::llama31},
                                                       {"mistral", f::mistral},
                                                       {"mistral-v0.1", f::mistral_v01},
                                                       {"mistral-v0.2", f::mistral_v02},
                                                       {"gemma", f::gemma},
                                                       {"phi3", f::phi3},
                                                       {"deepseek-r1", f::deepseek_r1},
                                                       {"alpaca", f::alpaca},
                                                       {"plain", f::plain}}};
    return entries;
  }
  // A template whose line ends are written in either of the two ways that Jinja knows has two.
  static const std::array<Digest, 21>& digests() {
    static constexpr std::array<Digest, 21> known = {{
        {0xC16E1A5D9340EA3D, "qwen2.5"},      {0x1ADCC7494EBCACD4, "qwen3"},
        {0x31FB065F0D6DB137, "deepseek-r1"},  {0x11C4B9AE59E9A6A8, "gemma"},
        {0xB03CCB3C960143DA, "llama3.1"},     {0xA2E7D27AC310630C, "llama3.2"},
        {0x4062C68E06B08DAC, "phi3"},         {0x4B23AF67A9B9684F, "mistral"},
        {0xD2E515168B5DFD02, "chatml"},       {0xD150D6B1B2767CFE, "llama2"},
        {0x46A4BABAAE1982C8, "qwen2"},  // LLaMA-Factory's, which always asks for an answer
        {0xB7347C87B3BF0106, "qwen2"},        {0x2FEB15E522C3ECC7, "qwen2"},
        {0x6D61E24CE9EC8EAB, "llama3"},       {0xB16BD55775E47EB4, "llama3"},
        {0x4DE0180223D609C8, "chatml"},       {0xB6B97F92200B10A2, "chatml"},
        {0x5C3651CB42F177CC, "llama2-chat"},  {0x82311ECB9020584D, "llama2-chat"},
        {0x98D3C5EC2DA5406E, "mistral-v0.1"}, {0xD140F07EBD4E50B8, "mistral-v0.2"},
    }};
    return known;
  }

  explicit ChatTemplate(const Entry& entry) : name_(entry.name), render_(entry.render) {}

  std::string_view name_;
  Renderer render_;
};

}  // namespace LORA_NAMESPACE
