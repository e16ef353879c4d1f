#!/usr/bin/env python3
"""Draws docs/beside_pytorch.svg: time and memory of a step, from the table of docs/performance.md.

  python3 bench/draw_comparison.py        needs matplotlib
"""
import pathlib
import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
ROWS = {  # rows of the table and their names in the picture
    "Llama, 134 million: a step of 512 tokens, float32": "Llama 134M\nfloat32",
    "the same with bfloat16 weights": "Llama 134M\nbfloat16",
    "512 tokens": "GPT-2 124M\nfloat32",
    "Qwen2.5's shape, 494 million: 512 tokens, float32": "Qwen2.5 494M\nfloat32",
}


def seconds(text):
    return float(text.split()[0])


def table():
    found = {}
    for line in (DOCS / "performance.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) == 6 and cells[0] in ROWS and cells[0] not in found and re.match(r"[\d.]+ s", cells[1]):
            found[cells[0]] = (seconds(cells[1]), seconds(cells[2]), float(cells[4]), float(cells[5]))
    missing = set(ROWS) - set(found)
    assert not missing, f"docs/performance.md has no row {missing}"
    return [(label, *found[row]) for row, label in ROWS.items()]


def draw(axes, rows, ours, theirs, unit, title, digits):
    places = range(len(rows))
    for shift, column, color, label in ((-0.2, ours, "#1f6feb", "lora"), (0.2, theirs, "#b0b7c3", "PyTorch + PEFT")):
        bars = axes.bar([x + shift for x in places], [row[column] for row in rows], 0.38, color=color, label=label)
        axes.bar_label(bars, fmt=f"%.{digits}f", fontsize=8, padding=2)
    axes.set_xticks(list(places), [row[0] for row in rows], fontsize=8)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(0, 1.15 * max(row[theirs] for row in rows))


def main():
    rows = [(label, ours, theirs, mine / 1000, other / 1000) for label, ours, theirs, mine, other in table()]
    plt.rcParams["svg.hashsalt"] = "lora"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.3))
    draw(left, rows, 1, 2, "seconds", "A training step of 512 tokens (less is better)", 2)
    draw(right, rows, 3, 4, "GB", "Largest memory (less is better)", 2)
    right.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(DOCS / "beside_pytorch.svg", metadata={"Date": None})
    print(f"wrote {DOCS / 'beside_pytorch.svg'}")


if __name__ == "__main__":
    main()
