// Fine-tunes language models with LoRA, and looks after adapters, models and data: lora help.
#include "commands.hpp"

int main(int argc, char** argv) { return tools::run_lora(argc, argv); }
