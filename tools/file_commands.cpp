// lora merge, combine, extract, to-gguf, from-gguf, convert, info and diff.
#include "file_commands.hpp"

#include "commands.hpp"

namespace tools {

using Line = detail::FileCommandLine;

int run_merge(int argc, const char* const* argv) {
  return run_file_command("lora merge", &Line::add_merge, detail::merge_command, argc, argv);
}
int run_combine(int argc, const char* const* argv) {
  return run_file_command("lora combine", &Line::add_combine, detail::combine_command, argc, argv);
}
int run_extract(int argc, const char* const* argv) {
  return run_file_command("lora extract", &Line::add_extract, detail::extract_command, argc, argv);
}
int run_to_gguf(int argc, const char* const* argv) {
  return run_file_command("lora to-gguf", &Line::add_to_gguf, detail::to_gguf_command, argc, argv);
}
int run_from_gguf(int argc, const char* const* argv) {
  return run_file_command("lora from-gguf", &Line::add_from_gguf, detail::from_gguf_command, argc,
                          argv);
}
int run_convert(int argc, const char* const* argv) {
  return run_file_command("lora convert", &Line::add_convert, detail::convert_command, argc, argv);
}
int run_info(int argc, const char* const* argv) {
  return run_file_command("lora info", &Line::add_info, detail::info_command, argc, argv);
}
int run_diff(int argc, const char* const* argv) {
  return run_file_command("lora diff", &Line::add_diff, detail::diff_command, argc, argv);
}

}  // namespace tools
