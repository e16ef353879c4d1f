// Everything that a program with its own matrices needs: layers, adapters, optimisers. Files are in
// lora/io/; lora/llm.hpp adds tokenizers and language models.
#pragma once

#include <lora/adapters/lora_model.hpp>
#include <lora/core/error.hpp>
#include <lora/core/parallel.hpp>
#include <lora/core/parameter.hpp>
#include <lora/core/random.hpp>
#include <lora/core/types.hpp>
#include <lora/layers/lora_conv2d.hpp>
#include <lora/layers/lora_embedding.hpp>
#include <lora/layers/lora_linear.hpp>
#include <lora/models/mlp.hpp>
#include <lora/nn/activations.hpp>
#include <lora/nn/losses.hpp>
#include <lora/optim/adamw.hpp>
#include <lora/optim/clip_grad.hpp>
#include <lora/optim/parameter_groups.hpp>
#include <lora/optim/schedule.hpp>
#include <lora/optim/sgd.hpp>
#include <lora/weights/frozen_weight.hpp>
