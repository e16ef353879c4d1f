// tokenizer.json, tokenizer_config.json, special_tokens_map.json and a text, a zero byte between
// two; an empty file is left out. Ids are below vocab_size, they end where the text ends, and
// decoding at once or id by id gives the same UTF-8.
#include <lora/text/tokenizer/streaming_decoder.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>
#include <lora/text/unicode.hpp>

#include <array>

#include "folder.hpp"
#include "fuzz.hpp"
#include "json_mutator.hpp"

namespace {
using namespace lora;
using lora_fuzz::expect;

void decode(const Tokenizer& tokenizer, const std::vector<std::int64_t>& ids) {
  for (const SkipSpecial skip : {SkipSpecial::no, SkipSpecial::yes}) {
    const std::string whole = tokenizer.decode(ids, skip);
    expect(first_invalid_utf8(whole) == whole.size(), "decoded text is not UTF-8");
    StreamingDecoder stream(tokenizer, skip);
    std::string parts;
    for (const std::int64_t id : ids) parts += stream.push(id);
    parts += stream.finish();
    expect(first_invalid_utf8(parts) == parts.size(), "streamed text is not UTF-8");
    expect(tokenizer.decoder().spec().byte_level ? parts == whole : true,
           "streamed text is another");
  }
}

void encode_and_decode(const Tokenizer& tokenizer, std::string_view text) {
  const Encoding encoded = tokenizer.encode_with_ends(text);
  expect(encoded.ids == tokenizer.encode(text), "other ids with ends");
  expect(encoded.ids.size() == encoded.ends.size(), "not one end an id");
  for (std::size_t i = 0; i < encoded.ids.size(); ++i) {
    expect(encoded.ids[i] >= 0 && encoded.ids[i] < tokenizer.vocab_size(), "an id too large");
    expect(encoded.ends[i] <= text.size(), "an end behind the text");
    expect(i == 0 || encoded.ends[i] >= encoded.ends[i - 1], "ends go back");
  }
  decode(tokenizer, encoded.ids);
  std::vector<std::int64_t> all;
  for (std::int64_t id = 0; id < std::min<Index>(tokenizer.vocab_size(), 64); ++id)
    all.push_back(id);
  decode(tokenizer, all);
}

// The folder's files, each written when it is another one than before.
const std::filesystem::path& folder_with(lora_fuzz::Parts& parts) {
  static const lora_fuzz::TemporaryFolder folder;
  constexpr std::array names{"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"};
  static std::array<std::string, names.size()> written;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string_view content = parts.next();
    if (content == written[i]) continue;
    written[i] = content;
    if (content.empty()) {
      std::filesystem::remove(folder.path / names[i]);
    } else {
      folder.write(folder.path / names[i], content);
    }
  }
  return folder.path;
}

}  // namespace

std::span<const std::string_view> lora_fuzz::words() {
  static constexpr std::string_view all[] = {"added_tokens",
                                             "normalizer",
                                             "pre_tokenizer",
                                             "post_processor",
                                             "decoder",
                                             "model",
                                             "truncation",
                                             "padding",
                                             "version",
                                             "type",
                                             "vocab",
                                             "merges",
                                             "unk_token",
                                             "fuse_unk",
                                             "byte_fallback",
                                             "ignore_merges",
                                             "dropout",
                                             "continuing_subword_prefix",
                                             "end_of_word_suffix",
                                             "BPE",
                                             "WordLevel",
                                             "Unigram",
                                             "ByteLevel",
                                             "Metaspace",
                                             "Sequence",
                                             "Split",
                                             "Digits",
                                             "Whitespace",
                                             "Punctuation",
                                             "individual_digits",
                                             "pretokenizers",
                                             "normalizers",
                                             "processors",
                                             "decoders",
                                             "pattern",
                                             "String",
                                             "Regex",
                                             "\\s+",
                                             "[0-9]",
                                             "behavior",
                                             "Isolated",
                                             "Removed",
                                             "MergedWithPrevious",
                                             "MergedWithNext",
                                             "Contiguous",
                                             "invert",
                                             "use_regex",
                                             "add_prefix_space",
                                             "trim_offsets",
                                             "replacement",
                                             "prepend_scheme",
                                             "always",
                                             "first",
                                             "never",
                                             "split",
                                             "str_rep",
                                             "\xE2\x96\x81",
                                             "NFC",
                                             "NFD",
                                             "NFKC",
                                             "NFKD",
                                             "Lowercase",
                                             "Strip",
                                             "StripAccents",
                                             "Replace",
                                             "Prepend",
                                             "prepend",
                                             "content",
                                             "left",
                                             "right",
                                             "strip_left",
                                             "strip_right",
                                             "start",
                                             "stop",
                                             "Fuse",
                                             "ByteFallback",
                                             "TemplateProcessing",
                                             "single",
                                             "pair",
                                             "special_tokens",
                                             "SpecialToken",
                                             "ids",
                                             "tokens",
                                             "id",
                                             "A",
                                             "B",
                                             "single_word",
                                             "lstrip",
                                             "rstrip",
                                             "normalized",
                                             "special",
                                             "<s>",
                                             "</s>",
                                             "<unk>",
                                             "<0x0A>",
                                             "\xC4\xA0",
                                             "t h",
                                             "th e",
                                             "bos_token",
                                             "eos_token",
                                             "pad_token",
                                             "add_bos_token",
                                             "add_eos_token",
                                             "added_tokens_decoder",
                                             "additional_special_tokens",
                                             "chat_template",
                                             "name",
                                             "template",
                                             "default",
                                             "tokenizer_class",
                                             "LlamaTokenizer",
                                             "clean_up_tokenization_spaces",
                                             "258",
                                             "th",
                                             "the"};
  return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> bytes = lora_fuzz::bytes_of(data, size);
  lora_fuzz::Parts parts(as_text(bytes));
  const std::filesystem::path& folder = folder_with(parts);
  lora_fuzz::try_input([&] { encode_and_decode(Tokenizer::open(folder), parts.rest()); });
  return 0;
}
