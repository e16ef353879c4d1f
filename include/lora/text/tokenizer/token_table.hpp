// The two hash tables of byte-pair encoding: from strings to ids, and from pairs of ids to numbers.
#pragma once

#include <lora/core/random.hpp>

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace lora {

/// The value of a key that a table does not hold.
inline constexpr std::uint32_t no_token = 0xFFFFFFFFu;

namespace detail {

/// Returns a secret per table, so that a file cannot be made of keys that all meet in one slot. The
/// contents of a table do not depend on it.
inline std::uint64_t hash_secret() {
  std::random_device random;
  return std::uint64_t{random()} << 32 | random();
}

}  // namespace detail

/// A map from strings to 32-bit values, with all bytes in one block. Several threads may read it.
class TokenTable {
 public:
  std::size_t size() const { return entries_.size(); }

  /// Adds `key` and returns whether it was new; an old key keeps its value.
  bool add(std::string_view key, std::uint32_t value) {
    if (2 * (entries_.size() + 1) > slots_.size()) grow();
    const std::uint64_t h = hash(key);
    Slot& slot = slots_[place_of(key, h)];
    if (slot.entry != no_token) return false;
    slot = {static_cast<std::uint32_t>(h), static_cast<std::uint32_t>(entries_.size())};
    entries_.push_back({bytes_.size(), key.size(), value});
    bytes_ += key;
    return true;
  }
  /// Returns the value of `key`, or no_token.
  std::uint32_t find(std::string_view key) const {
    if (slots_.empty()) return no_token;
    const Slot& slot = slots_[place_of(key, hash(key))];
    return slot.entry == no_token ? no_token : entries_[slot.entry].value;
  }

 private:
  struct Slot {
    std::uint32_t hash = 0, entry = no_token;
  };
  struct Entry {
    std::size_t begin, size;
    std::uint32_t value;
  };

  std::uint64_t hash(std::string_view key) const {
    std::uint64_t h = secret_ ^ key.size();
    while (key.size() >= 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, key.data(), 8);
      h = mix64(h ^ word);
      key.remove_prefix(8);
    }
    std::uint64_t word = 0;
    if (!key.empty()) std::memcpy(&word, key.data(), key.size());
    return mix64(h ^ word);
  }
  std::string_view key_of(const Entry& entry) const {
    return std::string_view(bytes_).substr(entry.begin, entry.size);
  }
  // Returns the slot of `key`, or the free slot where it would be.
  std::size_t place_of(std::string_view key, std::uint64_t h) const {
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t at = (h >> 32) & mask;; at = (at + 1) & mask) {
      const Slot& slot = slots_[at];
      if (slot.entry == no_token) return at;
      if (slot.hash == static_cast<std::uint32_t>(h) && key_of(entries_[slot.entry]) == key)
        return at;
    }
  }
  void grow() {
    slots_.assign(std::bit_ceil(4 * (entries_.size() + 8)), {});
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const std::string_view key = key_of(entries_[i]);
      slots_[place_of(key, hash(key))] = {static_cast<std::uint32_t>(hash(key)),
                                          static_cast<std::uint32_t>(i)};
    }
  }

  std::uint64_t secret_ = detail::hash_secret();
  std::string bytes_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;
};

/// A map from pairs of 32-bit numbers to 32-bit values. Several threads may read it.
class PairTable {
 public:
  /// Returns the value of the pair, initially no_token. The reference is valid until the next call.
  std::uint32_t& at(std::uint32_t a, std::uint32_t b) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[place_of(a, b)];
    if (!slot.used) {
      slot = {a, b, no_token, true};
      ++size_;
    }
    return slot.value;
  }
  /// Returns the value of the pair, or `absent`.
  std::uint32_t find(std::uint32_t a, std::uint32_t b, std::uint32_t absent) const {
    if (slots_.empty()) return absent;
    const Slot& slot = slots_[place_of(a, b)];
    return slot.used ? slot.value : absent;
  }

 private:
  struct Slot {
    std::uint32_t a = 0, b = 0, value = no_token;
    bool used = false;
  };

  std::size_t place_of(std::uint32_t a, std::uint32_t b) const {
    const std::size_t mask = slots_.size() - 1;
    std::uint64_t h = ((std::uint64_t{a} << 32) | b) * multiplier_;
    h = (h ^ (h >> 32)) * 0x9E3779B97F4A7C15u;
    for (std::size_t at = h >> shift_;; at = (at + 1) & mask) {
      const Slot& slot = slots_[at];
      if (!slot.used || (slot.a == a && slot.b == b)) return at;
    }
  }
  void grow() {
    std::vector<Slot> old(std::bit_ceil(4 * (size_ + 8)));
    old.swap(slots_);
    shift_ = 64 - std::countr_zero(slots_.size());
    for (const Slot& slot : old) {
      if (slot.used) slots_[place_of(slot.a, slot.b)] = slot;
    }
  }

  std::uint64_t multiplier_ = detail::hash_secret() | 1;
  std::vector<Slot> slots_;
  std::size_t size_ = 0;
  int shift_ = 0;  ///< 64 minus the bits of a slot's index
};

}  // namespace lora
