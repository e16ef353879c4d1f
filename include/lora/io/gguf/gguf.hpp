// Reads and writes GGUF, the format of llama.cpp.
#pragma once

#include <lora/io/gguf/gguf_reader.hpp>
#include <lora/io/gguf/gguf_writer.hpp>
