// lora diff: shows how two adapters differ.
#pragma once

#include "adapter_output.hpp"
#include "update_difference.hpp"

#include <map>
#include <set>

namespace tools {

namespace detail {

class AdapterDiff {
 public:
  AdapterDiff(const std::filesystem::path& first, const std::filesystem::path& second)
      : one_(open_adapter(first)), two_(open_adapter(second)) {}

  bool print() {
    configuration();
    tensors();
    updates();
    std::cout << (equal_ ? "equal\n" : "different\n");
    return equal_;
  }

 private:
  /// All fields: those that the library knows, with defaults for those missing, and the others.
  static std::map<std::string, std::string> fields_of(const lora::PeftAdapter& adapter) {
    std::map<std::string, std::string> fields;
    const lora::Json known = lora::peft_config_fields(adapter.config());
    for (const auto& [name, value] : known.items()) fields[name] = value.dump();
    for (const std::string& name : adapter.unknown_fields())
      fields[name] = adapter.fields().at(name).dump();
    return fields;
  }
  void configuration() {
    auto one = fields_of(one_), two = fields_of(two_);
    std::set<std::string> names;
    for (const auto* fields : {&one, &two}) {
      for (const auto& [name, value] : *fields) names.insert(name);
    }
    for (const std::string& name : names) {
      const auto text = [&name](const auto& fields) {
        const auto found = fields.find(name);
        return found == fields.end() ? std::string("absent") : printable(found->second, 200);
      };
      if (text(one) == text(two) && one[name] == two[name]) continue;
      differ("configuration: " + printable(name) + ": " + text(one) + " and " + text(two));
    }
  }

  static std::map<std::string, std::string> keys_of(const lora::PeftAdapter& adapter) {
    std::map<std::string, std::string> keys;
    for (const std::string& key : adapter.tensors().names())
      keys[std::string(lora::without_peft_prefix(key))] = key;
    return keys;
  }
  void tensors() {
    const auto one = keys_of(one_), two = keys_of(two_);
    for (const auto& [name, key] : two) {
      if (one.count(name) == 0) differ("tensor " + printable(name) + ": only in the second");
    }
    for (const auto& [name, key] : one) {
      const auto other = two.find(name);
      if (other == two.end()) {
        differ("tensor " + printable(name) + ": only in the first");
      } else {
        compare(name, key, other->second);
      }
    }
  }
  void compare(const std::string& name, const std::string& key, const std::string& other) {
    const lora::TensorInfo &a = one_.tensors().info(key), &b = two_.tensors().info(other);
    const std::string about = "tensor " + printable(name) + ": ";
    if (a.shape != b.shape) {
      return differ(about + "shapes " + lora::shape_text(a.shape) + " and " +
                    lora::shape_text(b.shape));
    }
    if (a.dtype != b.dtype) {
      differ(about + "types " + std::string(lora::dtype_name(a.dtype)) + " and " +
             std::string(lora::dtype_name(b.dtype)));
    }
    const auto one = one_.tensors().bytes(key), two = two_.tensors().bytes(other);
    if (a.dtype == b.dtype && std::equal(one.begin(), one.end(), two.begin(), two.end())) return;
    if (!lora::is_matrix_dtype(a.dtype) || !lora::is_matrix_dtype(b.dtype))
      return differ(about + "other bytes");
    const auto x = one_.tensors().matrix<double>(key), y = two_.tensors().matrix<double>(other);
    double absolute = 0, relative = 0;
    bool known = true;
    for (Index i = 0; i < x.size(); ++i) {
      const double u = x.data()[i], v = y.data()[i], d = u == v ? 0 : std::abs(u - v);
      known = known && std::isfinite(d);
      absolute = std::max(absolute, d);
      if (d > 0) relative = std::max(relative, d / std::max(std::abs(u), std::abs(v)));
    }
    if (!known) return differ(about + "values differ, some of them infinite or NaN");
    if (absolute == 0) return;  // only the types or the sign of a zero differ
    differ(about + "values differ by at most " + short_number(absolute) + ", relative " +
           short_number(relative));
  }

  void updates() {
    std::map<std::string, const lora::PeftModule*> others;
    for (const lora::PeftModule& module : two_.modules()) others[module.name] = &module;
    for (const lora::PeftModule& module : one_.modules()) {
      const auto found = others.find(module.name);
      if (found == others.end()) continue;
      const auto a = read_factors<double>(one_, module),
                 b = read_factors<double>(two_, *found->second);
      if (a.A.cols() != b.A.cols() || a.B.rows() != b.B.rows() || a.groups != b.groups) continue;
      // DoRA's magnitudes are compared as tensors; their effect depends on W.
      const std::string about =
          (module.m_key.empty() ? "update of " : "s B A of ") + printable(module.name) + ": ";
      if (!a.finite() || !b.finite()) {
        std::cout << about << "not finite\n";
        continue;
      }
      if (same(a.A, b.A) && same(a.B, b.B) && a.scaling == b.scaling) continue;
      const UpdateDifference d = update_difference(a, b);
      std::cout << about << "differs by " << short_number(d.difference)
                << (d.first > 0 ? ", relative " + short_number(d.difference / d.first)
                                : ", the first is zero")
                << "\n";
    }
  }

  void differ(const std::string& line) {
    equal_ = false;
    std::cout << line << "\n";
  }

  lora::PeftAdapter one_, two_;
  bool equal_ = true;
};

}  // namespace detail

/// Prints how two adapters differ. Returns whether they are equal.
inline bool print_diff(const std::filesystem::path& first, const std::filesystem::path& second) {
  return detail::AdapterDiff(first, second).print();
}

}  // namespace tools
