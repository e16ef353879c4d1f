// The commands of the program lora, one function each.
#pragma once

namespace tools {

/// Each takes the command's name as argv[0] and its options after it, reports errors on standard
/// error, and returns the exit code of the process.
int run_finetune(int argc, const char* const* argv);
int run_generate(int argc, const char* const* argv);
int run_score(int argc, const char* const* argv);
int run_merge(int argc, const char* const* argv);
int run_combine(int argc, const char* const* argv);
int run_extract(int argc, const char* const* argv);
int run_to_gguf(int argc, const char* const* argv);
int run_from_gguf(int argc, const char* const* argv);
int run_convert(int argc, const char* const* argv);
int run_info(int argc, const char* const* argv);
int run_diff(int argc, const char* const* argv);
int run_tokenize(int argc, const char* const* argv);
int run_data(int argc, const char* const* argv);

/// Runs the program: the command that argv[1] names, or help or the version.
int run_lora(int argc, const char* const* argv);

}  // namespace tools
