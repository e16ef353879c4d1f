// The frame of every program's main: reports errors, lost output and exhausted memory.
#pragma once

#include <cstdlib>
#include <exception>
#include <iostream>
#include <new>
#include <string>

namespace tools {

/// The program's name in messages, and advice for its user.
struct ProgramWords {
  std::string name;
  std::string if_memory_runs_out = "";  ///< what helps, such as "a smaller batch"
  int failure = 2;                      ///< exit code of an error
};

/// Removes the program's name from the start of a message if the library has put it there too, as
/// in "generate: the prompt is empty" for "lora generate".
inline std::string reason_of(const std::string& program, const std::string& what) {
  const std::string own = program.substr(program.rfind(' ') + 1) + ": ";
  return what.starts_with(own) ? what.substr(own.size()) : what;
}

/// Reports that memory ran out, and ends the process without running destructors: when Eigen 3.4
/// fails to grow a matrix in an assignment, it leaves the matrix with a pointer to freed memory.
[[noreturn]] inline void end_without_memory(const ProgramWords& words) {
  std::cerr << words.name << ": out of memory"
            << (words.if_memory_runs_out.empty() ? "" : ". What helps: " + words.if_memory_runs_out)
            << std::endl;
  std::_Exit(words.failure);
}

/// Runs body(), which returns the exit code, and reports errors on standard error. If there is
/// none, output that could not be written is an error too.
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
            << ": standard output: could not be written completely (no space left?)\n";
  return code == 0 ? words.failure : code;
}

}  // namespace tools
