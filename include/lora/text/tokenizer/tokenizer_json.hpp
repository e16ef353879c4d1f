// Reads tokenizer.json, as HuggingFace's tokenizers writes it.
#pragma once

#include <lora/io/json_fields.hpp>
#include <lora/text/tokenizer/special_tokens.hpp>
#include <lora/text/tokenizer/tokenizer.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// Parses the text of a tokenizer.json; `where` names the file. Supports
/// - BPE models, byte-level (ByteLevel pre-tokenizer and decoder) or of characters with byte
///   fallback (SentencePiece, spaces marked by normalizers or Metaspace);
/// - the normalizers NFC, Prepend, Replace and Strip;
/// - the pre-tokenizers Split (see TextPattern), Digits, Punctuation, Whitespace and
///   WhitespaceSplit before and after ByteLevel and before Metaspace;
/// - TemplateProcessing and added tokens.
/// Ignores `truncation` and `padding`, as transformers does.
/// Throws: FormatError that names the file and the path in it, for anything else that would change
///   ids or text.
inline TokenizerSpec parse_tokenizer_json(std::string_view text, const std::string& where);

namespace tokenizer_json {

// Returns the members of a Sequence, or the single step.
inline std::vector<JsonFields> members(JsonFields fields, const std::string& list) {
  if (fields.text("type") != "Sequence") return {std::move(fields)};
  std::vector<JsonFields> all;
  for (std::size_t i = 0; i < fields.array(list).size(); ++i)
    all.push_back(fields.element(list, i));
  if (all.size() > 100) fields.refuse(list, "has more than 100 members");
  fields.expect_no_more();
  return all;
}

inline void refuse_type(const JsonFields& fields, const std::string& type,
                        const std::string& known) {
  fields.refuse("type", in_quotes(type) + " is not supported, only " + known);
}

// What a Replace or a Split searches for: a text or a regular expression.
struct ReadPattern {
  std::string literal, regex;
  std::optional<TextPattern> pattern;
};
inline ReadPattern read_pattern(JsonFields& fields) {
  JsonFields pattern = fields.object("pattern");
  ReadPattern out;
  if (pattern.find("Regex") != nullptr) {
    out.regex = pattern.text("Regex");
    try {
      out.pattern.emplace(out.regex);
    } catch (const ConfigError& error) {
      pattern.refuse("Regex", error.what());
    }
  } else {
    out.literal = pattern.text("String");
    if (out.literal.empty()) pattern.refuse("String", "is empty");
  }
  pattern.expect_no_more();
  return out;
}

inline void read_normalizer(JsonFields& top, TokenizerSpec& spec) {
  using Kind = TextStep::Kind;
  if (top.find("normalizer") == nullptr) return;
  for (JsonFields& step : members(top.object("normalizer"), "normalizers")) {
    const std::string type = step.text("type");
    if (type == "NFC") {
      spec.normalizer.push_back({Kind::nfc, "", ""});
    } else if (type == "Prepend") {
      spec.normalizer.push_back({Kind::prepend, "", step.text("prepend")});
    } else if (type == "Replace") {
      ReadPattern pattern = read_pattern(step);
      spec.normalizer.push_back({Kind::replace, std::move(pattern.literal), step.text("content"),
                                 std::move(pattern.pattern)});
    } else if (type == "Strip") {
      if (step.flag("strip_left", true)) spec.normalizer.push_back({Kind::strip_left, "", ""});
      if (step.flag("strip_right", true)) spec.normalizer.push_back({Kind::strip_right, "", ""});
    } else {
      refuse_type(step, type, "NFC, Prepend, Replace, Strip and Sequence");
    }
    step.expect_no_more();
  }
}

inline void read_metaspace(JsonFields& fields, TokenizerSpec& spec) {
  const std::string mark = fields.text("replacement");
  if (mark != space_mark) fields.refuse("replacement", in_quotes(mark) + ", expected U+2581");
  std::string scheme = fields.text("prepend_scheme", "always");
  // Files from before 2024 have this field instead.
  if (!fields.flag("add_prefix_space", true)) scheme = "never";
  fields.ignore("str_rep");
  spec.pre_tokenizer.push_back({TextStep::Kind::replace, " ", mark});
  if (scheme == "always") {
    spec.pre_tokenizer.push_back({TextStep::Kind::prepend_unless_there, "", mark});
  } else if (scheme == "first") {
    spec.pre_tokenizer.push_back({TextStep::Kind::prepend_first, "", mark});
  } else if (scheme != "never") {
    fields.refuse("prepend_scheme",
                  in_quotes(scheme) + " is not supported, only always, first and never");
  }
  spec.split = fields.flag("split", true) ? WordSplit::before_mark : WordSplit::none;
}

inline TextCut::Behavior read_behavior(JsonFields& fields, const std::string& fallback) {
  const std::string name = fields.text("behavior", fallback);
  using Behavior = TextCut::Behavior;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "Removed") return Behavior::removed;
  if (name == "MergedWithPrevious") return Behavior::with_previous;
  if (name == "MergedWithNext") return Behavior::with_next;
  if (name != "Contiguous") fields.refuse("behavior", in_quotes(name) + " is not supported");
  return Behavior::contiguous;
}

