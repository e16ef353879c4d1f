// Types for configuration fields where PEFT accepts several types. None uses std::variant, because
// every program that includes the library would pay for compiling it.
#pragma once

#include <lora/core/types.hpp>

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace lora {

/// Holds null, one string, or a list of names: `= "all-linear"`, `= ".*\\.q_proj"`, `= {"q_proj",
/// "v_proj"}`. Empty braces mean null, not the empty list.
class NameSelection {
 public:
  NameSelection() = default;
  NameSelection(const char* pattern) : holds_(Holds::pattern), pattern_(pattern) {}
  NameSelection(std::string pattern) : holds_(Holds::pattern), pattern_(std::move(pattern)) {}
  NameSelection(std::vector<std::string> names) : holds_(Holds::list), names_(std::move(names)) {}
  NameSelection(std::initializer_list<std::string> names) : holds_(Holds::list), names_(names) {}

  bool is_null() const { return holds_ == Holds::null; }
  /// The string, or nullptr for null and for a list.
  const std::string* pattern() const { return holds_ == Holds::pattern ? &pattern_ : nullptr; }
  /// The list, or nullptr for null and for a string.
  const std::vector<std::string>* list() const { return holds_ == Holds::list ? &names_ : nullptr; }

  bool operator==(const NameSelection&) const = default;

 private:
  enum class Holds { null, pattern, list };
  Holds holds_ = Holds::null;
  std::string pattern_;
  std::vector<std::string> names_;
};

/// Holds null, one layer index, or a list of them: `= 3`, `= {0, 1, 2}`.
class LayerSelection {
 public:
  LayerSelection() = default;
  LayerSelection(Index layer) : layers_(1, layer) {}
  LayerSelection(std::vector<Index> layers) : layers_(std::move(layers)), is_list_(true) {}
  LayerSelection(std::initializer_list<Index> layers) : layers_(layers), is_list_(true) {}

  bool is_null() const { return !is_list_ && layers_.empty(); }
  /// Whether it is a list. Files distinguish [3] from 3, and [] from null.
  bool is_list() const { return is_list_; }
  /// The indices. Empty, for null and the empty list, means every layer.
  const std::vector<Index>& indices() const { return layers_; }

  bool operator==(const LayerSelection&) const = default;

 private:
  std::vector<Index> layers_;
  bool is_list_ = false;
};

/// Holds a flag or the name of an initialisation: `= true`, `= "gaussian"`.
class InitSelection {
 public:
  InitSelection(bool flag) : flag_(flag) {}
  InitSelection(const char* name) : is_name_(true), name_(name) {}
  InitSelection(std::string name) : is_name_(true), name_(std::move(name)) {}

  /// The flag, or nullptr for a name.
  const bool* flag() const { return is_name_ ? nullptr : &flag_; }
  /// The name, or nullptr for a flag.
  const std::string* name() const { return is_name_ ? &name_ : nullptr; }

  bool operator==(const InitSelection&) const = default;

 private:
  bool is_name_ = false, flag_ = false;
  std::string name_;
};

}  // namespace lora
