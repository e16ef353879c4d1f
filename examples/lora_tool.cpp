// Looks at adapters, merges, combines, extracts and converts them: lora_tool --help.
#include "support/tool_commands.hpp"

int main(int argc, char** argv) { return examples::run_tool(argc, argv); }
