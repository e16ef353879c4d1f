// Instruction data: the first byte chooses the format. What is read is UTF-8 and every chat
// template renders it or says why not; skipping bad records reads no fewer than stopping at them.
#include <lora/io/file.hpp>
#include <lora/text/chat_template.hpp>
#include <lora/text/instruction_data.hpp>
#include <lora/text/unicode.hpp>

#include "fuzz.hpp"

namespace {
using namespace lora;
using lora_fuzz::expect;

void render_all(const Conversation& conversation) {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    std::string list = ChatTemplate::names();
    for (std::size_t from = 0, to = 0; to != std::string::npos; from = to + 2) {
      to = list.find(", ", from);
      all.push_back(list.substr(from, to == std::string::npos ? to : to - from));
    }
    return all;
  }();
  for (const std::string& name : names) {
    lora_fuzz::try_input([&] {
      for (const RenderedPiece& piece : ChatTemplate::named(name).render(conversation, {}).pieces)
        expect(first_invalid_utf8(piece.text) == piece.text.size(), "rendered text is not UTF-8");
    });
  }
}

void read(std::string_view text, DataOptions options) {
  options.bad_record = BadRecord::skip;
  const InstructionData data = parse_instruction_data(text, "fuzz", options);
  expect(data.kind != RecordKind::automatic && !data.conversations.empty(), "nothing was read");
  for (const Conversation& conversation : data.conversations) {
    for (const Message& message : conversation.messages)
      expect(first_invalid_utf8(message.content) == message.content.size(), "not UTF-8");
    render_all(conversation);
  }
  options.bad_record = BadRecord::stop;
  try {
    const InstructionData strict = parse_instruction_data(text, "fuzz", options);
    expect(data.skipped == 0 && strict.conversations.size() == data.conversations.size(),
           "skipping reads another number of records");
  } catch (const FormatError& error) {
    lora_fuzz::expect_message(error);
    expect(data.skipped > 0, "a record is bad only when it is not skipped");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::vector<std::byte> bytes = lora_fuzz::bytes_of(data + 1, size - 1);
  DataOptions options;
  constexpr DataFormat formats[] = {DataFormat::automatic, DataFormat::json, DataFormat::json_lines,
                                    DataFormat::text};
  options.format = formats[data[0] % 4];
  lora_fuzz::try_input([&] { read(as_text(bytes), options); });
  return 0;
}
