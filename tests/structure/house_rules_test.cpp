// What every header has and what none does.
#include <gtest/gtest.h>

#include <map>
#include <regex>

#include "structure/source_tree.hpp"

namespace house_rules_test {
using namespace lora_test;

constexpr std::size_t most_lines = 380, most_lines_of_function = 60;
// The first line that is neither blank nor a comment.
std::string first_code_line(const Header& header) {
  for (const std::string& line : lines_of(code_of(header.text))) {
    const std::size_t begin = line.find_first_not_of(" \t\r"), end = line.find_last_not_of(" \t\r");
    if (begin != std::string::npos) return line.substr(begin, end - begin + 1);
  }
  return "";
}

std::vector<std::string> form_faults(const Header& header) {
  std::vector<std::string> faults;
  const auto fault = [&](const std::string& what) { faults.push_back(header.path + ": " + what); };
  if (header.text.rfind("// ", 0) != 0) fault("does not begin with a comment that says what it is");
  const std::filesystem::path kind = std::filesystem::path(header.path).extension();
  if (kind == ".inc") return faults;  // a part of headers, which include it where they need it
  if (kind != ".hpp") fault("does not end in .hpp");
  if (first_code_line(header) != "#pragma once") fault("does not begin with #pragma once");
  const std::size_t lines = lines_of(header.text).size();
  if (lines > most_lines) fault("has " + std::to_string(lines) + " lines; split it");
  if (header.text.empty() || header.text.back() != '\n') fault("does not end with a line end");
  if (only_includes(header)) return faults;
  bool opened = false;
  static const std::regex opening("\\s*namespace\\s+([A-Za-z_:]+)\\s*\\{?.*");
  std::ptrdiff_t depth = 0;
  for (const std::string& line : lines_of(code_of(header.text))) {
    std::smatch match;
    if (depth == 0 && std::regex_match(line, match, opening)) {
      const std::string name = match[1];
      const bool ours = name == "lora" || name.rfind("lora::", 0) == 0;
      opened = opened || ours;
      if (!ours) fault("opens namespace " + name);
    }
    depth += std::count(line.begin(), line.end(), '{') - std::count(line.begin(), line.end(), '}');
  }
  if (depth != 0) fault("has braces that do not close");
  if (!opened) fault("does not open namespace lora");
  return faults;
}

// Errors are exceptions and texts are returned: a header leaves the terminal and the process alone.
std::vector<std::string> conduct_faults(const Header& header) {
  static const std::regex words(
      "(^|[^A-Za-z0-9_.>:])(std\\s*::\\s*|::\\s*)?"
      "((cout|cerr|clog|wcout|wcerr|stdout|stderr)(?![A-Za-z0-9_])"
      "|(printf|fprintf|vprintf|vfprintf|puts|fputs|putchar|putc|fputc|perror|print|println"
      "|exit|_exit|_Exit|quick_exit|abort|terminate|raise|assert|__builtin_trap)\\s*\\()");
  static const std::regex headers(
      "\\s*#\\s*include\\s*<(iostream|print|cassert|assert\\.h|stdio\\.h)>.*");
  std::vector<std::string> faults;
  const std::vector<std::string> code = lines_of(code_of(header.text));
  for (std::size_t i = 0; i < code.size(); ++i) {
    std::smatch match;
    if (std::regex_search(code[i], match, words) || std::regex_match(code[i], match, headers)) {
      faults.push_back(header.path + ":" + std::to_string(i + 1) +
                       ": prints, exits or aborts: " + lines_of(header.text)[i]);
    }
  }
  return faults;
}

// A program may have set a locale that writes 0,5: numbers go through core/number_text.hpp.
std::vector<std::string> locale_faults(const Header& header) {
  static const std::regex words(
      "(^|[^A-Za-z0-9_])(strto(d|f|ld)|sto(d|f|ld)|atof|sscanf|[io]?stringstream)(?![A-Za-z0-9_])");
  static const std::regex formats("%[-+ #0]*[0-9*]*(\\.[0-9*]+)?L?[aefgAEFG]");
  std::vector<std::string> faults;
  const std::vector<std::string> code = lines_of(code_of(header.text)), raw = lines_of(header.text);
  for (std::size_t i = 0; i < code.size(); ++i) {
    const std::string line = raw[i].substr(0, raw[i].find("//"));
    const bool format = line.find('"') != line.npos && std::regex_search(line, formats);
    if (format || std::regex_search(code[i], words))
      faults.push_back(header.path + ":" + std::to_string(i + 1) + ": asks the locale: " + raw[i]);
  }
  return faults;
}

// What stands before a brace says whether a function begins there: it has a parameter list and is no
// type, namespace or list of values.
std::vector<std::string> length_faults(const Header& header) {
  static const std::regex other(
      "(^|[^A-Za-z0-9_])(namespace|class|struct|enum|union)[^A-Za-z0-9_]");
  struct Block {
    std::size_t line;
    bool function;
  };
  std::vector<std::string> faults;
  std::vector<Block> open;
  std::string head;
  std::size_t number = 0;
  for (const std::string& line : lines_of(code_of(header.text))) {
    ++number;
    if (line.find_first_not_of(' ') != line.npos && line[line.find_first_not_of(' ')] == '#')
      continue;
    for (const char c : line + " ") {
      const bool end = c == ';' || c == '{' || c == '}';
      if (c == '{') {
        const std::size_t last = head.find_last_not_of(' ');
        open.push_back({number, head.find('(') != head.npos && head[last] != '(' &&
                                    !std::regex_search(head + " ", other)});
      }
      if (c == '}' && !open.empty()) {
        const std::size_t lines = number - open.back().line + 1;
        if (open.back().function && lines > most_lines_of_function)
          faults.push_back(header.path + ":" + std::to_string(open.back().line) +
                           ": a function of " + std::to_string(lines) + " lines; split it");
        open.pop_back();
      }
      head = end ? "" : head + c;
    }
  }
  return faults;
}

template <class Rule>
std::string faults_of_all(Rule rule) {
  std::vector<std::string> faults;
  for (const Header& header : all_headers()) {
    const std::vector<std::string> found = rule(header);
    faults.insert(faults.end(), found.begin(), found.end());
  }
  return joined(faults);
}

TEST(HouseRules, FormOfEveryHeader) { EXPECT_EQ(faults_of_all(form_faults), ""); }
TEST(HouseRules, LengthOfEveryFunction) { EXPECT_EQ(faults_of_all(length_faults), ""); }
TEST(HouseRules, NumbersDoNotDependOnTheLocale) { EXPECT_EQ(faults_of_all(locale_faults), ""); }
TEST(HouseRules, NoHeaderPrintsExitsOrAborts) { EXPECT_EQ(faults_of_all(conduct_faults), ""); }

// The rules themselves, on headers that break each of them.
const std::string good = "// A header.\n#pragma once\n\nnamespace lora {\nint f();\n}\n";

std::string form(const std::string& text, const std::string& path = "core/a.hpp") {
  return joined(form_faults({path, text}));
}

TEST(HouseRulesReader, Form) {
  EXPECT_EQ(form(good), "");
  EXPECT_EQ(form(good, "core/a.h"), "\n  core/a.h: does not end in .hpp");
  EXPECT_EQ(form("// The body of a struct.\nint f();\n", "core/a.inc"), "");
  EXPECT_EQ(form(good.substr(13)),
            "\n  core/a.hpp: does not begin with a comment that says what it is");
  EXPECT_EQ(form("// A.\n#include <b>\n#pragma once\nnamespace lora {}\n"),
            "\n  core/a.hpp: does not begin with #pragma once");
  EXPECT_EQ(form("// A.\n#pragma once\nint f();\n"),
            "\n  core/a.hpp: does not open namespace lora");
  EXPECT_EQ(form("// A.\n#pragma once\n// namespace lora {\nint f();\n"),
            "\n  core/a.hpp: does not open namespace lora");
  EXPECT_EQ(form("// A.\n#pragma once\nnamespace lora::kernels {\n}\n"), "");
  EXPECT_EQ(form("// A.\n#pragma once\nnamespace lora {\nnamespace detail {\n}\n}\n"), "");
  EXPECT_EQ(form(good + "{\n"), "\n  core/a.hpp: has braces that do not close");
  EXPECT_EQ(form(good + "namespace other {\n}\n"), "\n  core/a.hpp: opens namespace other");
  EXPECT_EQ(form("// All.\n#pragma once\n\n#include <lora/core/types.hpp>\n", "lora.hpp"), "");
  EXPECT_EQ(form(good + "int x;"), "\n  core/a.hpp: does not end with a line end");
  std::string longest = good;
  while (lines_of(longest).size() < most_lines) longest += "\n";
  EXPECT_EQ(form(longest), "");
  EXPECT_EQ(form(longest + "\n"), "\n  core/a.hpp: has 381 lines; split it");
}

TEST(HouseRulesReader, Length) {
  const auto faults = [](const std::string& head, std::size_t lines) {
    return joined(length_faults(
        {"core/a.hpp", "// A.\n" + head + " {\n" + std::string(lines - 2, '\n') + "}\n"}));
  };
  EXPECT_EQ(faults("void f(int a) const", most_lines_of_function), "");
  EXPECT_EQ(faults("void f(int a,\n       int b)", most_lines_of_function + 1),
            "\n  core/a.hpp:3: a function of 61 lines; split it");
  EXPECT_EQ(faults("class A : B<int>", 100), "");
  EXPECT_EQ(faults("constexpr auto list = to_array<int>(", 100), "");
}

bool well_behaved(const std::string& line) {
  return conduct_faults({"core/a.hpp", line + "\n"}).empty();
}

TEST(HouseRulesReader, Conduct) {
  for (const char* line :
       {"std::cout << 1;", "  cerr << x;", "std::printf(\"x\");", "printf (x);", "std::abort();",
        "::exit(1);", "if (bad) abort();", "assert(x);", "fputs(text, stderr);",
        "std :: terminate();", "#include <iostream>", "#include <cassert>", "{std::exit(2);}"})
    EXPECT_FALSE(well_behaved(line)) << line;
  for (const char* line :
       {"// std::cout << 1;", "/// Never calls abort().", "throw Error(\"abort() was called\");",
        "static_assert(true);", "std::snprintf(a, b, c);", "model.print();", "x->exit(1);",
        "Model::print();", "int exit_code = 1;", "print_trainable_parameters();",
        "#include <cstdio>", "my_exit(2);", "const int aborted = 0;"})
    EXPECT_TRUE(well_behaved(line)) << line;
}

TEST(HouseRulesReader, Locale) {
  for (const char* line :
       {"std::snprintf(a, b, \"%.4f\", x);", "f(\"x %-8g\");", "std::stod(text);", "strtod(a, b);",
        "std::ostringstream out;", "\"%*.*e\""})
    EXPECT_FALSE(locale_faults({"core/a.hpp", std::string(line) + "\n"}).empty()) << line;
  for (const char* line : {"std::snprintf(a, b, \"%zu %td %s\", x);", "// printf's %.4f",
                           "\"100 %\"", "std::stoi(t);", "int stodgy;", "a % f(b)"})
    EXPECT_TRUE(locale_faults({"core/a.hpp", std::string(line) + "\n"}).empty()) << line;
}

TEST(SourceTree, CodeIsWithoutCommentsAndTexts) {
  EXPECT_EQ(code_of("a // b\nc"), "a     \nc");
  EXPECT_EQ(code_of("a /* b\n*/ c"), "a     \n   c");
  EXPECT_EQ(code_of("f(\"// no\", 'x');"), "f(\"     \", ' ');");
  EXPECT_EQ(code_of("\"a\\\"b\" c"), "\"    \" c");
  EXPECT_EQ(code_of("1'000 + x // '\ny"), "1'000 + x     \ny");
}

}  // namespace house_rules_test
