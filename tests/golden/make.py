#!/usr/bin/env python3
"""Computes the golden numbers of this folder with PyTorch, transformers, PEFT and tokenizers.

    python3 tests/golden/make.py [--output FOLDER] [layers|variants|models|sampling|text ...]

Each part is written again. Every case draws from a generator that is seeded by the case's name, so a
new case changes no other. README.md describes the files.
"""
import argparse
import os
import pathlib
import shutil
import sys

# PEFT writes sets in the order of strings' hashes, which the interpreter seeds when it starts.
if os.environ.get("PYTHONHASHSEED") != "0":
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

# Set before PyTorch is imported: one thread, and kernels that do not depend on the processor.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "default",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)

import torch  # noqa: E402

import layers  # noqa: E402
import models  # noqa: E402
import sampling  # noqa: E402
import text  # noqa: E402
import variants  # noqa: E402

PARTS = {"layers": layers.make, "variants": variants.make, "models": models.make,
         "sampling": sampling.make, "text": text.make}


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=here)
    parser.add_argument("parts", nargs="*", help="all of them by default: " + ", ".join(PARTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for part in arguments.parts or PARTS:
        if part not in PARTS:
            parser.error(f"{part} is not one of {', '.join(PARTS)}")
        folder = arguments.output / ("models/sampling" if part == "sampling" else part)
        if part == "models":  # it contains sampling/
            for case in models.CASES:
                shutil.rmtree(folder / case.name, ignore_errors=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        PARTS[part](folder)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        print(f"{part}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
