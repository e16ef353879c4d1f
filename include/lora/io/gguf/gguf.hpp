// GGUF files: llama.cpp's format, for reading and writing.
#pragma once

#include <lora/io/gguf/gguf_reader.hpp>
#include <lora/io/gguf/gguf_writer.hpp>
