// lora finetune, generate and score. They are in one file because most of the time to compile them
// goes into the model code they share.
#include "commands.hpp"
#include "finetune.hpp"
#include "generate.hpp"
#include "score.hpp"

namespace tools {

int run_finetune(int argc, const char* const* argv) { return finetune_command(argc, argv); }
int run_generate(int argc, const char* const* argv) { return generate_command(argc, argv); }
int run_score(int argc, const char* const* argv) { return score_command(argc, argv); }

}  // namespace tools
