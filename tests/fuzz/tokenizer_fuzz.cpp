// tokenizer.json up to the first zero byte, a text behind it: ids are below vocab_size, they end
// where the text ends, and decoding at once or id by id gives the same UTF-8.
#include <lora/io/file.hpp>
#include <lora/text/streaming_decoder.hpp>
#include <lora/text/tokenizer_json.hpp>
#include <lora/text/unicode.hpp>

#include "fuzz.hpp"

namespace {
using namespace lora;
using lora_fuzz::expect;

void encode_and_decode(const Tokenizer& tokenizer, std::string_view text) {
  const Encoding encoded = tokenizer.encode_with_ends(text);
  expect(encoded.ids == tokenizer.encode(text), "other ids with ends");
  expect(encoded.ids.size() == encoded.ends.size(), "not one end an id");
  for (std::size_t i = 0; i < encoded.ids.size(); ++i) {
    expect(encoded.ids[i] >= 0 && encoded.ids[i] < tokenizer.vocab_size(), "an id too large");
    expect(encoded.ends[i] <= text.size(), "an end behind the text");
    expect(i == 0 || encoded.ends[i] >= encoded.ends[i - 1], "ends go back");
  }
  for (const SkipSpecial skip : {SkipSpecial::no, SkipSpecial::yes}) {
    const std::string whole = tokenizer.decode(encoded.ids, skip);
    expect(first_invalid_utf8(whole) == whole.size(), "decoded text is not UTF-8");
    StreamingDecoder stream(tokenizer, skip);
    std::string parts;
    for (const std::int64_t id : encoded.ids) parts += stream.push(id);
    parts += stream.finish();
    expect(first_invalid_utf8(parts) == parts.size(), "streamed text is not UTF-8");
    expect(tokenizer.decoder().spec().byte_level ? parts == whole : true,
           "streamed text is another");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::byte> bytes = lora_fuzz::bytes_of(data, size);
  const std::string_view all = as_text(bytes);
  const std::size_t cut = std::min(all.find('\0'), all.size());
  lora_fuzz::try_input([&] {
    const Tokenizer tokenizer(parse_tokenizer_json(all.substr(0, cut), "fuzz"));
    encode_and_decode(tokenizer, all.substr(std::min(cut + 1, all.size())));
  });
  return 0;
}
