"""PEFT's half: writes adapters of every kind, reads what our program made of them, compares.

    round_trip.py PROGRAM FOLDER
"""
import copy
import subprocess
import sys
import warnings
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

warnings.filterwarnings("ignore")
program, folder = sys.argv[1], Path(sys.argv[2])


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(11, 6)
        self.q = torch.nn.Linear(6, 6)
        self.v = torch.nn.Linear(6, 5, bias=False)
        self.c = Conv1D(7, 6)
        self.conv = torch.nn.Conv2d(2, 3, (3, 2), padding=(1, 0))
        self.head = torch.nn.Linear(7, 3)

    def forward(self, ids, image):
        h = self.embed(ids)
        return {"v": self.v(h), "y": self.head(self.c(h + self.q(h))),
                "z": self.conv(image).flatten(1)}


KINDS = {
    "linear": dict(target_modules=["q", "v"]),
    "rslora": dict(target_modules=["q", "v"], use_rslora=True),
    "patterns": dict(target_modules=["q", "v", "head"], rank_pattern={"v": 3, "head": 1},
                     alpha_pattern={"q": 7.5, "v": 2}),
    "regex": dict(target_modules=r"(q|hea.)"),
    "all-linear": dict(target_modules="all-linear", exclude_modules=["q"]),
    "lora_bias": dict(target_modules=["q", "head", "conv"], lora_bias=True),
    "bias lora_only": dict(target_modules=["q", "v", "c"], bias="lora_only"),
    "bias all": dict(target_modules=["q"], bias="all"),
    "modules_to_save": dict(target_modules=["q"], modules_to_save=["head", "embed"]),
    "embedding": dict(target_modules=["embed", "q"]),
    "conv2d": dict(target_modules=["conv"]),
    "Conv1D": dict(target_modules=["c"], fan_in_fan_out=True),
    "gaussian": dict(target_modules=["q"], init_lora_weights="gaussian", lora_dropout=0.05),
    "dora": dict(target_modules=["q", "v", "conv", "embed"], use_dora=True),
    "dora, rslora": dict(target_modules=["c", "head"], use_dora=True, use_rslora=True,
                         fan_in_fan_out=True, rank_pattern={"head": 3}, bias="lora_only"),
    # Not with bias "all": PEFT then writes the bias of a saved module three times, twice under
    # names of its wrapper ("head.original_module.bias"), which load_adapter refuses.
    "everything": dict(target_modules=["embed", "q", "c", "conv"], modules_to_save=["head"],
                       bias="lora_only", use_rslora=True, rank_pattern={"q": 1}),
}


def outputs_of(model):
    with torch.no_grad():
        return model.eval()(ids, image)


def far(ours, theirs):
    """The largest difference, as a share of the largest element."""
    return max(((ours[k] - t).abs().max() / t.abs().max()).item() for k, t in theirs.items())


def trained(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def strictly_loaded(directory):
    """The base with the adapter of this directory, every tensor of which is expected and there."""
    config = PeftConfig.from_pretrained(directory)
    config.inference_mode = False
    model = get_peft_model(copy.deepcopy(base), config)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.fill_(float("nan"))  # what is not loaded shows
    result = set_peft_model_state_dict(model, load_peft_weights(directory))
    missing = sorted(set(result.missing_keys) & set(trained(model)))
    if result.unexpected_keys or missing:
        raise SystemExit(f"{directory}: unexpected {result.unexpected_keys}, missing {missing}")
    return model


torch.manual_seed(3)
base = Net()
ids = torch.tensor([3, 0, 10, 3, 7])
image = torch.randn(2, 2, 4, 5)
save_file(base.state_dict(), folder / "base.safetensors")
save_file({"ids": ids, "image": image}, folder / "inputs.safetensors")
print(f"PEFT {peft.__version__}, torch {torch.__version__}")
failed = 0
for kind, options in KINDS.items():
    written, again, fresh = (folder / f"{kind} {what}" for what in ("peft", "again", "fresh"))
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, lora_alpha=3, **options))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(std=0.3)
    model.save_pretrained(written)
    report = [f"{kind:16}"]
    faults, notes = [], []

    def ours(mode, saved):
        result = folder / "outputs.safetensors"
        command = [program, mode, folder / "base.safetensors", folder / "inputs.safetensors",
                   written, result, saved]
        done = subprocess.run(command, capture_output=True, text=True)
        notes.extend(done.stdout.splitlines())
        if done.returncode != 0:
            faults.append(done.stderr.strip())
        return load_file(result) if done.returncode == 0 else None

    got = ours("load", again)
    if got is not None:
        error = far(got, outputs_of(model))
        report.append(f"PEFT -> ours {error:.1e}")
        if not error <= 1e-5:
            faults.append("our outputs differ from PEFT's")
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if (written / name).read_bytes() != (again / name).read_bytes():
                faults.append(f"{name} is not the file that PEFT wrote")
        loaded = strictly_loaded(again)
        before, after = trained(model), trained(loaded)
        same = all(map(torch.equal, before.values(), after.values()))
        if before.keys() != after.keys() or not same:
            faults.append("PEFT reads other tensors from our file")
        error = far(outputs_of(loaded), outputs_of(model))
        report.append(f"-> PEFT {error:.1e}, {len(after)} tensors")
        if error != 0:
            faults.append("PEFT computes something else from our file")
    got = ours("fresh", fresh)
    if got is not None:
        error = far(got, outputs_of(strictly_loaded(fresh)))
        report.append(f"ours -> PEFT {error:.1e}")
        if not error <= 1e-5:
            faults.append("PEFT's outputs differ from ours")
    failed += bool(faults)
    print("\n".join(["; ".join(report)] + notes + ["  FAILED: " + fault for fault in faults]))
print("all agree" if not failed else f"{failed} of {len(KINDS)} kinds failed")
sys.exit(1 if failed else 0)
