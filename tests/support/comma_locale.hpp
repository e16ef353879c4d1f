// Sets a locale that writes 1234.5 as 1.234,5 while an object lives.
#pragma once

#include <clocale>
#include <locale>
#include <string>

namespace lora_test {

/// Sets it as the global locale of C++ streams and, if the system has one that writes a comma, of C
/// functions; in_c() says which. The destructor restores both.
class CommaLocale {
 public:
  CommaLocale() : before_c_(std::setlocale(LC_ALL, nullptr)) {
    before_ = std::locale::global(std::locale(std::locale::classic(), new Comma));
    for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "fr_FR.utf8", "de_DE"}) {
      if (std::setlocale(LC_ALL, name) == nullptr) continue;
      in_c_ = name;
      break;
    }
  }
  CommaLocale(const CommaLocale&) = delete;
  CommaLocale& operator=(const CommaLocale&) = delete;
  ~CommaLocale() {
    std::locale::global(before_);
    std::setlocale(LC_ALL, before_c_.c_str());
  }
  /// The name of the C locale, or "" if none is installed.
  const std::string& in_c() const { return in_c_; }

 private:
  struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  std::string before_c_, in_c_;
  std::locale before_;
};

}  // namespace lora_test
