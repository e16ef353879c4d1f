// Reads the tokens that the small files beside a vocabulary add, and the roles of some (begin, end,
// padding): tokenizer_config.json, special_tokens_map.json, added_tokens.json.
#pragma once

#include <lora/io/json_fields.hpp>
#include <lora/text/tokenizer/tokenizer.hpp>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

namespace special_tokens {

/// Reads an entry of a list of added tokens, without its id.
inline AddedToken read_added_token(JsonFields& fields) {
  AddedToken token;
  token.content = fields.text("content");
  token.single_word = fields.flag("single_word", false);
  token.lstrip = fields.flag("lstrip", false);
  token.rstrip = fields.flag("rstrip", false);
  token.special = fields.flag("special", false);
  token.normalized = fields.flag("normalized", !token.special);
  return token;
}

/// The growing list of a tokenizer's added tokens. Refers to the specification, which must outlive
/// it and whose vocabulary must not change.
class AddedVocabulary {
 public:
  explicit AddedVocabulary(TokenizerSpec& spec) : spec_(spec) {
    for (const auto& [token, id] : spec.model.vocab) known_.add(token, id);
    next_id_ = static_cast<std::uint32_t>(spec.model.vocab.size());
    for (std::size_t i = 0; i < spec.added.size(); ++i) note_place(i);
  }

  bool is_added(const std::string& content) const { return places_.find(content) != no_token; }
  std::optional<std::uint32_t> find(const std::string& content) const {
    if (const std::uint32_t place = places_.find(content); place != no_token)
      return spec_.added[place].id;
    const std::uint32_t found = known_.find(content);
    return found == no_token ? std::nullopt : std::optional<std::uint32_t>(found);
  }

  /// Adds `token` as Tokenizer.add_tokens of the tokenizers library does: a known text keeps its id
  /// and takes the new flags; a new text gets the next id after the vocabulary and all added
  /// tokens. If `where` asks for another id, adds a notice.
  void add(AddedToken token, std::optional<std::uint32_t> asked, const std::string& where) {
    if (token.content.empty()) return;
    const auto known = find(token.content);
    token.id = known ? *known : next_id_;
    if (asked && *asked != token.id) {
      spec_.notices.push_back(where + ": " + in_quotes(token.content) + " has id " +
                              std::to_string(*asked) + ", but the tokenizers library numbers it " +
                              std::to_string(token.id) + ", and so is it here");
    }
    if (const std::uint32_t place = places_.find(token.content); place != no_token) {
      AddedToken& old = spec_.added[place];
      token.special = token.special || old.special;  // the library never removes one
      old = std::move(token);
    } else {
      spec_.added.push_back(std::move(token));
      note_place(spec_.added.size() - 1);
    }
  }

 private:
  void note_place(std::size_t i) {
    places_.add(spec_.added[i].content, static_cast<std::uint32_t>(i));
    next_id_ = std::max(next_id_, spec_.added[i].id + 1);
  }