// Reads a pre-tokenizer that only cuts; returns false for any other type.
inline bool read_cut(JsonFields& fields, const std::string& type, TextCut& cut) {
  using Behavior = TextCut::Behavior;
  if (type == "Split") {
    ReadPattern pattern = read_pattern(fields);
    cut.find = pattern.pattern ? TextCut::Find::pattern : TextCut::Find::literal;
    cut.pattern = std::move(pattern.pattern);
    cut.literal = std::move(pattern.literal);
    cut.behavior = read_behavior(fields, "");
    cut.invert = fields.flag("invert", false);
  } else if (type == "Digits") {
    cut.find = TextCut::Find::digit;
    cut.behavior =
        fields.flag("individual_digits", false) ? Behavior::isolated : Behavior::contiguous;
  } else if (type == "Punctuation") {
    cut.find = TextCut::Find::punctuation;
    cut.behavior = read_behavior(fields, "Isolated");
  } else if (type == "WhitespaceSplit" || type == "Whitespace") {
    cut.find = type == "Whitespace" ? TextCut::Find::word : TextCut::Find::space;
    cut.behavior = Behavior::removed;
    cut.invert = type == "Whitespace";
  } else {
    return false;
  }
  return true;
}

inline void read_byte_level(JsonFields& fields, TokenizerSpec& spec) {
  if (fields.flag("add_prefix_space", true))
    spec.pre_tokenizer.push_back({TextStep::Kind::prepend_unless_there, "", " "});
  fields.ignore("trim_offsets");
  if (fields.flag("use_regex", true)) {
    spec.split = WordSplit::gpt2;
    return;
  }
  // The known expressions match every character, so keeping matches equals cutting between them,
  // which has a faster scanner.
  if (spec.cuts.empty() || !spec.cuts.back().pattern || !spec.pre_tokenizer.empty()) return;
  const TextCut& last = spec.cuts.back();
  const auto split = split_of_regex(last.pattern->text());
  if (!split ||
      last.behavior != (last.invert ? TextCut::Behavior::removed : TextCut::Behavior::isolated)) {
    return;
  }
  spec.split = *split;
  spec.cuts.pop_back();
}

inline void read_pre_tokenizer(JsonFields& top, TokenizerSpec& spec) {
  spec.model.byte_level = false;
  if (top.find("pre_tokenizer") == nullptr) return;
  bool metaspace = false;
  for (JsonFields& step : members(top.object("pre_tokenizer"), "pretokenizers")) {
    const std::string type = step.text("type");
    TextCut cut;
    if (metaspace || (spec.model.byte_level && (type == "ByteLevel" || type == "Metaspace")))
      step.refuse("type", in_quotes(type) + " is not supported at this place");
    if (type == "ByteLevel") {
      read_byte_level(step, spec);
      spec.model.byte_level = true;
    } else if (type == "Metaspace") {
      read_metaspace(step, spec);
      metaspace = true;
    } else if (read_cut(step, type, cut)) {
      (spec.model.byte_level ? spec.spelled_cuts : spec.cuts).push_back(std::move(cut));
    } else {
      refuse_type(step, type,
                  "ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit "
                  "and Sequence");
    }
    step.expect_no_more();
  }
}

inline std::pair<std::string, std::string> read_merge(const Json& merge, const std::string& where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  throw FormatError(where + ": is neither \"left right\" nor [\"left\", \"right\"]");
}

// Reads the object of tokens and their ids.
inline void read_ids(const Json& vocab, const std::string& where, BpeSpec& model) {
  model.vocab.reserve(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > Bpe::largest_id) {
      throw FormatError(where + ": " + in_quotes(token) + " has id " + printable(id.dump()) +
                        ", expected a whole number up to " + std::to_string(Bpe::largest_id));
    }
    model.vocab.emplace_back(token, id.get<std::uint32_t>());
  }
}

inline void read_vocabulary(JsonFields& fields, BpeSpec& model) {
  const Json& vocab = fields.field("vocab").object();
  read_ids(vocab, fields.path("vocab"), model);
  const Json& merges = fields.array("merges");
  model.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    model.merges.push_back(
        read_merge(merges[i], fields.path("merges") + "[" + std::to_string(i) + "]"));
  }
}

inline void read_model(JsonFields fields, BpeSpec& model) {
  if (const std::string type = fields.text("type", "BPE"); type != "BPE")
    refuse_type(fields, type, "BPE");
  if (const Json* dropout = fields.find("dropout"); dropout != nullptr && *dropout != 0.0)
    fields.refuse("dropout", printable(dropout->dump()) + " is not supported");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const std::string text = fields.text(affix, ""); !text.empty())
      fields.refuse(affix, in_quotes(text) + " is not supported");
  }
  model.fuse_unk = fields.flag("fuse_unk", false);
  model.byte_fallback = fields.flag("byte_fallback", false);
  model.ignore_merges = fields.flag("ignore_merges", false);
  if (const std::string unknown = fields.text("unk_token", ""); !unknown.empty())
    model.unk_token = unknown;
  read_vocabulary(fields, model);
  fields.expect_no_more();
}

