#include <lora/text/chat/chat_template.hpp>

#include <gtest/gtest.h>

#include "support/golden.hpp"

namespace chat_template_test {

using lora::ChatTemplate;
using lora::Conversation;
using lora::GenerationPrompt;
using lora::Index;
using lora::RenderOptions;
using lora_test::read_golden_json;
using lora_test::shared_dir;

Conversation conversation_of(const lora::Json& messages) {
  Conversation out;
  for (const lora::Json& message : messages) {
    out.messages.push_back(
        {message.at("role").get<std::string>(), message.at("content").get<std::string>(), "", {}});
  }
  return out;
}

// Llama 3.2 writes the day of rendering, which only the golden text knows.
std::string date_in(const std::string& text) {
  const std::size_t at = text.find("Today Date: ");
  return at == text.npos ? "26 Jul 2024" : text.substr(at + 12, text.find('\n', at) - at - 12);
}

// A set holds the text of each template, or the name that the library has for it.
ChatTemplate template_of(const lora::Json& golden, const std::string& jinja_name) {
  if (!golden.contains("templates"))
    return ChatTemplate::named(golden.at("named").at(jinja_name).get<std::string>());
  return ChatTemplate::recognised(golden.at("templates").at(jinja_name).get<std::string>(),
                                  "chat.json");
}

void expect_golden(const lora::Json& golden, const std::string& jinja_name) {
  const lora::Json& expected = golden.at("output").at(jinja_name);
  const ChatTemplate chat = template_of(golden, jinja_name);
  ASSERT_FALSE(expected.at("rendered").empty());
  for (const auto& [key, value] : expected.at("rendered").items()) {
    const std::string name = key.substr(0, key.find('|'));
    RenderOptions options{expected.at("bos_token").get<std::string>(),
                          expected.at("eos_token").get<std::string>()};
    if (key.find("|prompt") != key.npos) options.generation_prompt = GenerationPrompt::yes;
    const Conversation conversation = conversation_of(golden.at("conversations").at(name));
    if (value.is_string()) {
      options.date = date_in(value.get<std::string>());
      EXPECT_EQ(chat.render(conversation, options).text(), value.get<std::string>())
          << jinja_name << " " << key;
      continue;
    }
    try {
      chat.render(conversation, options);
      ADD_FAILURE() << jinja_name << " " << key << " is not refused";
    } catch (const lora::ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(value.at("refused").get<std::string>()),
                std::string::npos)
          << error.what();
    }
  }
}

TEST(ChatTemplate, RendersTheGoldenTextsOfTheJinjaTemplates) {
  lora_test::for_each_golden_set([](const lora_test::GoldenSet& set) {
    const lora::Json golden = read_golden_json(set.folder / "text" / "chat.json");
    ASSERT_FALSE(golden.at("output").empty());
    for (const auto& [name, output] : golden.at("output").items()) expect_golden(golden, name);
  });
}

TEST(ChatTemplate, RecognisesTheTemplateOfATokenizersConfiguration) {
  LORA_NEEDS_SHARED("data/tokenizers/qwen2/tokenizer_config.json");
  const auto config =
      read_golden_json(shared_dir() / "data/tokenizers/qwen2/tokenizer_config.json");
  const auto jinja = config.at("chat_template").get<std::string>();
  EXPECT_EQ(ChatTemplate::recognised(jinja, "x").name(), "qwen2");
  EXPECT_EQ(ChatTemplate::recognised("\n " + jinja + "\r\n", "x").name(), "qwen2");
}