  TokenizerSpec& spec_;
  TokenTable known_, places_;  // not std::unordered_map: untrusted keys could collide
  std::uint32_t next_id_ = 0;
};

/// The small files of a directory; null if absent.
struct Files {
  const Json* config = nullptr;  ///< tokenizer_config.json
  const Json* map = nullptr;     ///< special_tokens_map.json
  const Json* added = nullptr;   ///< added_tokens.json
  std::string directory;         ///< named in messages
  std::string path(const char* name) const { return directory + "/" + name; }
};

/// A token and its role, such as "bos_token".
struct Named {
  std::string part;
  AddedToken token;
};

inline constexpr std::array<const char*, 7> standard_parts = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

/// Reads a token that is written as its text or as an object with text and flags.
inline AddedToken read_token(JsonFields& fields, const std::string& name) {
  AddedToken token;
  if (fields.need(name).is_object()) {
    JsonFields object = fields.object(name);
    token = read_added_token(object);
    token.normalized = object.flag("normalized", false);
  } else {
    token.content = fields.text(name);
  }
  token.special = true;
  return token;
}

enum class File { config, map };

/// The tokens that the files name, in the order in which transformers adds them.
class NamedTokens {
 public:
  /// Reads tokenizer_config.json, and after it special_tokens_map.json, whose roles override the
  /// first file's and whose other tokens are appended.
  void read(JsonFields& fields, const Json& json, File file) {
    for (const char* part : standard_parts) {
      const auto field = json.find(part);
      if (field == json.end()) continue;
      given_.insert(part);
      erase(part);
      if (!field->is_null()) set(part, read_token(fields, part));
    }
    for (const auto& [name, value] : json.items()) {
      const std::string_view ending = "_token";
      if (!value.is_string() || name.size() <= ending.size() || !name.ends_with(ending)) continue;
      if (std::find(standard_parts.begin(), standard_parts.end(), name) == standard_parts.end())
        set(name, read_token(fields, name));
    }
    if (!read_list(fields, "extra_special_tokens", file) && extra_.empty() &&
        read_list(fields, "additional_special_tokens", file) && file == File::map) {
      unmarked_ = true;
    }
  }
  /// Sets the default of a tokenizer class for a role that no file names.
  void set_default(const std::string& part, const std::string& content) {
    if (given_.count(part) > 0) return;
    AddedToken token;
    token.content = content;
    token.special = true;
    set(part, std::move(token));
  }
  const AddedToken* find(std::string_view part) const {
    const auto place = places_.find(part);
    if (place == places_.end() || named_[place->second].token.content.empty()) return nullptr;
    return &named_[place->second].token;
  }
  bool has_part(const std::string& content) const { return contents_.count(content) > 0; }
  /// Whether the token of this text in added_tokens.json is special.
  bool marks(const std::string& content) const {
    return has_part(content) || (!unmarked_ && extra_contents_.count(content) > 0);
  }
  template <class Fn>
  void for_each(Fn&& fn) const {
    for (const Named& named : named_) {
      if (!named.token.content.empty()) fn(named.token);
    }
    for (const AddedToken& token : extra_) fn(token);
  }

 private:
  // A replaced entry stays in the list without its text.
  void erase(std::string_view part) {
    const auto place = places_.find(part);
    if (place == places_.end()) return;
    AddedToken& token = named_[place->second].token;
    contents_.erase(contents_.find(token.content));
    token.content.clear();
    places_.erase(place);
  }
  void set(const std::string& part, AddedToken token) {
    erase(part);
    places_[part] = named_.size();
    contents_.insert(token.content);
    named_.push_back({part, std::move(token)});
  }
  // Reads a list of tokens. Returns whether it exists and is not empty.
  bool read_list(JsonFields& fields, const std::string& name, File file) {
    const Json* const list = fields.find(name);
    if (list == nullptr || list->empty()) return false;
    if (list->is_object()) {
      JsonFields all = fields.object(name);
      for (const auto& [part, value] : list->items()) set(part, read_token(all, part));
      return true;
    }
    if (!list->is_array()) fields.refuse(name, "expected a list or an object of tokens");
    for (std::size_t i = 0; i < list->size(); ++i) {
      AddedToken token;
      bool typed = false;
      if ((*list)[i].is_object()) {
        JsonFields object = fields.element(name, i);
        token = read_added_token(object);
        // Such an object says whether it is special. Transformers marks all tokens of one list.
        typed = object.text("__type", "") == "AddedToken" &&
                !(file == File::map && name == "extra_special_tokens");
        if (!typed) token.normalized = object.flag("normalized", false);
      } else if ((*list)[i].is_string()) {
        token.content = (*list)[i].get<std::string>();
      } else {
        fields.refuse(name, "holds " + printable((*list)[i].dump()) + ", expected a token");
      }
      token.special = token.special || !typed;
      extra_contents_.insert(token.content);
      extra_.push_back(std::move(token));
    }
    return true;
  }