inline void read_added_tokens(JsonFields& top, TokenizerSpec& spec) {
  if (top.find("added_tokens") == nullptr) return;
  special_tokens::AddedVocabulary vocabulary(spec);
  for (std::size_t i = 0; i < top.array("added_tokens").size(); ++i) {
    JsonFields fields = top.element("added_tokens", i);
    const AddedToken token = special_tokens::read_added_token(fields);
    const std::uint32_t id = fields.integer<std::uint32_t>("id", 0, 0x7FFFFFFF);
    fields.expect_no_more();
    vocabulary.add(token, id, top.path("added_tokens[" + std::to_string(i) + "]"));
  }
}

inline void read_template(JsonFields& fields, TokenizerSpec& spec) {
  JsonFields specials = fields.object("special_tokens");
  fields.ignore("pair");
  bool text_seen = false;
  for (std::size_t i = 0; i < fields.array("single").size(); ++i) {
    JsonFields part = fields.element("single", i);
    if (part.find("Sequence") != nullptr) {
      const std::string id = part.object("Sequence").text("id");
      if (id != "A" || text_seen) part.refuse("Sequence", "is not the one text \"A\"");
      text_seen = true;
    } else {
      JsonFields token = specials.object(part.object("SpecialToken").text("id"));
      const Json& ids = token.array("ids");
      for (const Json& id : ids) {
        if (!id.is_number_unsigned() || id.get<std::uint64_t>() > Bpe::largest_id)
          token.refuse("ids", "holds " + printable(id.dump()) + ", expected an id");
        (text_seen ? spec.after : spec.before).push_back(id.get<std::uint32_t>());
        if (spec.after.size() + spec.before.size() > 1000)
          fields.refuse("single", "adds more than 1000 ids");
      }
    }
    part.expect_no_more();
  }
  if (!text_seen) fields.refuse("single", "has no place for the text");
}

inline void read_post_processor(JsonFields& top, TokenizerSpec& spec) {
  if (top.find("post_processor") == nullptr) return;
  bool seen = false;
  for (JsonFields& step : members(top.object("post_processor"), "processors")) {
    const std::string type = step.text("type");
    if (type == "ByteLevel") continue;  // moves offsets only
    if (type != "TemplateProcessing" || seen)
      refuse_type(step, type, "ByteLevel and one TemplateProcessing");
    read_template(step, spec);
    step.expect_no_more();
    seen = true;
  }
}

inline void read_decoder(JsonFields& top, TokenizerSpec& spec) {
  DecoderSpec& decoder = spec.decoder;
  decoder.byte_level = false;
  bool fused = false;
  for (JsonFields& step : members(top.object("decoder"), "decoders")) {
    const std::string type = step.text("type");
    if (decoder.byte_level || (fused && type != "Strip"))
      step.refuse("type", in_quotes(type) + " is not supported at this place");
    if (type == "ByteLevel") {
      for (const char* ignored : {"add_prefix_space", "trim_offsets", "use_regex"})
        step.ignore(ignored);
      decoder.byte_level = true;
    } else if (type == "Replace") {
      if (read_pattern(step).literal != space_mark || step.text("content") != " ")
        step.refuse("pattern", "is not supported, only U+2581 to a space");
      decoder.marks_to_spaces = true;
    } else if (type == "ByteFallback") {
      decoder.byte_fallback = true;
    } else if (type == "Fuse") {
      fused = true;
    } else if (type == "Strip" && fused) {
      if (step.text("content") != " ") step.refuse("content", "is not supported, only a space");
      if (step.integer("stop", 0, 0x7FFFFFFF) != 0) step.refuse("stop", "is not supported, only 0");
      decoder.strip_left = step.integer<std::uint32_t>("start", 0, 0x7FFFFFFF);
    } else {
      refuse_type(step, type, "ByteLevel, or Replace, ByteFallback, Fuse and Strip in this order");
    }
    step.expect_no_more();
  }
  if (decoder.byte_level != spec.model.byte_level) {
    top.refuse("decoder", decoder.byte_level ? "is ByteLevel, but the pre_tokenizer is not"
                                             : "is not ByteLevel, but the pre_tokenizer is");
  }
  if (!decoder.byte_level && !fused) top.refuse("decoder", "has no Fuse");
}

}  // namespace tokenizer_json

inline TokenizerSpec parse_tokenizer_json(std::string_view text, const std::string& where) {
  const Json json = parse_json(text, where);
  JsonFields top(json, where);
  TokenizerSpec spec;
  spec.model.where = where;
  for (const char* name : {"version", "truncation", "padding"}) top.ignore(name);
  tokenizer_json::read_normalizer(top, spec);
  tokenizer_json::read_pre_tokenizer(top, spec);
  tokenizer_json::read_model(top.object("model"), spec.model);
  tokenizer_json::read_added_tokens(top, spec);
  tokenizer_json::read_post_processor(top, spec);
  tokenizer_json::read_decoder(top, spec);
  top.expect_no_more();
  return spec;
}

}  // namespace lora
