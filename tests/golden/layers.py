"""The numbers of PEFT and PyTorch for layers, optimisers, schedules, losses, activations and names."""
import copy
import math
import warnings

import peft
import torch
import transformers
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from common import Draw, save, versions, write_json

LINEAR = "y = x W^T + b + s (x A^T + bA) B^T (+ s bB); loss = sum(y * dy)"


class Holder(nn.Module):
    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


def adapted(draw, modules, configs, dtype=torch.float64):
    """The modules with one adapter per configuration, every tensor random."""
    model = Holder(**modules)
    for name, config in configs.items():
        config = peft.LoraConfig(target_modules=list(modules), **config)
        peft.inject_adapter_in_model(config, model, adapter_name=name)
    model.to(dtype)
    draw.fill(model, 0.5)
    return model


def base_of(layer, prefix=""):
    tensors = {prefix + "W": layer.base_layer.weight}
    if layer.base_layer.bias is not None:
        tensors[prefix + "b"] = layer.base_layer.bias
    return tensors


def factors_of(layer, name="default", prefix=""):
    if name in layer.lora_embedding_A:
        return {prefix + "A": layer.lora_embedding_A[name], prefix + "B": layer.lora_embedding_B[name]}
    tensors = {prefix + "A": layer.lora_A[name].weight, prefix + "B": layer.lora_B[name].weight}
    if layer.lora_B[name].bias is not None:
        tensors[prefix + "bB"] = layer.lora_B[name].bias
    return tensors


