// Fine-tunes language models with LoRA, and manages adapters, models and data: see lora help.
#include "commands.hpp"

int main(int argc, char** argv) { return tools::run_lora(argc, argv); }
