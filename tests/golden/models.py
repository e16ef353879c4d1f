"""Whole models: tiny bases with random weights, adapters that PEFT trained, logits and gradients."""
import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile

import peft
import torch
import transformers
from torch import nn

from common import Draw, save, versions, write_json

VOCAB, END, STEPS, ACCUMULATION, ROWS, TOKENS, PROMPT = 97, 2, 12, 3, 2, 17, 5
SPECIAL = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END}


def llama(**changed):
    return transformers.LlamaConfig(**{
        "hidden_size": 30, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 3,
        "num_key_value_heads": 3, "max_position_embeddings": 64, "initializer_range": 0.2,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, **SPECIAL, **changed})


def like_llama(cls, **changed):
    return cls(**{**{k: v for k, v in llama().to_dict().items() if k in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings", "initializer_range", "rms_norm_eps", "tie_word_embeddings")},
        **SPECIAL, **changed})


@dataclasses.dataclass
class Case:
    name: str
    config: object
    lora: dict
    dtype: torch.dtype = torch.float32
    shard: str = "1GB"


QWEN2, QWEN3, MISTRAL = transformers.Qwen2Config, transformers.Qwen3Config, transformers.MistralConfig
CASES = [
    Case("llama", llama(), {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj"]}),
    Case("llama3_gqa_tied",
         llama(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
               rope_parameters={"rope_type": "llama3", "rope_theta": 20000.0, "factor": 4.0,
                                "low_freq_factor": 1.0, "high_freq_factor": 3.0,
                                "original_max_position_embeddings": 24}),
         {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"}),
    Case("llama_bf16_sharded", llama(num_key_value_heads=1),
         {"r": 2, "lora_alpha": 5, "target_modules": ["o_proj", "up_proj"]}, torch.bfloat16, "18KB"),
    Case("llama_f16", llama(hidden_size=24, num_attention_heads=2, num_key_value_heads=2),
         {"r": 5, "lora_alpha": 6, "target_modules": ["k_proj", "down_proj"]}, torch.float16),
    Case("llama_linear_rope",
         llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}),
         {"r": 1, "lora_alpha": 4, "target_modules": ["q_proj", "k_proj"]}),
    Case("llama_embed", llama(num_key_value_heads=1),
         {"r": 3, "lora_alpha": 5, "target_modules": ["embed_tokens", "lm_head", "gate_proj"]}),
    Case("llama_regex_layers", llama(num_hidden_layers=3),
         {"r": 4, "lora_alpha": 9,
          "target_modules": r".*layers\.[02]\.(self_attn\.(k|v)_proj|mlp\.down_proj)"}),
    Case("qwen2", like_llama(QWEN2, num_key_value_heads=1, tie_word_embeddings=True),
         {"r": 3, "lora_alpha": 5, "use_rslora": True,
          "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
    Case("qwen2_bias_head", like_llama(QWEN2, hidden_size=24, num_key_value_heads=3),
         {"r": 2, "lora_alpha": 3, "target_modules": ["k_proj", "v_proj"], "bias": "lora_only",
          "modules_to_save": ["lm_head"]}),
    Case("qwen3", like_llama(QWEN3, num_key_value_heads=1, head_dim=14),
         {"r": 3, "lora_alpha": 8, "target_modules": "all-linear"}),
    Case("mistral", like_llama(MISTRAL, num_key_value_heads=1, sliding_window=5),
         {"r": 3, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj", "up_proj"],
          "rank_pattern": {"v_proj": 1, "layers.0.mlp.up_proj": 5}, "alpha_pattern": {"up_proj": 2}}),
    Case("gpt2", transformers.GPT2Config(n_embd=28, n_head=2, n_layer=2, n_inner=50, n_positions=48,
                                         initializer_range=0.2, **SPECIAL),
         {"r": 3, "lora_alpha": 5, "target_modules": ["c_attn", "c_proj", "c_fc"],
          "fan_in_fan_out": True}),
    Case("llama_dora", llama(num_key_value_heads=1),
         {"r": 3, "lora_alpha": 7, "use_dora": True, "use_rslora": True,
          "target_modules": ["q_proj", "v_proj", "down_proj", "embed_tokens"]}),
    Case("gpt2_dora", transformers.GPT2Config(n_embd=24, n_head=2, n_layer=2, n_positions=48,
                                              initializer_range=0.2, **SPECIAL),
         {"r": 2, "lora_alpha": 5, "use_dora": True, "target_modules": ["c_attn", "c_proj"],
          "fan_in_fan_out": True}),
]


@contextlib.contextmanager
def truly_double():
    """Replaces float32, which transformers requests in norms, softmax and the loss, by double."""
    to, as_float, arange, softmax = torch.Tensor.to, torch.Tensor.float, torch.arange, nn.functional.softmax

    def wide(value):
        return torch.float64 if value is torch.float32 else value

    def widened(function):
        return lambda *args, **named: function(*map(wide, args), **{k: wide(v) for k, v in named.items()})

    torch.Tensor.to, torch.Tensor.float = widened(to), torch.Tensor.double
    torch.arange, nn.functional.softmax = widened(arange), widened(softmax)
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.float = to, as_float
        torch.arange, nn.functional.softmax = arange, softmax


def round_angles(rotary):
    """Rotary angles, cosines and sines: the only numbers that stay float32, in the library as in transformers."""
    step = type(rotary)(config=rotary.config).inv_freq.type(torch.float32)

    def forward(x, position_ids):
        angle = (position_ids[..., None].type(torch.float32) * step).double()
        both = torch.cat((angle, angle), dim=-1)
        return both.cos().type(torch.float32).double(), both.sin().type(torch.float32).double()

    assert rotary.attention_scaling == 1
    rotary.forward = forward


def make_base(case, folder):
    """A base with random weights, including norms and biases, as save_pretrained writes it."""
    draw = Draw("base " + case.name)
    torch.manual_seed(draw.seed)
    model = transformers.AutoModelForCausalLM.from_config(case.config)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 1:
                centre = 0.0 if name.endswith("bias") else 1.0
                parameter.copy_(centre + draw.normal(*parameter.shape, scale=0.2))
    model.to(case.dtype).save_pretrained(folder, max_shard_size=case.shard)


def load_base(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()


def make_batches(case):
    draw = Draw("batches " + case.name)
    shape = (STEPS * ACCUMULATION, ROWS, TOKENS)
    ids = draw.integers(3, VOCAB, shape)
    labels = ids.clone()
    labels[draw.uniform(*shape) < 0.3] = -100  # unequal counts: the mean is that of the whole step
    return ids, labels


def loss_of(model, ids, labels, **more):
    return model(input_ids=ids, labels=labels, **more)


def greedy(model, prompt, total=24):
    ids = prompt.tolist()
    while len(ids) < total:
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        best = logits.topk(2).values
        if (best[0] - best[1]) < 1e-3 * logits.abs().max():
            raise RuntimeError("two ids are nearly as likely: choose another prompt")
        ids.append(logits.argmax().item())
        if ids[-1] == END:
            break
    return ids


def prompt_for(name, model):
    """The first random prompt whose greedy ids do not depend on rounding."""
    draw = Draw("prompt " + name)
    while True:
        try:
            return greedy(model, draw.integers(3, VOCAB, (PROMPT,)))
        except RuntimeError:
            continue


def train(model, ids, labels):
    options = {"steps": STEPS, "gradient_accumulation_steps": ACCUMULATION, "learning_rate": 2e-3,
               "weight_decay": 0.02, "betas": [0.9, 0.999], "eps": 1e-8,
               "lr_scheduler_type": "cosine", "warmup_steps": 3, "max_grad_norm": 1.0}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=options["learning_rate"], betas=tuple(options["betas"]),
                                  eps=options["eps"], weight_decay=options["weight_decay"], foreach=False)
    schedule = transformers.get_scheduler("cosine", optimiser, num_warmup_steps=options["warmup_steps"],
                                          num_training_steps=STEPS)
    trajectory = []
    for step in range(STEPS):
        micro = range(step * ACCUMULATION, (step + 1) * ACCUMULATION)
        counted = sum((labels[m, :, 1:] != -100).sum() for m in micro)
        loss = 0.0
        for m in micro:
            part = loss_of(model, ids[m], labels[m], num_items_in_batch=counted).loss
            part.backward()
            loss += part.item()
        norm = nn.utils.clip_grad_norm_(parameters, options["max_grad_norm"])
        trajectory.append({"step": step + 1, "loss": loss, "grad_norm": norm.item(),
                           "learning_rate": schedule.get_last_lr()[0]})
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return {**options, "trajectory": trajectory}


def gradients(model, prefix):
    """Gradients by PEFT's names in files, including the wrapper of a saved module or a base's bias."""
    return {f"{prefix}.{name.replace('.default', '')}": p.grad
            for name, p in model.named_parameters() if p.requires_grad}


def with_adapter(base, folder):
    return peft.PeftModel.from_pretrained(base, folder, is_trainable=True).eval()


def in_double(case, folder, ids, labels):
    with truly_double():
        base = load_base(folder / "base").double()
        model = with_adapter(base, folder / "adapter").double()
        for module in model.modules():
            if hasattr(module, "inv_freq"):
                round_angles(module)
        assert all(t.dtype == torch.float64 for t in [*model.parameters(), *model.buffers()]
                   if t.is_floating_point())
        out = loss_of(model, ids, labels)
        assert out.logits.dtype == out.loss.dtype == torch.float64
        out.loss.backward()
    return out, gradients(model, "grad_f64")


def make_case(case, folder):
    lora = dict(case.lora)
    make_base(case, folder / "base")
    ids, labels = make_batches(case)
    save(folder / "batches.safetensors", {"input_ids": ids, "labels": labels})
    numbers = {"model": case.name, "lora": lora}
    tensors = {"input_ids": ids[0], "labels": labels[0]}

    base = load_base(folder / "base")
    with torch.no_grad():
        out = loss_of(base, ids[0], labels[0], output_hidden_states=True)
        tensors["base_logits"], tensors["hidden_1"] = out.logits, out.hidden_states[1]
        numbers["base_loss"] = out.loss.item()
        numbers["prompt_length"] = PROMPT
        numbers["base_generated"] = prompt_for(case.name + " base", base)

    torch.manual_seed(Draw("adapter " + case.name).seed)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **lora))
    model.peft_config["default"].base_model_name_or_path = f"tests/golden/models/{case.name}/base"
    save(folder / "adapter_init.safetensors",
         peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    numbers["trainable"], numbers["all"] = model.get_nb_trainable_parameters()
    numbers["training"] = train(model, ids, labels)
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    (folder / "adapter" / "README.md").unlink()

    model = with_adapter(load_base(folder / "base"), folder / "adapter")
    out = loss_of(model, ids[0], labels[0])
    out.loss.backward()
    tensors["adapter_logits"], numbers["adapter_loss"] = out.logits, out.loss.item()
    tensors.update(gradients(model, "grad"))
    with torch.no_grad():
        numbers["adapter_generated"] = prompt_for(case.name + " adapter", model)
        tensors["merged_logits"] = model.merge_and_unload()(input_ids=ids[0]).logits

    exact, exact_gradients = in_double(case, folder, ids[0], labels[0])
    tensors["adapter_logits_f64"] = exact.logits
    tensors.update(exact_gradients)
    numbers["adapter_loss_f64"] = exact.loss.item()
    numbers["f64"] = "double throughout, but for rotary angles, cosines and sines, which are rounded to float32"
    numbers["versions"] = versions("torch", "transformers", "peft")
    save(folder / "golden.safetensors", tensors)
    write_json(folder / "golden.json", numbers, indent=None)


def make(folder):
    for case in CASES:
        make_case(case, folder / case.name)
