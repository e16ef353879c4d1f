// Lets libFuzzer change JSON as JSON: values, keys, nesting, numbers at limits, escapes, parts of other inputs. Bytes
// changed at random are hardly ever JSON, and what lies behind the parser is never reached. An input is a list of parts with
// a zero byte between two; those that parse, or have lines that do, are changed as trees, the others as bytes.
// Include it once in a target, which says the words of its format: lora_fuzz::words().
#pragma once

#include <lora/core/random.hpp>
#include <lora/io/json.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace lora_fuzz {

/// Names of fields and values that mean something to the reader.
std::span<const std::string_view> words();

class JsonMutator {
 public:
  using Json = lora::Json;

  explicit JsonMutator(std::uint64_t seed) : state_(seed) {}

  std::string mutate(std::string_view input, std::size_t max_size) {
    std::vector<std::string> parts = split(input, '\0');
    std::string& part = parts[below(parts.size())];
    if (below(32) == 0) return bytes(std::string(input), max_size);
    change(part, [this](Json& root) {
      for (std::size_t i = 1 + below(4); i > 0; --i) edit(root);
    });
    return joined(parts, '\0');
  }

  std::string cross(std::string_view input, std::string_view other) {
    std::vector<std::string> parts = split(input, '\0'), others = split(other, '\0');
    const std::size_t k = below(parts.size());
    const std::string& from = others[std::min(k, others.size() - 1)];
    Json donor;
    if (below(8) == 0 || !parse_or_line(from, donor)) {
      parts[k] = from;
    } else {
      change(parts[k], [&](Json& root) { any(root) = Json(any(donor)); });
    }
    return joined(parts, '\0');
  }

 private:
  std::size_t below(std::size_t n) {
    state_ = lora::mix64(state_ + 0x9E3779B97F4A7C15u);
    return static_cast<std::size_t>(state_ >> 16) % n;
  }

