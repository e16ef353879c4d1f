// Reads and writes the safetensors format. See SafetensorsFile and SafetensorsWriter.
#pragma once

#include <lora/io/safetensors/safetensors_reader.hpp>
#include <lora/io/safetensors/safetensors_writer.hpp>
