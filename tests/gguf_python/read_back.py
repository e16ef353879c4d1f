"""read_back.py TO_GGUF [BASE ADAPTER ...]: Python's gguf package reads what to_gguf writes.

Names come from the package's own table of tensor names, expected values are worked out here from the
adapter's safetensors file. Without folders it makes small adapters of every family. Exit 77: skipped."""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import gguf
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}; pip install gguf")
    sys.exit(77)

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2"}
# The relative rounding error of a type, and the absolute one below its normal numbers.
TYPES = {"f32": (0, 0), "f16": (2.0**-11, 2.0**-25), "bf16": (2.0**-8, 0)}


def read_safetensors(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        assert info["dtype"] == "F32", f"{name} is {info['dtype']}"
        values = np.frombuffer(data[8 + length + begin : 8 + length + end], np.float32)
        tensors[name.removeprefix("base_model.model.")] = values.reshape(info["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values, np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def make_adapter(folder, family):
    """A base's config.json and an adapter with two ranks and an alpha_pattern."""
    base, adapter = folder / family / "base", folder / family / "adapter"
    base.mkdir(parents=True), adapter.mkdir()
    rng = np.random.default_rng(len(family))
    if family == "gpt2":
        config = dict(model_type="gpt2", n_embd=12, n_layer=2, n_head=2, vocab_size=19)
        block, sizes = "transformer.h.{}.", {"attn.c_attn": (12, 36), "attn.c_proj": (12, 12), "mlp.c_fc": (12, 48), "mlp.c_proj": (48, 12)}
    else:
        config = dict(model_type=family, hidden_size=24, intermediate_size=17, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=6, vocab_size=19, tie_word_embeddings=False)
        block, sizes = "model.layers.{}.", {"self_attn.q_proj": (24, 24), "self_attn.k_proj": (24, 12), "self_attn.v_proj": (24, 12), "self_attn.o_proj": (24, 24), "mlp.gate_proj": (24, 17), "mlp.up_proj": (24, 17), "mlp.down_proj": (17, 24)}
    ranks = {name: 3 if name.endswith("_proj") and "mlp" in name else 2 for name in sizes}
    tensors = {}
    for layer in range(2):
        for name, (n_in, n_out) in sizes.items():
            key = "base_model.model." + block.format(layer) + name
            tensors[key + ".lora_A.weight"] = rng.standard_normal((ranks[name], n_in))
            tensors[key + ".lora_B.weight"] = rng.standard_normal((n_out, ranks[name]))
    if family != "gpt2":
        tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = rng.standard_normal((2, 19))
        tensors["base_model.model.model.embed_tokens.lora_embedding_B"] = rng.standard_normal((24, 2))
        tensors["base_model.model.lm_head.lora_A.weight"] = rng.standard_normal((2, 24))
        tensors["base_model.model.lm_head.lora_B.weight"] = rng.standard_normal((19, 2))
    fields = dict(peft_type="LORA", r=2, lora_alpha=5, use_rslora=family == "qwen2", target_modules="all-linear", fan_in_fan_out=family == "gpt2",
                  rank_pattern={f".*{name}": 3 for name in sizes if ranks[name] == 3}, alpha_pattern={"c_fc": 7} if family == "gpt2" else {})
    (base / "config.json").write_text(json.dumps(config))
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    write_safetensors(adapter / "adapter_model.safetensors", tensors)
    return base, adapter


def expected_tensors(config, tensors):
    """GGUF's name -> values before any scale, in the package's view of shapes (rows, columns)."""
    architecture = FAMILIES[config["model_type"]]
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.get("num_hidden_layers", config.get("n_layer")))
    expected = {}
    for key, values in tensors.items():
        for ending in (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B"):
            if not key.endswith(ending):
                continue
            module = key.removesuffix(ending)
            which = "lora_a" if "_A" in ending else "lora_b"
            heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(module.split(".")[-1])
            if architecture == "llama" and heads and which == "lora_b":
                values = values.reshape(config[heads], 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
            if ending == ".lora_embedding_A":
                values = values.T
            expected[f"{names.get_name(module)}.weight.{which}"] = (module, values)
    return expected


def scale_of(module, r, fields):
    import re

    def pattern(entries, default):
        return next((v for k, v in entries.items() if re.match(rf"(.*\.)?({k})$", module)), default)

    alpha = pattern(fields.get("alpha_pattern") or {}, fields["lora_alpha"])
    return alpha / (r**0.5 if fields.get("use_rslora") else r)


def check(to_gguf, base, adapter, folder):
    config = json.loads((base / "config.json").read_text())
    fields = json.loads((adapter / "adapter_config.json").read_text())
    expected = expected_tensors(config, read_safetensors(adapter / "adapter_model.safetensors"))
    for dtype, (relative, absolute) in TYPES.items():
        path = folder / f"{dtype}.gguf"
        subprocess.run([to_gguf, base, adapter, path, dtype], check=True)
        reader = gguf.GGUFReader(path)
        value = lambda key: reader.fields[key].contents()
        assert value("general.type") == "adapter" and value("adapter.type") == "lora"
        assert value("general.architecture") == FAMILIES[config["model_type"]]
        alpha = value("adapter.lora.alpha")
        assert reader.fields["adapter.lora.alpha"].types == [gguf.GGUFValueType.FLOAT32]
        assert {t.name for t in reader.tensors} == set(expected), {t.name for t in reader.tensors} ^ set(expected)
        for tensor in reader.tensors:
            module, values = expected[tensor.name]
            assert tensor.tensor_type.name == dtype.upper(), tensor.tensor_type
            assert list(tensor.shape) == list(reversed(values.shape)), (tensor.name, tensor.shape, values.shape)
            factor = 1
            found = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(values.shape).astype(np.float64)
            wanted = values.astype(np.float64)
            if tensor.name.endswith(".lora_b"):  # scale * B must be PEFT's s * B
                r = values.shape[1]
                factor = alpha / r
                found, wanted = found * factor, wanted * scale_of(module, r, fields)
            error = np.abs(found - wanted)
            bound = np.abs(wanted) * (relative + 2.0**-22) + absolute * abs(factor)
            assert (error <= bound).all(), (dtype, tensor.name, error.max())
    print(f"read: {config['model_type']}, {len(expected)} tensors, alpha {alpha:g}, f32 f16 bf16  ({adapter})")


def main():
    to_gguf, *folders = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        pairs = [(pathlib.Path(folders[i]), pathlib.Path(folders[i + 1])) for i in range(0, len(folders), 2)]
        for base, adapter in pairs or [make_adapter(folder, family) for family in FAMILIES]:
            check(to_gguf, base, adapter, folder)


if __name__ == "__main__":
    main()