  std::vector<Named> named_;
  std::map<std::string, std::size_t, std::less<>> places_;  // of a role in named_
  std::multiset<std::string> contents_;                     // of tokens with a role
  std::vector<AddedToken> extra_;
  std::set<std::string> given_, extra_contents_;
  bool unmarked_ = false;  // transformers ignores this list of special_tokens_map.json
};

using ById = std::map<std::uint32_t, AddedToken>;

inline std::uint32_t token_id(const JsonFields& fields, const char* name, const std::string& id) {
  if (id.empty() || id.size() > 7 || id.find_first_not_of("0123456789") != id.npos)
    fields.refuse(name, in_quotes(id) + " is not an id");
  return static_cast<std::uint32_t>(std::stoul(id));
}

// Reads added_tokens_decoder of tokenizer_config.json.
inline ById read_added_tokens_decoder(JsonFields& config) {
  ById all;
  JsonFields list = config.object("added_tokens_decoder");
  for (const auto& [id, value] : config.need("added_tokens_decoder").items()) {
    JsonFields fields = list.object(id);
    AddedToken token = read_added_token(fields);
    fields.expect_no_more();
    token.id = token_id(config, "added_tokens_decoder", id);
    all[token.id] = std::move(token);
  }
  return all;
}

// Reads added_tokens.json: texts and ids. A token that no other file names is an ordinary one.
inline ById read_added_tokens_file(const Json& json, const std::string& where,
                                   const NamedTokens& named) {
  ById all;
  for (const auto& [content, id] : expect_object(json, where).items()) {
    AddedToken token;
    token.content = content;
    token.special = named.marks(content);
    token.normalized = !token.special;
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > Bpe::largest_id) {
      throw FormatError(where + ": " + in_quotes(content) + " has id " + printable(id.dump()) +
                        ", expected a whole number up to " + std::to_string(Bpe::largest_id));
    }
    token.id = id.get<std::uint32_t>();
    all[token.id] = std::move(token);
  }
  return all;
}

}  // namespace special_tokens

/// Adds to `spec` what the small files add, as transformers 5 does:
/// - the tokens of added_tokens_decoder in the order of their ids; if tokenizer_config.json has no
///   such field, special_tokens_map.json over tokenizer_config.json, and the tokens of
///   added_tokens.json instead;
/// - each token with a role (bos_token, pad_token, image_token ...);
/// - extra_special_tokens or additional_special_tokens.
/// Sets bos_token, eos_token and pad_token. `defaults` are roles that the tokenizer class fills if
/// the files do not name them and the vocabulary has the token.
/// Throws: FormatError that names the file and the field.
inline void add_special_tokens(const special_tokens::Files& files,
                               const std::vector<std::pair<std::string, std::string>>& defaults,
                               TokenizerSpec& spec) {
  namespace st = special_tokens;
  st::AddedVocabulary vocabulary(spec);
  st::NamedTokens named;
  st::ById by_id;
  std::string where = files.path("tokenizer_config.json");
  bool whole = false;  // tokenizer_config.json is complete
  if (files.config != nullptr) {
    JsonFields config(*files.config, where);
    named.read(config, *files.config, st::File::config);
    whole = config.find("added_tokens_decoder") != nullptr;
    if (whole) by_id = st::read_added_tokens_decoder(config);
  }
  if (!whole) {
    if (files.map != nullptr) {
      JsonFields map(*files.map, files.path("special_tokens_map.json"));
      named.read(map, *files.map, st::File::map);
    }
    where = files.path("added_tokens.json");
    if (files.added != nullptr) by_id = st::read_added_tokens_file(*files.added, where, named);
    for (const AddedToken& token : spec.added) by_id[token.id] = token;
  }
  for (auto& [id, token] : by_id) {
    token.special = token.special || named.has_part(token.content);
    vocabulary.add(token, id, where);
  }
  for (const auto& [part, content] : defaults) {
    if (vocabulary.find(content)) named.set_default(part, content);
  }
  std::vector<AddedToken> further;
  named.for_each([&](const AddedToken& token) {
    if (!vocabulary.is_added(token.content)) further.push_back(token);
  });
  for (AddedToken& token : further) {  // a text may appear twice with different flags
    token.special = token.special || named.has_part(token.content);
    vocabulary.add(std::move(token), std::nullopt, "");
  }
  const auto take = [&](const char* part, std::optional<std::string>& text) {
    if (const AddedToken* const token = named.find(part); token != nullptr) text = token->content;
  };
  take("bos_token", spec.bos_token);
  take("eos_token", spec.eos_token);
  take("pad_token", spec.pad_token);
}

}  // namespace lora
