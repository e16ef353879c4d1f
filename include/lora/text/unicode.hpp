// The properties of code points that tokenizers need: category, white space, parts of words; and
// normalisation form C.
#pragma once

#include <lora/core/code_points.hpp>
#include <lora/text/unicode_tables.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace lora {

/// The classes that pre-tokenization distinguishes: L* is a letter, N* a number, White_Space a
/// space.
enum class CharClass : std::uint8_t { other, letter, number, space };

/// Appends c in UTF-8. Appends 0xDC00 + byte, which stands for a byte that is not UTF-8, as that
/// byte.
inline void append_code_point(std::string& text, char32_t c) {
  const auto put = [&text](char32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80 || (c >= 0xDC00 && c < 0xDD00)) {
    put(c & 0xFFu);
    return;
  }
  if (c < 0x800) {
    put(0xC0u | (c >> 6));
  } else {
    if (c < 0x10000) {
      put(0xE0u | (c >> 12));
    } else {
      put(0xF0u | (c >> 18));
      put(0x80u | ((c >> 12) & 0x3Fu));
    }
    put(0x80u | ((c >> 6) & 0x3Fu));
  }
  put(0x80u | (c & 0x3Fu));
}

/// Returns the position of the first byte that is not UTF-8, or the size of `text`.
inline std::size_t first_invalid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    const char32_t c = detail::next_code_point(text, at);
    if (c >= 0xDC00 && c < 0xDD00) return start;
  }
  return text.size();
}

/// The properties of all code points (unicode_tables::version). Created once per process and
/// read-only.
class Unicode {
 public:
  static const Unicode& instance() {
    static const Unicode all;
    return all;
  }

  /// Returns the general category of c, an index into unicode_tables::category_names.
  unsigned category(char32_t c) const { return c < categories_.size() ? categories_[c] : 0; }
  /// Returns one bit for each category that `name` denotes: "Lu" one, "L" all that begin with L; 0
  /// for an unknown name.
  static std::uint32_t categories_of(std::string_view name) {
    std::uint32_t all = 0;
    const std::string_view names = unicode_tables::category_names;
    for (unsigned i = 0; 2 * i < names.size(); ++i) {
      if (!name.empty() && names.substr(2 * i, std::min<std::size_t>(2, name.size())) == name)
        all |= 1u << i;
    }
    return all;
  }
  CharClass class_of(char32_t c) const {
    return c < properties_.size() ? static_cast<CharClass>(properties_[c] & class_bits)
                                  : CharClass::other;
  }
  /// Whether a text with c may differ from its normalisation form C: c composes, decomposes or can
  /// be reordered (NFC_Quick_Check is not Yes, or c has a combining class).
  bool concerns_nfc(char32_t c) const {
    return c < properties_.size() && (properties_[c] & nfc_bit) != 0;
  }
  /// Whether c is part of a word, \w of a regular expression.
  bool is_word(char32_t c) const {
    return c < properties_.size() && (properties_[c] & word_bit) != 0;
  }
  /// Whether the pre-tokenizer Punctuation of the tokenizers library cuts at c.
  bool is_punctuation(char32_t c) const {
    return c < properties_.size() && (properties_[c] & punctuation_bit) != 0;
  }
  std::uint8_t combining_class(char32_t c) const {
    const auto found = combining_.find(c);
    return found == combining_.end() ? 0 : found->second;
  }
  /// Appends the full canonical decomposition of c.
  void decompose(char32_t c, std::u32string& out) const {
    if (c >= hangul && c < hangul + hangul_count) {
      const char32_t i = c - hangul;
      out += jamo_l + i / (21 * 28);
      out += jamo_v + i / 28 % 21;
      if (i % 28 != 0) out += jamo_t + i % 28;
      return;
    }
    const auto found = parts_.find(c);
    if (found == parts_.end()) {
      out += c;
      return;
    }
    decompose(found->second.first, out);
    if (found->second.second != 0) decompose(found->second.second, out);
  }
  /// Returns the primary composite of a and b, or 0.
  char32_t compose(char32_t a, char32_t b) const {
    if (a - jamo_l < 19 && b - jamo_v < 21) return hangul + ((a - jamo_l) * 21 + (b - jamo_v)) * 28;
    if (a - hangul < hangul_count && (a - hangul) % 28 == 0 && b > jamo_t && b - jamo_t < 28)
      return a + (b - jamo_t);
    const auto found = composites_.find(pair_key(a, b));
    return found == composites_.end() ? 0 : found->second;
  }

 private:
  static constexpr std::uint8_t class_bits = 3, nfc_bit = 4, word_bit = 8, punctuation_bit = 16;
  static constexpr char32_t hangul = 0xAC00, hangul_count = 11172;
  static constexpr char32_t jamo_l = 0x1100, jamo_v = 0x1161, jamo_t = 0x11A7;

  static std::uint64_t pair_key(char32_t a, char32_t b) { return (std::uint64_t{a} << 32) | b; }

  // Reads the numbers of a packed table in order.
  class Reader {
   public:
    explicit Reader(std::string_view packed) : packed_(packed) {}
    bool more() const { return at_ < packed_.size(); }
    char32_t next() {
      char32_t value = 0;
      for (unsigned shift = 0;; shift += 5) {
        const auto digit = static_cast<char32_t>(unicode_tables::digits.find(packed_[at_++]));
        value |= (digit & 31u) << shift;
        if (digit < 32) return value;
      }
    }

   private:
    std::string_view packed_;
    std::size_t at_ = 0;
  };

