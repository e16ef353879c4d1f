"""A whole language model with random weights under PyTorch + transformers + PEFT on the CPU: the
other side of compare_models.sh.

    torch_language_model.py WHAT MODEL DTYPE TOKENS THREADS

WHAT is step, step_checkpointing or step_full (forward, backward, clipping and AdamW), decode or
decode_adapter (one token at a time after a short prompt), or prompt (TOKENS at once). MODEL is
llama_134M, gpt2_124M or qwen_494M; DTYPE float32 or bfloat16. LoRA of rank 16 is on all linear layers
(for GPT-2 on c_attn and attn.c_proj). Prints the least time in milliseconds and the largest resident
memory in MB.
"""

import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM)


def base_model(name):
    if name == "gpt2_124M":
        return GPT2LMHeadModel(GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    if name == "llama_134M":
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
            num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=4096))
    return Qwen2ForCausalLM(Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, max_position_embeddings=4096,
        tie_word_embeddings=True))


def with_adapter(model, name):
    gpt2 = name == "gpt2_124M"
    return get_peft_model(model, LoraConfig(
        r=16, lora_alpha=32, fan_in_fan_out=gpt2, task_type="CAUSAL_LM",
        target_modules=["c_attn", "attn.c_proj"] if gpt2 else "all-linear"))


def least_time(run, seconds, least_runs):
    run()
    least, end = float("inf"), time.perf_counter() + seconds
    for turn in range(10**6):
        begin = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - begin)
        if turn + 1 >= least_runs and time.perf_counter() > end:
            return least * 1e3


def main():
    what, name, dtype, tokens, threads = sys.argv[1:]
    tokens = int(tokens)
    torch.manual_seed(0)
    torch.set_num_threads(int(threads))
    model = base_model(name).to(getattr(torch, dtype))
    ids = torch.randint(0, 30000, (1, tokens))
    if what == "step_checkpointing":
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    if what in ("step", "step_checkpointing", "decode_adapter"):
        model = with_adapter(model, name)

    if what.startswith("step"):
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)

        def run():
            optimizer.zero_grad(set_to_none=True)
            model(input_ids=ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
    elif what == "prompt":
        model.eval()

        def run():
            with torch.no_grad():
                model(input_ids=ids, use_cache=True, logits_to_keep=1)
    else:
        model.eval()
        with torch.no_grad():
            cache = model(input_ids=torch.randint(0, 30000, (1, 16)), use_cache=True).past_key_values
        token = ids[:, :1]

        def run():
            if cache.get_seq_length() >= 144:
                cache.crop(16)
            with torch.no_grad():
                model(input_ids=token, past_key_values=cache, use_cache=True)

    long = what.startswith("step")
    milliseconds = least_time(run, 4 if long else 2, 3 if long else 30)
    print(f"{milliseconds:.3f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-6:.0f}")


main()
