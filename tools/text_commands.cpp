// lora tokenize and data.
#include "commands.hpp"
#include "data.hpp"
#include "tokenize.hpp"

namespace tools {

int run_tokenize(int argc, const char* const* argv) { return tokenize_command(argc, argv); }
int run_data(int argc, const char* const* argv) { return data_command(argc, argv); }

}  // namespace tools
