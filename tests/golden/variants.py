"""Variants of LoRA on single layers: PEFT's numbers."""
import peft
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from common import Draw, versions, write_json
from layers import Cases, Mask, adapted, base_of, factors_of, gradients

DORA = ("n_j = |W_j + s (B A)_j| over inputs, a constant in the backward pass; c = m/n; "
        "y = c o (x W^T + s x A^T B^T) + b; with dropout, xd = x * mask / (1 - p), "
        "y = x W^T + b + (c - 1) o (xd W^T) + c o s xd A^T B^T; merged = c o (W + s B A)")

# name: (T, D, O), configuration, whether the base has a bias, p of a stored mask
DORA_LINEARS = {
    "dora_plain": ((5, 9, 6), {"r": 2, "lora_alpha": 5}, False, 0),
    "dora_bias": ((6, 7, 10), {"r": 4, "lora_alpha": 6}, True, 0),
    "dora_rslora": ((4, 11, 8), {"r": 5, "lora_alpha": 3, "use_rslora": True}, True, 0),
    "dora_fan_in_fan_out": ((3, 10, 7), {"r": 4, "lora_alpha": 5, "fan_in_fan_out": True}, True, 0),
    "dora_rank_above_both": ((7, 5, 3), {"r": 8, "lora_alpha": 9}, False, 0),
    "dora_medium": ((31, 67, 45), {"r": 12, "lora_alpha": 30}, True, 0),
    "dora_dropout": ((7, 9, 5), {"r": 3, "lora_alpha": 4, "lora_dropout": 0.4}, True, 0.4),
    "dora_dropout_fan_in_fan_out": ((4, 6, 9), {"r": 2, "lora_alpha": 3, "lora_dropout": 0.3,
                                                "fan_in_fan_out": True}, False, 0.3),
}


def magnitude_of(layer, name="default"):
    return layer.lora_magnitude_vector[name].weight


def norms(layer, name="default"):
    """n of each output, as PEFT's forward takes it."""
    with torch.no_grad():
        weight = layer.get_base_layer().weight + 0
        if getattr(layer, "fan_in_fan_out", False):
            weight = weight.T
        delta = layer.get_delta_weight(name)
        if getattr(layer, "fan_in_fan_out", False):
            delta = delta.T
        if isinstance(layer.get_base_layer(), nn.Embedding):
            weight, delta = weight.T, delta.T
        return (weight + delta).flatten(1).norm(dim=1)


def draw_magnitudes(draw, layer):
    """m near the norms, so that c is neither 1 nor far from it."""
    with torch.no_grad():
        for name in layer.lora_magnitude_vector:
            m = magnitude_of(layer, name)
            n = norms(layer, name)
            m.copy_((n * (0.5 + draw.uniform(n.numel()))).view_as(m))


def merged(layer, tensors, names=None):
    layer.merge(adapter_names=names)
    tensors["merged"] = layer.get_base_layer().weight.detach().clone()
    layer.unmerge()


def linears(cases):
    for name, ((T, D, O), config, bias, p) in DORA_LINEARS.items():
        draw, config = Draw(name), {**config, "use_dora": True}
        base = Conv1D(O, D) if config.get("fan_in_fan_out") else nn.Linear(D, O, bias=bias)
        layer = adapted(draw, {"layer": base}, {"default": config}).layer
        draw_magnitudes(draw, layer)
        tensors = {}
        if p:
            tensors["mask"] = (draw.uniform(T, D) >= p).double()
            layer.lora_dropout["default"] = Mask(tensors["mask"], p)
        x, dy = draw.normal(T, D).requires_grad_(), draw.normal(T, O)
        y = layer(x)
        (y * dy).sum().backward()
        trained = {**factors_of(layer), "m": magnitude_of(layer)}
        tensors.update({"x": x, "dy": dy, "y": y, "dx": x.grad, "n": norms(layer), **base_of(layer),
                        **trained, **gradients(trained)})
        tensors = {key: t.detach().clone() for key, t in tensors.items()}
        merged(layer, tensors)
        more = {"p": p} if p else {}
        cases.add(name, "dora_linear", DORA, tensors, config=config,
                  scaling=layer.scaling["default"], **more)


