"""Merges adapters that PEFT made and compares logits.

    merge.py LORA FOLDER

For five architectures, head tied and not, one file and shards, each kind of adapter: `lora merge`
writes a checkpoint; transformers loads it and must give the logits of PEFT's adapted model; `lora
score` must give the same of base and adapter, and of the merged checkpoint.
"""
import itertools
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
lora, work = sys.argv[1], Path(sys.argv[2])
V, D = 50, 16
small = dict(vocab_size=V, hidden_size=D, intermediate_size=24, num_hidden_layers=2,
             num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=64)
CONFIGS = {
    "llama": lambda tied: transformers.LlamaConfig(**small, tie_word_embeddings=tied),
    "mistral": lambda tied: transformers.MistralConfig(**small, tie_word_embeddings=tied),
    "qwen2": lambda tied: transformers.Qwen2Config(**small, tie_word_embeddings=tied),
    "qwen3": lambda tied: transformers.Qwen3Config(**small, tie_word_embeddings=tied),
    "gpt2": lambda tied: transformers.GPT2Config(vocab_size=V, n_embd=D, n_layer=2, n_head=2,
                                                 n_positions=64, tie_word_embeddings=tied),
}


def kinds(name):
    gpt2 = name == "gpt2"
    one = "c_proj" if gpt2 else "o_proj"
    table = "wte" if gpt2 else "embed_tokens"
    linear = ["c_attn", "c_proj", "c_fc"] if gpt2 else ["q_proj", "v_proj", "o_proj", "down_proj"]
    return {
        "linear": dict(target_modules=linear),
        "rslora, biases": dict(target_modules=linear, use_rslora=True, bias="all"),
        "dora": dict(target_modules=linear, use_dora=True),
        "dora, embedding": dict(target_modules=[one, table], use_dora=True, use_rslora=True),
        "head": dict(target_modules=[one, "lm_head"]),
        "embedding": dict(target_modules=[one, table]),
        "both": dict(target_modules=[one, table, "lm_head"]),
        "saved head": dict(target_modules=[one], modules_to_save=["lm_head"]),
        "saved embedding": dict(target_modules=[one], modules_to_save=[table]),
        "saved both": dict(target_modules=[one], modules_to_save=[table, "lm_head"]),
    }


def logits(model):
    with torch.no_grad():
        return model.eval()(ids).logits


def ours(model, adapter=None):
    out = work / "logits.safetensors"
    command = [lora, "score", "--model", model, "--ids", work / "ids.safetensors", "--logits", out]
    subprocess.run(command + (["--adapter", adapter] if adapter else []), check=True,
                   capture_output=True)
    return load_file(out)["logits"]


def far(one, two):
    return ((one - two).abs().max() / two.abs().max()).item()


ids = torch.arange(1, 25).reshape(2, 12)
save_file({"input_ids": ids, "labels": ids.clone()}, work / "ids.safetensors")
print(f"PEFT {peft.__version__}, transformers {transformers.__version__}")
failed, count, worst = 0, 0, {}
for name, tied, sharded in itertools.product(CONFIGS, (False, True), (False, True)):
    torch.manual_seed(3)
    base = work / f"{name} {tied} {sharded}"
    model = AutoModelForCausalLM.from_config(CONFIGS[name](tied))
    model.save_pretrained(base, max_shard_size="6KB" if sharded else "1GB")
    for kind, options in kinds(name).items():
        flags = (None, not (name == "gpt2")) if kind == "linear" else (None,)
        for flag in flags:  # as PEFT saved it, and wrong
            adapter, merged = work / "adapter", work / "merged"
            shutil.rmtree(adapter, ignore_errors=True)
            shutil.rmtree(merged, ignore_errors=True)
            adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base),
                                     LoraConfig(r=3, lora_alpha=5, **options))
            with torch.no_grad():
                for p in adapted.parameters():
                    if p.requires_grad:
                        p.add_(torch.randn_like(p) * 0.2)
            adapted.save_pretrained(adapter)
            if flag is not None:
                path = adapter / "adapter_config.json"
                path.write_text(json.dumps(json.loads(path.read_text()) | {"fan_in_fan_out": flag}))
            wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base),
                                                      adapter))
            done = subprocess.run([lora, "merge", "--quiet", "--base", base, "--adapter", adapter,
                                   "--output", merged], capture_output=True, text=True)
            if done.returncode != 0:
                print(f"FAILED {base.name}, {kind}: {done.stderr.strip()}")
                failed += 1
                continue
            errors = {
                "transformers, merged": far(logits(AutoModelForCausalLM.from_pretrained(merged)),
                                            wanted),
                "ours, merged": far(ours(merged), wanted),
                "ours, adapter": far(ours(base, adapter), wanted),
            }
            count += 1
            for what, error in errors.items():
                worst[what] = max(worst.get(what, 0), error)
                if not error <= 1e-5:
                    failed += 1
                    print(f"FAILED {base.name}, {kind}, fan_in_fan_out {flag}: {what} {error:.1e}")
print(f"{count} merges; largest differences from PEFT's adapted model: "
      + ", ".join(f"{what} {error:.1e}" for what, error in worst.items()))
sys.exit(1 if failed else 0)