def gradients(tensors):
    """Adds d<name> for each trained <name>."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.grad is None:
            continue
        prefix, dot, last = name.rpartition(".")
        found[prefix + dot + "d" + last] = tensor.grad
    return found


class Cases:
    def __init__(self, folder):
        self.folder, self.rows = folder, []

    def add(self, name, kind, what, tensors=None, file=None, **fields):
        row = {"name": name, "kind": kind}
        if tensors is not None:
            file = name + ".safetensors"
            save(self.folder / file, tensors)
        if file is not None:
            row["file"] = file
        self.rows.append({**row, "what": what, **fields})


# ---- layers ----

# name: (T, D, O), configuration, whether the base has a bias
LINEARS = {
    "linear_plain": ((4, 9, 6), {"r": 2, "lora_alpha": 2}, False),
    "linear_bias": ((6, 5, 10), {"r": 4, "lora_alpha": 6}, True),
    "linear_rslora": ((5, 11, 8), {"r": 5, "lora_alpha": 3, "use_rslora": True}, False),
    "linear_fan_in_fan_out": ((3, 10, 7), {"r": 4, "lora_alpha": 5, "fan_in_fan_out": True}, True),
    "linear_bias_trainable": ((7, 6, 9), {"r": 2, "lora_alpha": 7, "bias": "lora_only"}, True),
    "linear_lora_bias": ((5, 8, 5), {"r": 3, "lora_alpha": 4, "lora_bias": True}, True),
    "linear_rank_1": ((9, 4, 13), {"r": 1, "lora_alpha": 3}, False),
    "linear_one_token": ((1, 12, 5), {"r": 4, "lora_alpha": 10}, False),
    "linear_batched": (((3, 4), 6, 7), {"r": 2, "lora_alpha": 5}, True),
    "linear_rank_above_both": ((8, 5, 3), {"r": 11, "lora_alpha": 9}, False),
    "linear_large_alpha": ((4, 7, 9), {"r": 2, "lora_alpha": 1500}, False),
    "linear_medium": ((37, 71, 53), {"r": 12, "lora_alpha": 30}, True),
}


def linears(cases):
    for name, (shape, config, bias) in LINEARS.items():
        draw = Draw(name)
        T, D, O = shape
        rows = T if isinstance(T, tuple) else (T,)
        layer = Conv1D(O, D) if config.get("fan_in_fan_out") else nn.Linear(D, O, bias=bias)
        model = adapted(draw, {"layer": layer}, {"default": config})
        layer = model.layer
        x, dy = draw.normal(*rows, D).requires_grad_(), draw.normal(*rows, O)
        y = layer(x)
        (y * dy).sum().backward()
        tensors = {"x": x, "dy": dy, "y": y, "dx": x.grad, **base_of(layer), **factors_of(layer)}
        trained = dict(factors_of(layer))
        if config.get("bias") == "lora_only":
            trained["b"] = layer.base_layer.bias
        cases.add(name, "linear", LINEAR + "; fan_in_fan_out stores W as (in, out)",
                  {**tensors, **gradients(trained)}, config=config, scaling=layer.scaling["default"])


class Mask(nn.Module):
    """Applies dropout with this mask."""

    def __init__(self, mask, p):
        super().__init__()
        self.mask, self.p = mask, p

    def forward(self, x):
        return x * self.mask / (1 - self.p)


def dropout(cases):
    draw, p = Draw("linear_dropout_mask"), 0.4
    config = {"r": 2, "lora_alpha": 5, "lora_dropout": p}
    layer = adapted(draw, {"layer": nn.Linear(9, 5, bias=False)}, {"default": config}).layer
    mask = (draw.uniform(8, 9) >= p).double()
    layer.lora_dropout["default"] = Mask(mask, p)
    x, dy = draw.normal(8, 9).requires_grad_(), draw.normal(8, 5)
    y = layer(x)
    (y * dy).sum().backward()
    factors = factors_of(layer)
    cases.add("linear_dropout_mask", "linear_dropout", "adapter input is x * mask / (1 - p)",
              {"x": x, "dy": dy, "y": y, "dx": x.grad, "mask": mask, **base_of(layer), **factors,
               **gradients(factors)}, p=p, config=config, scaling=layer.scaling["default"])


def graphs(cases):
    silu = nn.functional.silu
    draw, config = Draw("stacked_silu"), {"r": 4, "lora_alpha": 7}
    model = adapted(draw, {"a": nn.Linear(6, 10), "b": nn.Linear(10, 4)}, {"default": config})
    x, dy = draw.normal(9, 6).requires_grad_(), draw.normal(9, 4)
    y = model.b(silu(model.a(x)))
    (y * dy).sum().backward()
    factors = {**factors_of(model.a, prefix="a."), **factors_of(model.b, prefix="b.")}
    cases.add("stacked_silu", "stacked", "y = b(silu(a(x)))",
              {"x": x, "dy": dy, "y": y, "dx": x.grad, **base_of(model.a, "a."),
               **base_of(model.b, "b."), **factors, **gradients(factors)},
              config=config, scaling=model.a.scaling["default"])

    draw, config = Draw("shared_twice"), {"r": 2, "lora_alpha": 3}
    model = adapted(draw, {"a": nn.Linear(6, 6)}, {"default": config})
    x, dy = draw.normal(8, 6).requires_grad_(), draw.normal(8, 6)
    y = model.a(silu(model.a(x)))
    (y * dy).sum().backward()
    factors = factors_of(model.a, prefix="a.")
    cases.add("shared_twice", "shared", "y = a(silu(a(x))): gradients of both uses add",
              {"x": x, "dy": dy, "y": y, "dx": x.grad, **base_of(model.a, "a."), **factors,
               **gradients(factors)}, config=config, scaling=model.a.scaling["default"])


def several(cases):
    draw = Draw("several_adapters")
    configs = {"default": {"r": 4, "lora_alpha": 6}, "second": {"r": 1, "lora_alpha": 3},
               "third": {"r": 3, "lora_alpha": 5, "use_rslora": True}}
    model = adapted(draw, {"layer": nn.Linear(8, 5)}, configs)
    layer, x = model.layer, draw.normal(7, 8)
    tensors = {"x": x, **base_of(layer)}
    for name in configs:
        tensors.update(factors_of(layer, name, name + "."))
    for active in (["default"], ["third"], ["second", "default"], ["default", "third", "second"]):
        layer.set_adapter(active)
        tensors["y." + "+".join(active)] = layer(x)
    rows = ["third", "__base__", "default", "default", "second", "__base__", "third"]
    layer.eval()
    tensors["y.rows"] = layer(x, adapter_names=rows)
    layer.enable_adapters(False)
    tensors["y.disabled"] = layer(x)
    cases.add("several_adapters", "several",
              "active adapters add; y.rows uses one adapter name a row", tensors, configs=configs,
              scaling=dict(layer.scaling), rows=rows)


def embeddings(cases):
    for name, (V, D), shape, config in [
        ("embedding", (10, 6), (3, 4), {"r": 2, "lora_alpha": 5}),
        ("embedding_rslora", (5, 9), (7,), {"r": 6, "lora_alpha": 4, "use_rslora": True}),
    ]:
        draw = Draw(name)
        layer = adapted(draw, {"layer": nn.Embedding(V, D)}, {"default": config}).layer
        ids, dy = draw.integers(0, V, shape), draw.normal(*shape, D)
        y = layer(ids)
        (y * dy).sum().backward()
        factors = factors_of(layer)
        cases.add(name, "embedding", "y = W[ids] + s (A^T[ids]) B^T; W (V,D), A (r,V), B (D,r)",
                  {"ids": ids, "dy": dy, "y": y, "W": layer.base_layer.weight, **factors,
                   **gradients(factors)}, config=config, scaling=layer.scaling["default"])


# name: channels in and out, kernel, the options of the convolution, the size of an image, rank and alpha
CONVOLUTIONS = {
    "conv2d_3x3": (3, 5, 3, {"padding": 1}, (6, 9), (2, 3)),
    "conv2d_1x1": (5, 4, 1, {}, (4, 7), (3, 4)),
    "conv2d_stride": (3, 4, 3, {"stride": 2, "padding": 2}, (8, 5), (5, 4)),
    "conv2d_5x5": (2, 3, 5, {"padding": 2}, (5, 6), (2, 5)),
    "conv2d_groups": (6, 9, 3, {"padding": 1, "groups": 3}, (5, 4), (3, 2)),
    "conv2d_dilated": (3, 5, 3, {"dilation": 2}, (6, 9), (2, 3)),
}


def convolutions(cases):
    for name, (C, O, kernel, options, size, (r, alpha)) in CONVOLUTIONS.items():
        draw, config = Draw(name), {"r": r, "lora_alpha": alpha}
        conv = nn.Conv2d(C, O, kernel, **options)
        layer = adapted(draw, {"layer": conv}, {"default": config}).layer
        x = draw.normal(2, C, *size).requires_grad_()
        try:
            y = layer(x)
        except RuntimeError as error:
            cases.add(name, "refused by PEFT", str(error))
            continue
        dy = draw.normal(*y.shape)
        (y * dy).sum().backward()
        factors = factors_of(layer)
        tensors = {"x": x, "dy": dy, "y": y, "dx": x.grad, **base_of(layer), **factors,
                   **gradients(factors)}
        if conv.groups == 1:  # PEFT cannot compute it with groups
            tensors["delta"] = layer.get_delta_weight("default")
        cases.add(name, "conv2d", "y = conv(x, W) + b + s conv1x1(conv(x, A), B)", tensors,
                  config=config, scaling=layer.scaling["default"], stride=conv.stride[0],
                  padding=conv.padding[0], dilation=conv.dilation[0], groups=conv.groups,
                  A_groups=layer.lora_A["default"].groups, B_groups=layer.lora_B["default"].groups)


def merges(cases):
    for name, dtype in [("merge_float32", torch.float32), ("merge_bfloat16", torch.bfloat16)]:
        draw, config = Draw(name), {"r": 5, "lora_alpha": 4}
        layer = adapted(draw, {"layer": nn.Linear(10, 6, bias=False)}, {"default": config},
                        torch.float32).layer
        layer.base_layer.to(dtype)
        tensors = {**base_of(layer), **factors_of(layer)}
        tensors = {key: t.detach().clone() for key, t in tensors.items()}
        layer.merge()
        cases.add(name, "merge",
                  "merged = W + s B A (PEFT rounds in W's type; we add in float32 and round once: "
                  "compare within one unit in the last place)",
                  {**tensors, "merged": layer.base_layer.weight}, config=config,
                  scaling=layer.scaling["default"])


COMBINATIONS = [
    (["default", "b"], [0.6, 0.9], {"combination_type": "linear"}),
    (["b", "default"], [-0.4, 1.2], {"combination_type": "linear"}),
    (["c", "default"], [0.8, -0.3], {"combination_type": "cat"}),
    (["default", "b", "c"], [0.5, 1.0, 0.25], {"combination_type": "cat"}),
    (["default", "c"], [0.9, 0.2], {"combination_type": "svd"}),
    (["default", "c"], [0.9, 0.2], {"combination_type": "svd", "svd_rank": 2}),
    (["c", "b"], [0.7, -1.0], {"combination_type": "svd", "svd_rank": 4, "svd_clamp": 0.9}),
    (["default", "b"], [1.0, 0.6], {"combination_type": "ties", "density": 0.7}),
    (["default", "b"], [0.8, 0.5], {"combination_type": "ties", "density": 0.4,
                                    "majority_sign_method": "frequency"}),
    (["default", "c"], [0.6, 0.7], {"combination_type": "ties_svd", "density": 0.6}),
    (["b", "default"], [0.3, 0.8], {"combination_type": "magnitude_prune", "density": 0.3}),
    (["default", "c"], [0.5, 0.6], {"combination_type": "magnitude_prune_svd", "density": 0.5}),
]


def combine(cases):
    draw = Draw("combine")
    configs = {"default": {"r": 3, "lora_alpha": 5}, "b": {"r": 3, "lora_alpha": 2},
               "c": {"r": 5, "lora_alpha": 4}}
    model = peft.get_peft_model(Holder(layer=nn.Linear(9, 8, bias=False)),
                                peft.LoraConfig(target_modules=["layer"], **configs["default"]))
    for name in ["b", "c"]:
        model.add_adapter(name, peft.LoraConfig(target_modules=["layer"], **configs[name]))
    model.double()
    draw.fill(model, 0.5)
    layer = model.base_model.model.layer
    tensors, rows = {}, []
    for name in configs:
        tensors.update(factors_of(layer, name, name + "."))
    scaling = {name: layer.scaling[name] for name in configs}
    for i, (adapters, weights, options) in enumerate(COMBINATIONS):
        result = f"m{i}"
        torch.set_default_dtype(torch.float64)  # PEFT makes tensors of the weights
        model.add_weighted_adapter(adapters, weights, result, **options)
        torch.set_default_dtype(torch.float32)
        tensors.update(factors_of(layer, result, result + "."))
        tensors[result + ".delta"] = layer.get_delta_weight(result)
        rows.append({"result": result, "adapters": adapters, "weights": weights, **options,
                     "r": layer.r[result], "lora_alpha": layer.lora_alpha[result],
                     "scaling": layer.scaling[result]})
    cases.add("combine", "combine",
              "delta = s B A of the combined adapter is what to compare (an SVD has free signs)",
              tensors, combinations=rows, configs=configs, scaling=scaling)


def init(cases):
    rows = []

    def moments(a, b):
        return {"A_std": a.std().item(), "A_max": a.abs().max().item(), "A_mean": a.mean().item(),
                "B_std": b.std().item(), "B_max": b.abs().max().item(), "BA_norm": (b @ a).norm().item()}

    for how in [True, "gaussian", "orthogonal", False]:
        for D, O, r in [(384, 640, 6), (700, 300, 10)]:
            torch.manual_seed(Draw(f"init {how} {D}").seed)
            config = peft.LoraConfig(target_modules=["layer"], r=r, init_lora_weights=how)
            model = peft.inject_adapter_in_model(config, Holder(layer=nn.Linear(D, O)))
            a = model.layer.lora_A["default"].weight.double()
            b = model.layer.lora_B["default"].weight.double()
            rows.append({"init_lora_weights": how, "layer": "linear", "D": D, "O": O, "r": r,
                         **moments(a, b)})
    torch.manual_seed(Draw("init embedding").seed)
    config = peft.LoraConfig(target_modules=["layer"], r=6)
    model = peft.inject_adapter_in_model(config, Holder(layer=nn.Embedding(150, 250)))
    a, b = model.layer.lora_embedding_A["default"], model.layer.lora_embedding_B["default"]
    rows.append({"layer": "embedding", "A_max": a.abs().max().item(), "B_std": b.std().item()})
    torch.manual_seed(Draw("init conv2d").seed)
    model = peft.inject_adapter_in_model(config, Holder(layer=nn.Conv2d(20, 14, 3)))
    a, b = model.layer.lora_A["default"].weight, model.layer.lora_B["default"].weight
    rows.append({"layer": "conv2d 20->14 3x3", "r": 6, "A_max": a.abs().max().item(),
                 "A_std": a.std().item(), "B_max": b.abs().max().item()})
    write_json(cases.folder / "init.json", rows)
    cases.add("init", "init", "moments of one draw: bounds and spreads, not values", file="init.json")


# ---- optimisers, clipping, schedules ----

SHAPES = [(4, 3), (5,), (2, 3, 2)]
STEPS = 8
# name: optimiser, options, and options of groups of tensors
OPTIMISERS = {
    "adamw_default": (torch.optim.AdamW, {"lr": 0.02}, None),
    "adamw_no_decay": (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0}, None),
    "adamw_other": (torch.optim.AdamW, {"lr": 0.005, "betas": (0.7, 0.97), "eps": 1e-5,
                                        "weight_decay": 0.2}, None),
    "adamw_amsgrad": (torch.optim.AdamW, {"lr": 0.02, "amsgrad": True}, None),
    "adamw_maximize": (torch.optim.AdamW, {"lr": 0.02, "maximize": True}, None),
    "adamw_groups": (torch.optim.AdamW, {"lr": 0.02},
                     [([0, 2], {"lr": 0.004, "weight_decay": 0.3}), ([1], {"weight_decay": 0.0})]),
    "sgd_momentum": (torch.optim.SGD, {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.05}, None),
    "sgd_nesterov": (torch.optim.SGD, {"lr": 0.03, "momentum": 0.8, "nesterov": True}, None),
    "sgd_dampening": (torch.optim.SGD, {"lr": 0.03, "momentum": 0.6, "dampening": 0.3,
                                        "maximize": True}, None),
}


def optimisers(cases):
    for name, (make, options, groups) in OPTIMISERS.items():
        for dtype, suffix in [(torch.float64, "float64"), (torch.float32, "float32")]:
            draw, tensors, fields = Draw(name), {}, {}
            parameters = [nn.Parameter(draw.normal(*shape, dtype=dtype)) for shape in SHAPES]
            for i, p in enumerate(parameters):
                tensors[f"p{i}.0"] = p.detach().clone()
            given = parameters
            if groups is not None:
                given = [{"params": [parameters[i] for i in members], **changed}
                         for members, changed in groups]
                fields["groups"] = [{"tensors": members, **changed} for members, changed in groups]
            optimiser = make(given, foreach=False, **options)
            for step in range(1, STEPS + 1):
                for i, p in enumerate(parameters):
                    p.grad = draw.normal(*p.shape, dtype=dtype)
                    tensors[f"g{i}.{step}"] = p.grad.clone()
                optimiser.step()
                for i, p in enumerate(parameters):
                    tensors[f"p{i}.{step}"] = p.detach().clone()
            defaults = {k: v for k, v in optimiser.defaults.items() if v is not None and k != "foreach"}
            cases.add(f"{name}_{suffix}", "optimiser",
                      "p{tensor}.{step} after the step that used g{tensor}.{step}", tensors,
                      defaults=defaults, **fields)


def clip(cases):
    draw, tensors, rows = Draw("clip_grad_norm"), {}, []
    for case, (scale, max_norm, norm_type) in enumerate(
            [(1, 0.7, 2.0), (0.02, 0.7, 2.0), (1, 0.3, math.inf), (1, 2.0, 1.0), (1, 1.5, 3.0), (0, 1.0, 2.0)]):
        parameters = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in SHAPES]
        for i, p in enumerate(parameters):
            p.grad = draw.normal(*p.shape, scale=scale)
            tensors[f"{case}.g{i}"] = p.grad.clone()
        total = nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
        for i, p in enumerate(parameters):
            tensors[f"{case}.clipped{i}"] = p.grad
        rows.append({"case": case, "max_norm": max_norm,
                     "norm_type": "inf" if math.isinf(norm_type) else norm_type, "total_norm": total.item()})
    cases.add("clip_grad_norm", "clip",
              "g -> clipped; factor = max_norm / (total_norm + 1e-6), at most 1", tensors, clips=rows)


def schedules(cases):
    rows = []
    for name, options in [
        ("linear", {}), ("cosine", {}), ("cosine_with_restarts", {"num_cycles": 3}),
        ("polynomial", {"lr_end": 2e-5, "power": 1.5}), ("constant", {}), ("constant_with_warmup", {}),
        ("inverse_sqrt", {"timescale": 7}), ("cosine_with_min_lr", {"min_lr_rate": 0.2}),
        ("warmup_stable_decay", {"num_decay_steps": 6, "min_lr_ratio": 0.05}),
    ]:
        for warmup, steps in [(4, 23), (0, 17)]:
            optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.003)
            schedule = transformers.get_scheduler(
                name, optimiser, num_warmup_steps=warmup, num_training_steps=steps,
                scheduler_specific_kwargs=dict(options))
            rates = []
            for _ in range(steps + 3):
                rates.append(schedule.get_last_lr()[0])
                optimiser.step()
                schedule.step()
            rows.append({"name": name, "num_warmup_steps": warmup, "num_training_steps": steps,
                         "base_lr": 0.003, "options": options, "lr": rates})
    write_json(cases.folder / "schedules.json", rows, indent=None)
    cases.add("schedules", "schedule", "lr[k] is used by step k+1", file="schedules.json")


# ---- losses, activations ----

def losses(cases):
    draw, rows = Draw("cross_entropy"), []
    logits = draw.normal(11, 13, scale=3).requires_grad_()
    labels = draw.integers(0, 13, (11,))
    labels[[0, 4, 5]] = -100
    tensors = {"logits": logits, "labels": labels}
    for case, options in enumerate([{}, {"label_smoothing": 0.2}, {"reduction": "sum"}]):
        logits.grad = None
        loss = nn.functional.cross_entropy(logits, labels, ignore_index=-100, **options)
        loss.backward()
        tensors[f"dlogits.{case}"] = logits.grad
        rows.append({"case": case, **options, "loss": loss.item()})
    cases.add("cross_entropy", "loss", "rows labelled -100 do not count", tensors, losses=rows)


def activations(cases):
    f = nn.functional
    x = torch.cat([torch.linspace(-9, 9, 37, dtype=torch.float64),
                   Draw("activations").normal(10, scale=0.01)]).requires_grad_()
    tensors = {"x": x}
    for name, function in {"relu": f.relu, "gelu": f.gelu, "silu": f.silu, "sigmoid": torch.sigmoid,
                           "gelu_tanh": lambda t: f.gelu(t, approximate="tanh"),
                           "tanh": torch.tanh}.items():
        x.grad = None
        y = function(x)
        y.sum().backward()
        tensors[name], tensors["d" + name] = y, x.grad
    cases.add("activations", "activation", "value and derivative", tensors)


# ---- names ----

def trees():
    small = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    llama = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 1, **small}
    causal, t = transformers.AutoModelForCausalLM, transformers
    yield "llama", causal.from_config(t.LlamaConfig(**llama))
    yield "qwen2", causal.from_config(t.Qwen2Config(**llama))
    yield "gpt2", causal.from_config(t.GPT2Config(n_embd=12, n_layer=2, n_head=2, **small))
    yield "bert", t.BertForSequenceClassification(
        t.BertConfig(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, **small))


CONFIGS = [
    {"target_modules": ["q_proj", "o_proj"]},
    {"target_modules": "all-linear"},
    {"target_modules": ["proj"]},
    {"target_modules": ["key", "value", "dense"]},
    {"target_modules": ["c_attn", "c_fc"], "exclude_modules": ["h.1.attn.c_attn"]},
    {"target_modules": ".*\\.(k|o)_proj"},
    {"target_modules": ".*layers\\.[1-9]\\..*(gate|up)_proj"},
    {"target_modules": ["layers.0.mlp.down_proj", "self_attn.k_proj"]},
    {"target_modules": ["v_proj", "value", "c_proj"], "layers_to_transform": [1]},
    {"target_modules": ["v_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
    {"target_modules": ["v_proj", "c_attn"], "layers_to_transform": [0], "layers_pattern": ["h", "layers"]},
    {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ".*layers\\.0.*"},
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["up_proj"], "modules_to_save": ["lm_head", "norm"]},
    {"target_modules": ["query"], "modules_to_save": ["classifier"]},
    {"target_modules": ["embed_tokens", "down_proj"]},
    {"target_modules": ["attn.c_proj"], "r": 3, "lora_alpha": 7, "use_rslora": True},
    {"target_modules": ["q_proj", "v_proj"], "r": 6, "lora_alpha": 9,
     "rank_pattern": {"layers.1.self_attn.v_proj": 4, "v_proj": 2}, "alpha_pattern": {"q_proj": 5}},
    {"target_modules": ["k_proj"], "rank_pattern": {"^model\\.layers\\.1\\..*": 3},
     "alpha_pattern": {".*\\.0\\.self_attn\\.k_proj": 2}, "use_rslora": True},
]


def matching(cases):
    rows = []
    for tree, model in trees():
        rows.append({"tree": tree, "modules": [
            {"name": name, "type": type(module).__name__} for name, module in model.named_modules()
            if name and not list(module.children()) and
            (list(module.parameters()) or type(module).__name__ == "Linear")]})
        for config in CONFIGS:
            row = {"tree": tree, "config": config}
            fields = {"r": 8, "lora_alpha": 16, **config}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    adapted_model = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**fields))
            except Exception as error:  # PEFT has no common class
                rows.append({**row, "error": type(error).__name__})
                continue
            inner, matched, saved = adapted_model.base_model.model, {}, []
            for name, module in inner.named_modules():
                if isinstance(module, LoraLayer):
                    matched[name] = {"r": module.r["default"], "alpha": module.lora_alpha["default"],
                                     "scaling": module.scaling["default"]}
                if isinstance(module, peft.utils.ModulesToSaveWrapper):
                    saved.append(name)
            rows.append({**row, "matched": matched, "saved": saved})
    write_json(cases.folder / "matching.json", rows)
    cases.add("matching", "matching",
              "module tree, configuration, names that PEFT adapts with rank, alpha, scaling; or its error",
              file="matching.json")


def make(folder):
    cases = Cases(folder)
    for part in [linears, dropout, graphs, several, embeddings, convolutions, merges, combine,
                 optimisers, clip, schedules, losses, activations, matching, init]:
        part(cases)
    write_json(folder / "cases.json",
               {"versions": versions("torch", "transformers", "peft"), "cases": cases.rows})