  static std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    for (std::size_t at = 0; at <= text.size();) {
      const std::size_t end = std::min(text.find(separator, at), text.size());
      parts.emplace_back(text.substr(at, end - at));
      at = end + 1;
    }
    return parts;
  }
  static std::string joined(const std::vector<std::string>& parts, char separator) {
    std::string all;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (i > 0) all += separator;
      all += parts[i];
    }
    return all;
  }
  static bool parse(const std::string& text, Json& json) {
    json = Json::parse(text, nullptr, false);
    return !json.is_discarded();
  }
  bool parse_or_line(const std::string& text, Json& json) {
    if (parse(text, json)) return true;
    const std::vector<std::string> lines = split(text, '\n');
    return lines.size() > 1 && parse(lines[below(lines.size())], json);
  }

  // Parses the text, or one of its lines, changes it and writes it again.
  template <class Change>
  void change(std::string& text, Change&& edit_root) {
    Json json;
    if (parse(text, json)) {
      edit_root(json);
      text = written(json);
      return;
    }
    std::vector<std::string> lines = split(text, '\n');
    std::string& line = lines[below(lines.size())];
    if (lines.size() > 1 && below(4) != 0 && parse(line, json)) {
      edit_root(json);
      line = written(json);
      if (below(8) == 0) lines.push_back(lines[below(lines.size())]);
      text = joined(lines, '\n');
    } else {
      text = bytes(std::move(text), text.size() + 16);
    }
  }
  static std::string bytes(std::string text, std::size_t max_size) {
    const std::size_t size = text.size();
    text.resize(std::max(size, max_size));
    text.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(text.data()), size, text.size()));
    return text;
  }

  std::string written(const Json& json) {
    std::string text =
        json.dump(below(8) == 0 ? 1 : -1, ' ', below(4) == 0, Json::error_handler_t::replace);
    if (below(12) == 0) spoil(text);
    return text;
  }
  // What a tree cannot say: keys twice, other spellings of numbers and letters.
  void spoil(std::string& text) {
    const auto put = [&](const char* before, const std::string& inserted) {
      const std::size_t at = text.find_first_of(before, below(text.size()));
      if (at != text.npos) text.insert(at + 1, inserted);
    };
    const std::string word(words()[below(words().size())]);
    switch (below(8)) {
      case 0:
        return put("{,", "\"" + word + "\":0,");
      case 1:
        return put(":[", below(2) == 0 ? "1e400," : "1e-400,");
      case 2:
        return put("0123456789", below(2) == 0 ? "e30" : std::string(40, '9'));
      case 3:
        return put("0123456789", below(2) == 0 ? ".0" : "0");
      case 4:
        return put("\"", below(2) == 0 ? "\\ud83d\\ude00" : "\\ud83d");
      case 5:
        return put("\"", below(2) == 0 ? "\\u0000\\u001b[31m" : "\\u009b31m\\u202e");
      case 6:
        return put(",:{[", below(2) == 0 ? "\r\n\t " : "/**/");
      default:
        text.insert(0, below(2) == 0 ? "\xEF\xBB\xBF" : " ");
    }
  }

  static void collect(Json& at, std::vector<Json*>& nodes) {
    nodes.push_back(&at);
    if (!at.is_structured()) return;
    for (Json& one : at) collect(one, nodes);
  }
  // Every second time from the root down, so that a large vocabulary does not hide the rest.
  Json& any(Json& root) {
    nodes_.clear();
    collect(root, nodes_);
    if (below(2) == 0) return *nodes_[below(nodes_.size())];
    Json* at = &root;
    while (at->is_structured() && !at->empty() && below(5) != 0)
      at = &*std::next(at->begin(), place(*at));
    return *at;
  }
  std::string word() { return std::string(words()[below(words().size())]); }

  Json value() {
    constexpr std::int64_t integers[] = {0,
                                         1,
                                         2,
                                         3,
                                         4,
                                         7,
                                         8,
                                         16,
                                         50,
                                         255,
                                         256,
                                         65535,
                                         65536,
                                         -1,
                                         -2,
                                         4194303,
                                         4194304,
                                         16777216,
                                         1073741824,
                                         2147483647,
                                         2147483648,
                                         -2147483648,
                                         4294967295,
                                         4294967296,
                                         9007199254740992,
                                         std::numeric_limits<std::int64_t>::max(),
                                         std::numeric_limits<std::int64_t>::min()};
    constexpr double numbers[] = {0.0,     -0.0, 0.5,   1.0,  2.0,      1e-3,   0.999999,
                                  1e-30,   1e30, 1e-45, 1e38, 4e38,     5e-324, 1e-300,
                                  1.7e308, -1.5, 1e15,  1e16, 123456.75};
    static const std::string texts[] = {"",
                                        " ",
                                        "a",
                                        "\xC3\xA4",
                                        "\xF0\x9F\x98\x80",
                                        "\xE2\x96\x81",
                                        "0",
                                        "-1",
                                        "1e9",
                                        "\x1B[31m",
                                        "\n",
                                        "../x",
                                        "/",
                                        ".",
                                        "\xC2\x9B"
                                        "31m",
                                        "%s%n",
                                        "\xE2\x80\xAE",
                                        std::string(1, '\0'),
                                        std::string(70, 'x'),
                                        std::string(300, 'y')};
    switch (below(10)) {
      case 0:
        return nullptr;
      case 1:
        return below(2) == 0;
      case 2:
      case 3:
        return integers[below(std::size(integers))];
      case 4:
        return numbers[below(std::size(numbers))];
      case 5:
        return texts[below(std::size(texts))];
      case 6:
        return below(2) == 0 ? Json::array() : Json::object();
      case 7:
        return std::numeric_limits<std::uint64_t>::max() - below(3);
      default:
        return word();
    }
  }

  void edit(Json& root) {
    Json& node = any(root);
    switch (below(12)) {
      case 0:
        node = value();
        break;
      case 1:
      case 2:
        change_scalar(node);
        break;
      case 3:
        node = Json(*nodes_[below(nodes_.size())]);
        break;
      case 4:
        node = word();
        break;
      case 5:
        node = below(2) == 0 ? Json::array({node}) : Json{{word(), node}};
        break;
      case 6:
        for (std::size_t i = below(16) == 0 ? 70 : 1 + below(3); i > 0; --i)
          node = Json::array({node});
        break;
      case 7:
        if (node.is_structured() && !node.empty())
          node = Json(*std::next(node.begin(), place(node)));
        break;
      default:
        change_container(root);
    }
  }

  void change_scalar(Json& node) {
    if (node.is_string()) {
      std::string text = node.get<std::string>();
      switch (below(4)) {
        case 0:
          node = text + word();
          break;
        case 1:
          node = text.substr(0, below(text.size() + 1)) + value().dump();
          break;
        default:
          node = bytes(text, text.size() + 8);
      }
    } else if (node.is_number_float()) {
      const double factors[] = {-1, 0.5, 2, 1e3, 1e-3, 1 + 1e-15};
      node = node.get<double>() * factors[below(std::size(factors))];
    } else if (node.is_number()) {
      const auto x = node.get<std::uint64_t>();  // wraps
      const std::uint64_t changed[] = {x + 1, x - 1, 2 * x,
                                       x / 2, 0 - x, x ^ (std::uint64_t{1} << below(64))};
      const std::uint64_t y = changed[below(std::size(changed))];
      if (below(8) == 0) {
        node = static_cast<double>(y);
      } else if (y >> 63 == 0 || below(8) == 0) {
        node = y;
      } else {
        node = static_cast<std::int64_t>(y);
      }
    } else {
      node = value();
    }
  }

  std::ptrdiff_t place(const Json& node) { return static_cast<std::ptrdiff_t>(below(node.size())); }

  void change_container(Json& root) {
    std::vector<Json*> containers;
    for (Json* one : nodes_)
      if (one->is_structured()) containers.push_back(one);
    if (containers.empty()) return;
    Json& node = *containers[below(containers.size())];
    const std::size_t what = below(6);
    if (node.empty() || what == 0) return insert(node, root);
    const auto at = std::next(node.begin(), place(node));
    if (what == 1) {
      node.erase(at);
    } else if (what == 2) {
      std::swap(*at, *std::next(node.begin(), place(node)));
    } else if (node.is_array()) {
      const Json again = *at;
      for (std::size_t i = below(16) == 0 ? 40 : 1; i > 0; --i) node.insert(node.end(), again);
    } else if (what == 3) {
      rename(node, at.key());
    } else {
      insert(node, root);
    }
  }
  void insert(Json& node, Json& root) {
    Json inserted = below(3) == 0 ? Json(*nodes_[below(nodes_.size())]) : value();
    if (node.is_array()) {
      node.insert(std::next(node.begin(), static_cast<std::ptrdiff_t>(below(node.size() + 1))),
                  std::move(inserted));
    } else if (node.is_object()) {
      node[below(8) == 0 ? value().dump() : word()] = std::move(inserted);
    } else {
      root = std::move(inserted);
    }
  }
  void rename(Json& node, const std::string& key) {
    const std::string name = below(4) == 0 ? key + word() : word();
    Json renamed = Json::object();
    for (const auto& [old, one] : node.items()) renamed[old == key ? name : old] = one;
    node = std::move(renamed);
  }

  std::uint64_t state_;
  std::vector<Json*> nodes_;  // of the tree that is being changed
};

inline std::size_t put(const std::string& text, std::uint8_t* data, std::size_t max_size) {
  const std::size_t size = std::min(text.size(), max_size);
  std::memcpy(data, text.data(), size);
  return size;
}

}  // namespace lora_fuzz

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const std::string text = lora_fuzz::JsonMutator(seed).mutate(input, max_size);
  return text.size() > max_size ? LLVMFuzzerMutate(data, size, max_size)
                                : lora_fuzz::put(text, data, max_size);
}

extern "C" std::size_t LLVMFuzzerCustomCrossOver(const std::uint8_t* data, std::size_t size,
                                                 const std::uint8_t* other, std::size_t other_size,
                                                 std::uint8_t* out, std::size_t max_size,
                                                 unsigned seed) {
  const std::string_view first(reinterpret_cast<const char*>(data), size),
      second(reinterpret_cast<const char*>(other), other_size);
  return lora_fuzz::put(lora_fuzz::JsonMutator(seed).cross(first, second), out, max_size);
}
