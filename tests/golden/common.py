"""The common part of make.py: seeds, random tensors, files, versions."""
import importlib.metadata
import json
import zlib

import torch
from safetensors.torch import save_file


def versions(*packages):
    return {name: importlib.metadata.version(name) for name in packages}


class Draw:
    """Random tensors of one case, from a generator seeded by the case's name."""

    def __init__(self, name):
        self.seed = zlib.crc32(name.encode())
        self.generator = torch.Generator().manual_seed(self.seed)

    def normal(self, *shape, dtype=torch.float64, scale=1.0):
        return (torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale).to(dtype)

    def uniform(self, *shape):
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64)

    def integers(self, low, high, shape):
        return torch.randint(low, high, shape, generator=self.generator)

    def fill(self, module, scale):
        """Sets every parameter of the module to normal noise of this deviation."""
        with torch.no_grad():
            for _, parameter in sorted(module.named_parameters()):
                parameter.copy_(self.normal(*parameter.shape, scale=scale))


def save(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().contiguous().clone() for name, t in tensors.items()}, str(path))


def write_json(path, value, indent=1):
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
