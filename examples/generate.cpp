// Writes text with a language model and its adapters: generate --help.
#include "support/generate_run.hpp"

int main(int argc, char** argv) { return examples::run_generate(argc, argv); }