std::string message_of(auto&& call) {
  try {
    call();
  } catch (const lora::Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(ChatTemplate, RefusesUnknownNamesAndTextsWithTheListOfNames) {
  const std::string all =
      "chatml, qwen2, qwen2.5, qwen3, llama2, llama2-chat, llama3, llama3.1, llama3.2, mistral, "
      "mistral-v0.1, mistral-v0.2, gemma, phi3, deepseek-r1, alpaca, plain";
  EXPECT_EQ(message_of([] { ChatTemplate::named("qwen9"); }),
            "chat template \"qwen9\" is not known; there are " + all);
  EXPECT_EQ(message_of([] {
              ChatTemplate::recognised("{% for m in messages %}{{ m }}{% endfor %}",
                                       "tokenizer_config.json");
            }),
            "tokenizer_config.json: the chat template is none of the built-in ones (it begins with "
            "\"{% for m in messages %}{{ m }}{% endfor %}\"); choose one by name: " +
                all);
}

// The stretches as "text" or "[text]" where the loss counts it.
std::string marked(std::string_view name, const Conversation& conversation,
                   const RenderOptions& options = {"<s>", "</s>"}) {
  std::string out;
  for (const lora::RenderedPiece& piece :
       ChatTemplate::named(name).render(conversation, options).pieces) {
    out += piece.trained ? "[" + piece.text + "]" : piece.text;
  }
  return out;
}

const Conversation two_rounds{{{"user", "A", "", {}},
                               {"assistant", "B", "", {}},
                               {"user", "C", "", {}},
                               {"assistant", "D", "", {}}},
                              ""};

TEST(ChatTemplate, TheAnswerWithItsEndTokenIsTrained) {
  EXPECT_EQ(marked("chatml", two_rounds),
            "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n[B<|im_end|>]\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n[D<|im_end|>]\n");
  EXPECT_EQ(marked("qwen3", two_rounds),
            "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n[B<|im_end|>]\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"
            "[<think>\n\n</think>\n\nD<|im_end|>]\n");
  EXPECT_EQ(marked("llama2", two_rounds),
            "<s>[INST] A [/INST][ B </s>]<s>[INST] C [/INST][ D </s>]");
  EXPECT_EQ(marked("llama3", two_rounds),
            "<s><|start_header_id|>user<|end_header_id|>\n\nA<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n[B<|eot_id|>]"
            "<|start_header_id|>user<|end_header_id|>\n\nC<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n[D<|eot_id|>]");
  EXPECT_EQ(marked("mistral", two_rounds), "<s>[INST]A[/INST][B</s>][INST]C[/INST][D</s>]");
  EXPECT_EQ(marked("mistral-v0.1", two_rounds),
            "<s>[INST] A [/INST][B</s>] [INST] C [/INST][D</s>] ");
  EXPECT_EQ(marked("mistral-v0.2", two_rounds),
            "<s>[INST] A [/INST][B</s>][INST] C [/INST][D</s>]");
  EXPECT_EQ(marked("gemma", two_rounds),
            "<s><start_of_turn>user\nA<end_of_turn>\n<start_of_turn>model\n[B<end_of_turn>]\n"
            "<start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n[D<end_of_turn>]\n");
  EXPECT_EQ(marked("phi3", two_rounds),
            "<|user|>\nA<|end|>\n<|assistant|>\n[B<|end|>]\n<|user|>\nC<|end|>\n<|assistant|>\n"
            "[D<|end|>]\n</s>");
  EXPECT_EQ(marked("deepseek-r1", two_rounds),
            "<s><｜User｜>A<｜Assistant｜>[B<｜end▁of▁sentence｜>]<｜User｜>C<｜Assistant｜>"
            "[D<｜end▁of▁sentence｜>]");
  EXPECT_EQ(marked("plain", two_rounds), "A[B</s>]C[D</s>]");
}

TEST(ChatTemplate, AMessageMayBeLeftOutOfTheLoss) {
  Conversation conversation = two_rounds;
  conversation.messages[1].trained = false;
  EXPECT_EQ(marked("mistral", conversation), "<s>[INST]A[/INST]B</s>[INST]C[/INST][D</s>]");
}

TEST(ChatTemplate, AlpacasPrompt) {
  const Conversation with_input{{{"user", "Add.", "1 2", {}}, {"assistant", "3", "", {}}}, ""};
  EXPECT_EQ(marked("alpaca", with_input),
            "Below is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:[3</s>]");
  EXPECT_EQ(marked("alpaca", two_rounds),
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\nA\n\n### Response:[B</s>]\n\n"
            "### Instruction:\nC\n\n### Response:[D</s>]");
  const Conversation with_system{{{"system", "Be brief.", "", {}}, {"user", "A", "", {}}}, ""};
  EXPECT_EQ(marked("alpaca", with_system), "Be brief.\n\n### Instruction:\nA\n\n### Response:");
  EXPECT_EQ(marked("chatml", with_input),
            "<|im_start|>user\nAdd.\n1 2<|im_end|>\n<|im_start|>assistant\n[3<|im_end|>]\n");
}

TEST(ChatTemplate, Llama2AsTheChatModelsBringIt) {
  const Conversation conversation{{{"system", "S", "", {}}, {"user", " A ", "", {}}}, ""};
  EXPECT_EQ(marked("llama2", conversation), "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST]");
  EXPECT_EQ(marked("llama2-chat", conversation), "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n A [/INST]");
  EXPECT_EQ(marked("qwen2", {{{"user", "A", "", {}}}, ""}),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\nA<|im_end|>\n");
}

const Conversation with_tools{
    {{"user", "Rain?", "", {}},
     {"assistant",
      "",
      "",
      {},
      {},
      "[{\"name\": \"w\", \"arguments\": {\"t\":[1,2.50,\"\xC3\xBC\\n\"]}}]"},
     {"tool", "{\"a\": 1}", "", {}},
     {"tool", "x", "", {}},
     {"assistant", "No.", "", {}}},
    "[{\"name\":\"w\",\"p\":{}},{\"name\":\"v\"}]"};

const char* const two_calls =
    "[{\"name\": \"f\", \"arguments\": {\"x\": 1}}, {\"name\": \"g\", \"arguments\": "
    "\"{\\\"y\\\":2}\"}]";

TEST(ChatTemplate, FunctionsInQwensWay) {
  const std::string head =
      "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are "
      "provided with function signatures within <tools></tools> XML tags:\n<tools>\n{\"name\": "
      "\"w\", \"p\": {}}\n{\"name\": \"v\"}\n</tools>\n\nFor each function call, return a json "
      "object with function name and arguments within <tool_call></tool_call> XML tags:\n"
      "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>"
      "<|im_end|>\n";
  const std::string calls =
      "<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n[<tool_call>\n{\"name\": \"w\", "
      "\"arguments\": {\"t\": [1, 2.5, \"\xC3\xBC\\n\"]}}\n</tool_call><|im_end|>]\n"
      "<|im_start|>user\n<tool_response>\n{\"a\": 1}\n</tool_response>\n<tool_response>\nx\n"
      "</tool_response><|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(marked("qwen2.5", with_tools),
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant.\n\n" +
                head + calls + "[No.<|im_end|>]\n");
  EXPECT_EQ(marked("qwen3", with_tools),
            "<|im_start|>system\n" + head + calls + "[<think>\n\n</think>\n\nNo.<|im_end|>]\n");
}

TEST(ChatTemplate, FunctionsInLlama31sWay) {
  EXPECT_EQ(
      marked("llama3.1", with_tools),
      "<s><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nCutting Knowledge "
      "Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user"
      "<|end_header_id|>\n\nGiven the following functions, please respond with a JSON for a "
      "function call with its proper arguments that best answers the given prompt.\n\nRespond in "
      "the format {\"name\": function name, \"parameters\": dictionary of argument name and its "
      "value}.Do not use variables.\n\n{\n    \"name\": \"w\",\n    \"p\": {}\n}\n\n{\n    "
      "\"name\": \"v\"\n}\n\nRain?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
      "[{\"name\": \"w\", \"parameters\": {\"t\": [1, 2.5, \"\xC3\xBC\\n\"]}}<|eot_id|>]"
      "<|start_header_id|>ipython<|end_header_id|>\n\n\"{\\\"a\\\": 1}\"<|eot_id|>"
      "<|start_header_id|>ipython<|end_header_id|>\n\n\"x\"<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n[No.<|eot_id|>]");
}

TEST(ChatTemplate, Qwen3KeepsTheThinkingOfTheLastRoundOnly) {
  const Conversation conversation{{{"user", "A", "", {}},
                                   {"assistant", "<think>\nx\n</think>\n\nB", "", {}},
                                   {"user", "C", "", {}},
                                   {"assistant", "<think>\n\ny\n\n</think>\n\n\nD", "", {}}},
                                  ""};
  EXPECT_EQ(marked("qwen3", conversation),
            "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n[B<|im_end|>]\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"
            "[<think>\ny\n</think>\n\nD<|im_end|>]\n");
}

TEST(ChatTemplate, RefusalsNameTheTemplateAndTheReason) {
  const auto refusal = [](std::string_view name, const Conversation& conversation,
                          const RenderOptions& options = {"<s>", "</s>"}) {
    return message_of([&] { ChatTemplate::named(name).render(conversation, options); });
  };
  const Conversation robot{{{"robot", "A", "", {}}}, ""};
  const Conversation text{{{"text", "A", "", {}}}, ""};
  EXPECT_EQ(refusal("chatml", {}), "chat template chatml: the conversation is empty");
  EXPECT_EQ(refusal("chatml", with_tools), "chat template chatml: tools are not supported");
  for (const char* name :
       {"qwen2.5", "qwen3", "llama2", "phi3", "deepseek-r1", "alpaca", "plain"}) {
    EXPECT_EQ(refusal(name, robot), "chat template " + std::string(name) +
                                        ": role \"robot\" is not supported at this place");
  }
  for (const char* name : {"chatml", "llama3", "llama3.1"}) {
    EXPECT_EQ(refusal(name, text), "chat template " + std::string(name) +
                                       ": role \"text\" is not supported at this place");
  }
  const Conversation robot_second{{{"user", "A", "", {}}, {"robot", "A", "", {}}}, ""};
  EXPECT_EQ(refusal("gemma", robot_second),
            "chat template gemma: role \"robot\" is not supported at this place");
  EXPECT_EQ(refusal("mistral", robot_second),
            "chat template mistral: role \"robot\" is not supported at this place");
  EXPECT_EQ(refusal("mistral-v0.2", robot_second),
            "chat template mistral-v0.2: Only user and assistant roles are supported!");
  const Conversation twice{{{"user", "A", "", {}}, {"user", "A", "", {}}}, ""};
  const std::string alternate =
      "onversation roles must alternate user/assistant/user/assistant/...";
  EXPECT_EQ(refusal("gemma", twice), "chat template gemma: C" + alternate);
  EXPECT_EQ(refusal("llama2-chat", twice), "chat template llama2-chat: C" + alternate);
  EXPECT_EQ(refusal("mistral-v0.1", twice), "chat template mistral-v0.1: C" + alternate);
  EXPECT_EQ(refusal("mistral", twice),
            "chat template mistral: After the optional system message, c" + alternate);
  EXPECT_EQ(refusal("alpaca", two_rounds, {"", ""}),
            "chat template alpaca: ends an answer with the tokenizer's end token, and the "
            "tokenizer names none");
  EXPECT_EQ(refusal("plain", two_rounds, {"", ""}),
            "chat template plain: ends an answer with the tokenizer's end token, and the "
            "tokenizer names none");
}

TEST(ChatTemplate, RefusesFunctionsThatAreNoJson) {
  const auto refusal = [](std::string_view name, const Conversation& conversation) {
    return message_of([&] { ChatTemplate::named(name).render(conversation, {}); });
  };
  Conversation conversation{{{"user", "A", "", {}}, {"assistant", "", "", {}, {}, "w()"}}, ""};
  EXPECT_EQ(refusal("qwen2.5", conversation).substr(0, 59),
            "chat template qwen2.5: tool_calls: not valid JSON: byte 0: ");
  conversation.messages[1].tool_calls = "{}";
  EXPECT_EQ(refusal("qwen3", conversation), "chat template qwen3: tool_calls is not a JSON array");
  conversation.messages[1].tool_calls = "[{\"name\": \"w\"}]";
  EXPECT_EQ(refusal("llama3.1", conversation),
            "chat template llama3.1: a tool call is not a JSON object with name and arguments: "
            "{\"name\":\"w\"}");
  conversation.messages[1].tool_calls = "[{\"name\": \"w\", \"arguments\": \"{}\"}]";
  EXPECT_EQ(refusal("llama3.1", conversation), "accepted");
  conversation.messages[1].content = "B";
  EXPECT_EQ(refusal("llama3.1", conversation),
            "chat template llama3.1: content together with tool_calls is not supported");
  conversation.messages[1].content.clear();
  conversation.tools = "{}";
  EXPECT_EQ(refusal("qwen3", conversation), "chat template qwen3: tools is not a JSON array");
  conversation.tools = "[]";
  conversation.messages.erase(conversation.messages.begin());
  EXPECT_EQ(refusal("llama3.1", conversation),
            "chat template llama3.1: tools are described in the user's first turn, and the first "
            "turn is not a user's");
  conversation = {{{"user", "A", "", {}}, {"assistant", "", "", {}, {}, two_calls}}, ""};
  EXPECT_EQ(refusal("llama3.1", conversation),
            "chat template llama3.1: This model only supports single tool-calls at once!");
  for (const char* name : {"chatml", "qwen2", "llama2", "llama3", "mistral", "mistral-v0.1",
                           "gemma", "phi3", "deepseek-r1", "alpaca", "plain"}) {
    EXPECT_EQ(refusal(name, conversation),
              "chat template " + std::string(name) + ": tool_calls are not supported");
  }
}

// What follows is what transformers 5.24 renders from the same messages with the same Jinja text.

TEST(ChatTemplate, ThinkingIsShownAsTheJinjaTextDoes) {
  const Conversation one{{{"user", "2+2?", "", {}}, {"assistant", "4", "", {}, "add them"}}, ""};
  EXPECT_EQ(marked("qwen3", one),
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
            "[<think>\nadd them\n</think>\n\n4<|im_end|>]\n");
  // A field of its own means that the text is not searched for thinking, also where it is empty.
  const Conversation two{{{"user", "A", "", {}},
                          {"assistant", "B", "", {}, "\nx\n"},
                          {"user", "C", "", {}},
                          {"assistant", "\nD</think>E", "", {}, "\n y\n\n"}},
                         ""};
  EXPECT_EQ(marked("qwen3", two),
            "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n[B<|im_end|>]\n"
            "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"
            "[<think>\n y\n</think>\n\nD</think>E<|im_end|>]\n");
  EXPECT_EQ(ChatTemplate::named("qwen3").render(two, {}).left_out_thinking, 1);
  EXPECT_EQ(marked("qwen3",
                   {{{"user", "A", "", {}}, {"assistant", "<think>x</think>B", "", {}, ""}}, ""}),
            "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n"
            "[<think>\n\n</think>\n\n<think>x</think>B<|im_end|>]\n");
}

TEST(ChatTemplate, ThinkingThatATemplateDoesNotShowIsRefusedOrCounted) {
  const Conversation one{{{"user", "2+2?", "", {}}, {"assistant", "4", "", {}, "add them"}}, ""};
  for (const char* name : {"chatml", "qwen2", "qwen2.5", "llama2", "llama2-chat", "llama3",
                           "llama3.1", "llama3.2", "mistral", "mistral-v0.1", "mistral-v0.2",
                           "gemma", "phi3", "deepseek-r1", "alpaca", "plain"}) {
    EXPECT_EQ(message_of([&] {
                ChatTemplate::named(name).render(one, {"<s>", "</s>"});
              }),
              "chat template " + std::string(name) +
                  ": reasoning_content (thinking) is not supported: the template does not show it");
  }
  const Conversation inside{{{"user", "A", "", {}}, {"assistant", "<think>x</think>B", "", {}}},
                            ""};
  const lora::Rendered rendered =
      ChatTemplate::named("deepseek-r1").render(inside, {"<s>", "</s>"});
  EXPECT_EQ(rendered.text(), "<s><｜User｜>A<｜Assistant｜>B<｜end▁of▁sentence｜>");
  EXPECT_EQ(rendered.left_out_thinking, 1);
}

TEST(ChatTemplate, SettingsOfTheTemplate) {
  Conversation one{{{"user", "A", "", {}}, {"assistant", "B", "", {}}}, ""};
  one.enable_thinking = false;
  // The prompt that asks for an answer without thinking has the empty thought.
  const std::string prompt = "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(marked("qwen3", one), prompt + "<think>\n\n</think>\n\n[B<|im_end|>]\n");
  one.messages.pop_back();
  EXPECT_EQ(marked("qwen3", one, {"", "", GenerationPrompt::yes}),
            prompt + "<think>\n\n</think>\n\n");
  one.date = "01 Jan 2025";
  EXPECT_NE(marked("llama3.2", one).find("Today Date: 01 Jan 2025\n"), std::string::npos);
  EXPECT_EQ(ChatTemplate::named("qwen3").setting(), "enable_thinking");
  EXPECT_EQ(ChatTemplate::named("llama3.1").setting(), "date_string");
  EXPECT_EQ(ChatTemplate::named("qwen2.5").setting(), "");
}

TEST(ChatTemplate, SeveralCallsStandInOneTurnBehindTheText) {
  const Conversation calls{{{"user", "A", "", {}},
                            {"assistant", "Let me see.", "", {}, {}, two_calls},
                            {"tool", "T", "", {}},
                            {"assistant", "done", "", {}}},
                           ""};
  const std::string rest =
      "<|im_start|>user\n<tool_response>\nT\n</tool_response><|im_end|>\n"
      "<|im_start|>assistant\n";
  const std::string begin = "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n";
  const std::string first =
      "\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n"
      "</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": ";
  Conversation thinking = calls;
  thinking.messages[1].thinking = "hm";
  EXPECT_EQ(marked("qwen3", thinking), begin + "[<think>\nhm\n</think>\n\nLet me see." + first +
                                           "{\"y\":2}}\n</tool_call><|im_end|>]\n" + rest +
                                           "[<think>\n\n</think>\n\ndone<|im_end|>]\n");
  // transformers' tojson writes arguments that are a text in quotes.
  EXPECT_EQ(marked("qwen2.5", calls),
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant.<|im_end|>\n" +
                begin + "[Let me see." + first + "\"{\\\"y\\\":2}\"}\n</tool_call><|im_end|>]\n" +
                rest + "[done<|im_end|>]\n");
}

TEST(ChatTemplate, ArgumentsThatAreATextAreWrittenAsTransformersWritesThem) {
  Conversation call{{{"user", "A", "", {}}, {"assistant", "", "", {}}}, ""};
  const auto rendered = [&](const char* name, const char* arguments) {
    call.messages[1].tool_calls = std::string("[{\"name\":\"f\",\"arguments\":") + arguments + "}]";
    return ChatTemplate::named(name).render(call, {"<s>", "</s>"});
  };
  const auto ends = [&](const char* name, const char* arguments, std::string_view end) {
    const std::string text = rendered(name, arguments).text();
    EXPECT_TRUE(text.ends_with(end)) << name << " " << text;
  };
  const char *const object = R"({"x":1})", *const text = R"("{\"x\":1}")";
  ends("llama3.1", object, R"({"name": "f", "parameters": {"x": 1}}<|eot_id|>)");
  ends("llama3.1", text, R"({"name": "f", "parameters": "{\"x\":1}"}<|eot_id|>)");
  ends("qwen2.5", object, "{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call><|im_end|>\n");
  ends("qwen2.5", text,
       "{\"name\": \"f\", \"arguments\": \"{\\\"x\\\":1}\"}\n</tool_call><|im_end|>\n");
  ends("qwen3", text, "{\"name\": \"f\", \"arguments\": {\"x\":1}}\n</tool_call><|im_end|>\n");
  EXPECT_EQ(rendered("qwen2.5", text).quoted_arguments, 1);
  EXPECT_EQ(rendered("llama3.2", text).quoted_arguments, 1);
  EXPECT_EQ(rendered("qwen3", text).quoted_arguments, 0);
  EXPECT_EQ(rendered("qwen2.5", object).quoted_arguments, 0);
}

// transformers renders it with Llama 3's and ChatML's Jinja text; the others drop it without a word.
TEST(ChatTemplate, ADevelopersTurnIsShownOrRefused) {
  const Conversation conversation{
      {{"developer", "D", "", {}}, {"user", "A", "", {}}, {"assistant", "B", "", {}}}, ""};
  const std::string header = "<|start_header_id|>", end = "<|end_header_id|>\n\n";
  EXPECT_EQ(marked("llama3.1", conversation),
            "<s>" + header + "system" + end +
                "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>" +
                header + "developer" + end + "D<|eot_id|>" + header + "user" + end + "A<|eot_id|>" +
                header + "assistant" + end + "[B<|eot_id|>]");
  EXPECT_EQ(marked("chatml", conversation),
            "<|im_start|>developer\nD<|im_end|>\n<|im_start|>user\nA<|im_end|>\n"
            "<|im_start|>assistant\n[B<|im_end|>]\n");
  for (const char* name : {"qwen2.5", "qwen3", "phi3", "deepseek-r1", "gemma", "mistral"})
    EXPECT_THROW(ChatTemplate::named(name).render(conversation, {"<s>", "</s>"}),
                 lora::ConfigError);
}

TEST(ChatTemplate, TheEndOfATurnIsOneToken) {
  for (const char* name : {"chatml", "llama2", "llama3", "llama3.1", "mistral", "gemma", "phi3",
                           "deepseek-r1", "alpaca", "plain"}) {
    const lora::Rendered rendered = ChatTemplate::named(name).render(two_rounds, {"<s>", "</s>"});
    const std::string text = rendered.text();
    EXPECT_EQ(rendered.size, text.size());
    Index ends = 0;
    for (const lora::RenderedToken& token : rendered.tokens) {
      const std::string written = text.substr(token.begin, token.end - token.begin);
      EXPECT_TRUE(written.front() == '<' && written.back() == '>') << name << written;
      if (token.ends_turn) ++ends;
    }
    EXPECT_GE(ends, 2) << name;
  }
  EXPECT_EQ(ChatTemplate::named("phi3").markers().size(), 4u);
  EXPECT_TRUE(ChatTemplate::named("plain").markers().empty());
}

TEST(ChatTemplate, TokensThatAreNotNamed) {
  for (const char* name : {"llama2", "llama2-chat", "mistral", "mistral-v0.1", "mistral-v0.2",
                           "phi3", "alpaca", "plain"}) {
    EXPECT_EQ(message_of([&] {
                ChatTemplate::named(name).render(two_rounds, {"<s>", ""});
              }),
              "chat template " + std::string(name) +
                  ": ends an answer with the tokenizer's end token, and the tokenizer names none");
  }
  EXPECT_TRUE(ChatTemplate::named("llama3").render(two_rounds, {"", ""}).lacks_begin);
  EXPECT_FALSE(ChatTemplate::named("llama3").render(two_rounds, {"<s>", ""}).lacks_begin);
  EXPECT_FALSE(ChatTemplate::named("chatml").render(two_rounds, {"", ""}).lacks_begin);
}

TEST(ChatTemplate, ATextThatBringsItsEndGetsNoSecond) {
  const Conversation pair{{{"user", "A", "", {}}, {"assistant", "B</s>", "", {}}}, ""};
  EXPECT_EQ(marked("plain", pair), "A[B</s>]");
  EXPECT_TRUE(ChatTemplate::named("plain").render(pair, {"<s>", "</s>"}).brought_end);
  EXPECT_TRUE(marked("alpaca", pair).ends_with("### Response:[B</s>]"));
  EXPECT_EQ(marked("plain", {{{"text", "A</s>\n", "", {}}}, ""}), "[A</s>\n</s>]");
  Conversation segments{{{"text", "<s>A", "", false}, {"text", "B", "", true}}, ""};
  segments.kind = lora::RecordKind::segments;
  EXPECT_EQ(marked("plain", segments), "<s>A[B]");
  segments.messages[0].role = "user";
  EXPECT_EQ(message_of([&] { marked("plain", segments); }),
            "chat template plain: role \"user\" is not supported at this place");
}

}  // namespace chat_template_test