def others(cases):
    for name, options in {"dora_conv2d": {"padding": 1}, "dora_conv2d_stride": {"stride": 2}}.items():
        draw, config = Draw(name), {"r": 3, "lora_alpha": 4, "use_dora": True}
        conv = nn.Conv2d(3, 5, 3, **options)
        layer = adapted(draw, {"layer": conv}, {"default": config}).layer
        draw_magnitudes(draw, layer)
        x = draw.normal(2, 3, 6, 5).requires_grad_()
        y = layer(x)
        dy = draw.normal(*y.shape)
        (y * dy).sum().backward()
        trained = {**factors_of(layer), "m": magnitude_of(layer)}
        tensors = {"x": x, "dy": dy, "y": y, "dx": x.grad, **base_of(layer), **trained,
                   **gradients(trained)}
        tensors = {key: t.detach().clone() for key, t in tensors.items()}
        merged(layer, tensors)
        cases.add(name, "dora_conv2d", "as dora_linear with convolutions; m is (1, O, 1, 1)", tensors,
                  config=config, scaling=layer.scaling["default"], stride=conv.stride[0],
                  padding=conv.padding[0])

    draw, config = Draw("dora_embedding"), {"r": 3, "lora_alpha": 5, "use_dora": True}
    layer = adapted(draw, {"layer": nn.Embedding(11, 6)}, {"default": config}).layer
    draw_magnitudes(draw, layer)
    ids, dy = draw.integers(0, 11, (3, 4)), draw.normal(3, 4, 6)
    y = layer(ids)
    (y * dy).sum().backward()
    trained = {**factors_of(layer), "m": magnitude_of(layer)}
    tensors = {"ids": ids, "dy": dy, "y": y, "W": layer.base_layer.weight, **trained,
               **gradients(trained)}
    tensors = {key: t.detach().clone() for key, t in tensors.items()}
    merged(layer, tensors)
    cases.add("dora_embedding", "dora_embedding",
              "n of each dimension over the vocabulary; y = c o (W[ids] + s A^T[ids] B^T)", tensors,
              config=config, scaling=layer.scaling["default"])

    draw = Draw("dora_two_adapters")
    configs = {"default": {"r": 3, "lora_alpha": 4, "use_dora": True},
               "second": {"r": 2, "lora_alpha": 5, "use_dora": True}}
    layer = adapted(draw, {"layer": nn.Linear(8, 7)}, configs).layer
    draw_magnitudes(draw, layer)
    layer.set_adapter(["default", "second"])
    x = draw.normal(6, 8)
    tensors = {"x": x, "y": layer(x), **base_of(layer)}
    for adapter in configs:
        tensors.update(factors_of(layer, adapter, adapter + "."))
        tensors[adapter + ".m"] = magnitude_of(layer, adapter)
    tensors = {key: t.detach().clone() for key, t in tensors.items()}
    merged(layer, tensors, ["default", "second"])
    cases.add("dora_two_adapters", "dora_two",
              "the second takes what the first makes of y, without b, for its base; n from W alone",
              tensors, configs=configs, scaling=dict(layer.scaling))


def over_bfloat16(cases):
    draw, config = Draw("dora_over_bfloat16"), {"r": 3, "lora_alpha": 5, "use_dora": True}
    layer = adapted(draw, {"layer": nn.Linear(14, 9)}, {"default": config}, torch.float32).layer
    draw_magnitudes(draw, layer)
    layer.base_layer.to(torch.bfloat16)
    x, dy = draw.normal(6, 14, dtype=torch.bfloat16), draw.normal(6, 9, dtype=torch.bfloat16)
    y = layer(x)
    (y * dy).sum().backward()
    trained = {**factors_of(layer), "m": magnitude_of(layer)}
    cases.add("dora_over_bfloat16", "dora_dtype",
              "base and x in bfloat16, adapter in float32: y within a unit in the last place of the "
              "largest in bfloat16, gradients within 1e-2 of the largest",
              {"x": x, "dy": dy, "y": y, **base_of(layer), **trained, **gradients(trained)},
              config=config, scaling=layer.scaling["default"])


def make(folder):
    cases = Cases(folder)
    linears(cases)
    over_bfloat16(cases)
    others(cases)
    write_json(folder / "cases.json", {"versions": versions("torch", "peft"), "cases": cases.rows})
