// Everything for language models: lora.hpp, models as transformers saves them, tokenizers and
// instruction data, training, generation, and the files of PEFT and GGUF.
#pragma once

#include <lora/lora.hpp>

#include <lora/io/gguf/gguf.hpp>
#include <lora/io/hf/checkpoint_merge.hpp>
#include <lora/io/hf/hf_checkpoint.hpp>
#include <lora/io/hf/hf_generation_config.hpp>
#include <lora/io/hf/save_model.hpp>
#include <lora/io/peft/pretrained.hpp>
#include <lora/models/causal_lm.hpp>
#include <lora/serve/generate.hpp>
#include <lora/text/data/packing.hpp>
#include <lora/text/data/tokenized_example.hpp>
#include <lora/text/tokenizer/streaming_decoder.hpp>
#include <lora/text/tokenizer/tokenizer_files.hpp>
#include <lora/train/language_model_task.hpp>
#include <lora/train/layer_report.hpp>
#include <lora/train/live_line.hpp>
#include <lora/train/metrics_log.hpp>
#include <lora/train/trainer.hpp>