  Unicode() {
    const std::uint32_t letters = categories_of("L"), numbers = categories_of("N");
    read_runs(unicode_tables::categories, [&](char32_t c, char32_t category) {
      if (c >= categories_.size()) categories_.resize(c + 1);
      categories_[c] = static_cast<std::uint8_t>(category);
      if (((letters >> category) & 1u) != 0) mark(c, static_cast<std::uint8_t>(CharClass::letter));
      if (((numbers >> category) & 1u) != 0) mark(c, static_cast<std::uint8_t>(CharClass::number));
    });
    for (const auto& [first, last] : {std::pair<char32_t, char32_t>{0x9, 0xD},
                                      {0x20, 0x20},
                                      {0x85, 0x85},
                                      {0xA0, 0xA0},
                                      {0x1680, 0x1680},
                                      {0x2000, 0x200A},
                                      {0x2028, 0x2029},
                                      {0x202F, 0x202F},
                                      {0x205F, 0x205F},
                                      {0x3000, 0x3000}}) {
      for (char32_t c = first; c <= last; ++c) mark(c, static_cast<std::uint8_t>(CharClass::space));
    }
    read_runs(unicode_tables::words, [this](char32_t c, char32_t) { mark(c, word_bit); });
    read_runs(unicode_tables::punctuation,
              [this](char32_t c, char32_t) { mark(c, punctuation_bit); });
    read_runs(unicode_tables::combining, [this](char32_t c, char32_t combining) {
      combining_[c] = static_cast<std::uint8_t>(combining);
      mark(c, nfc_bit);
    });
    read_decompositions();
    for (char32_t c = jamo_v; c < jamo_v + 21; ++c) mark(c, nfc_bit);
    for (char32_t c = jamo_t + 1; c < jamo_t + 28; ++c) mark(c, nfc_bit);
  }

  void mark(char32_t c, std::uint8_t bits) {
    if (c >= properties_.size()) properties_.resize(c + 1);
    properties_[c] = static_cast<std::uint8_t>(properties_[c] | bits);
  }
  template <class Fn>
  void read_runs(std::string_view packed, Fn&& each) {
    char32_t c = 0;
    for (Reader in(packed); in.more();) {
      c += in.next();
      const char32_t end = c + in.next() + 1, value = in.next();
      for (; c < end; ++c) each(c, value);
    }
  }
  void read_decompositions() {
    char32_t c = 0, first = 0;
    for (Reader in(unicode_tables::decompositions); in.more();) {
      c += in.next();
      const char32_t change = in.next(), second = in.next();
      first += (change & 1u) != 0 ? ~(change >> 1) : change >> 1;
      parts_[c] = {first, second >> 1};
      if ((second & 1u) != 0) {
        composites_[pair_key(first, second >> 1)] = c;
        mark(second >> 1, nfc_bit);
      } else {
        mark(c, nfc_bit);
      }
    }
  }

  std::vector<std::uint8_t> properties_, categories_;
  std::unordered_map<char32_t, std::uint8_t> combining_;
  std::unordered_map<char32_t, std::pair<char32_t, char32_t>> parts_;
  std::unordered_map<std::uint64_t, char32_t> composites_;
};

/// A changed text and the origin of each of its bytes.
struct ChangedText {
  std::string text;
  std::vector<std::size_t> origin;  ///< origin[i]: the byte of the old text that text[i] stands for
};

namespace detail {

// Reorders a starter's marks by class, then joins what composes (UAX #15, D117).
inline void compose_run(const Unicode& unicode, std::u32string& run) {
  const auto combining = [&](char32_t c) { return unicode.combining_class(c); };
  for (std::size_t i = 0; i < run.size();) {
    std::size_t end = i;
    while (end < run.size() && combining(run[end]) != 0) ++end;
    std::stable_sort(run.begin() + static_cast<std::ptrdiff_t>(i),
                     run.begin() + static_cast<std::ptrdiff_t>(end),
                     [&](char32_t a, char32_t b) { return combining(a) < combining(b); });
    i = end + 1;
  }
  std::size_t kept = 0, starter = run.size();
  std::uint8_t last = 0;  // class of the last kept code point after the starter
  for (std::size_t i = 0; i < run.size(); ++i) {
    const std::uint8_t ccc = combining(run[i]);
    if (starter < run.size() && (kept == starter + 1 || last < ccc)) {
      if (const char32_t joined = unicode.compose(run[starter], run[i]); joined != 0) {
        run[starter] = joined;
        continue;
      }
    }
    if (ccc == 0) starter = kept;
    last = ccc;
    run[kept++] = run[i];
  }
  run.resize(kept);
}

}  // namespace detail

/// Whether `text` is known to be in normalisation form C: none of its code points is affected.
inline bool is_surely_nfc(std::string_view text) {
  const Unicode& unicode = Unicode::instance();
  for (std::size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0xCC) {  // nothing below U+0300 is affected
      ++at;
      continue;
    }
    if (unicode.concerns_nfc(detail::next_code_point(text, at))) return false;
  }
  return true;
}

/// Returns `text` in normalisation form C (UAX #15). Bytes that are not UTF-8 stay unchanged. The
/// origin of a byte is the start of the run (a code point and its marks) that it was composed from.
/// Takes O(n log n) time.
inline ChangedText to_nfc(std::string_view text) {
  const Unicode& unicode = Unicode::instance();
  ChangedText out;
  out.text.reserve(text.size());
  std::u32string run;
  std::size_t run_start = 0;
  const auto flush = [&] {
    detail::compose_run(unicode, run);
    for (const char32_t c : run) append_code_point(out.text, c);
    out.origin.resize(out.text.size(), run_start);
    run.clear();
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    const char32_t c = detail::next_code_point(text, at);
    // An unaffected code point neither moves nor joins what precedes it.
    if (!run.empty() && !unicode.concerns_nfc(c)) flush();
    if (run.empty()) run_start = start;
    unicode.decompose(c, run);
  }
  if (!run.empty()) flush();
  return out;
}

}  // namespace lora
