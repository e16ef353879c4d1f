// What the mains of the example programs share: errors, lost output and memory that runs out.
#pragma once

#include <cstdlib>
#include <exception>
#include <iostream>
#include <new>
#include <string>

namespace tools {

/// The program as its messages name it, and what its user can do.
struct ProgramWords {
  std::string name;
  std::string if_memory_runs_out = "";  ///< what helps: "a smaller batch"
  int failure = 2;                      ///< exit code of an error
};

/// What an error says, without the program's name before it where the library has put it there too:
/// "generate: the prompt is empty" of "lora generate".
inline std::string reason_of(const std::string& program, const std::string& what) {
  const std::string own = program.substr(program.rfind(' ') + 1) + ": ";
  return what.starts_with(own) ? what.substr(own.size()) : what;
}

/// Says that memory ran out, and ends the process. A matrix that an expression was assigned to was
/// grown by Eigen 3.4 itself, which leaves it with a pointer to freed memory: nothing is taken down
/// any more.
[[noreturn]] inline void end_without_memory(const ProgramWords& words) {
  std::cerr << words.name << ": out of memory"
            << (words.if_memory_runs_out.empty() ? "" : ". What helps: " + words.if_memory_runs_out)
            << std::endl;
  std::_Exit(words.failure);
}

/// Runs body(), which returns the exit code, and says errors on standard error. What was printed and
/// could not be written is an error too, unless there was another.
template <class Body>
int run_program(const ProgramWords& words, Body&& body) {
  int code = words.failure;
  try {
    code = body();
  } catch (const std::bad_alloc&) {
    end_without_memory(words);
  } catch (const std::exception& error) {
    std::cerr << words.name << ": " << reason_of(words.name, error.what()) << "\n";
  }
  if (std::cout.flush()) return code;
  std::cerr << words.name
            << ": standard output: could not be written to the end (no space left?)\n";
  return code == 0 ? words.failure : code;
}

}  // namespace tools
