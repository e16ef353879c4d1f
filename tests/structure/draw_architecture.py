#!/usr/bin/env python3
"""Draws docs/architecture.svg from the table of tests/structure/includes_test.cpp.

  python3 tests/structure/draw_architecture.py

A test holds the picture against the table. Arrows that follow from others are left out.
"""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WHAT = {
    "core": "matrices, errors, random numbers, threads",
    "kernels": "inner loops, one header an instruction set",
    "regex": "bounded regular expressions",
    "weights": "frozen matrices and their products",
    "layers": "LoRALinear, LoRAEmbedding, LoRAConv2d",
    "adapters": "LoRAConfig, LoRAModel, matching, combining",
    "nn": "attention, norms, activations, losses",
    "models": "MLP, Llama, Qwen, Mistral, GPT-2",
    "optim": "AdamW, SGD, schedules, clipping",
    "io": "safetensors, PEFT, GGUF, checkpoints",
    "text": "tokenizers, chat templates, data",
    "train": "Trainer, checkpoints, metrics",
    "serve": "generation, key-value cache",
}
COLUMN = {"core": 1, "kernels": 2, "regex": 0, "weights": 1, "layers": 1, "adapters": 0, "nn": 1, "models": 1, "optim": 2, "io": 0.5,
          "text": 0, "train": 2, "serve": 1}
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 270, 54, 26, 46, 20


def table():
    source = (ROOT / "tests/structure/includes_test.cpp").read_text()
    body = source[source.index("may_include = {") :]
    body = body[: body.index("\n};")]
    rows = {}
    for room, below in re.findall(r'\{"([a-z/]+)", \{([^}]*)\}\}', body):
        folder = room.split("/")[0]
        targets = {name.split("/")[0] for name in re.findall(r'"([^"]+)"', below)} - {folder}
        rows[folder] = sorted(targets | set(rows.get(folder, [])))
    return rows


def reaches(rows, top, below):
    return any(next_one == below or reaches(rows, next_one, below) for next_one in rows[top])


def main():
    rows = table()
    floor = {}

    def floor_of(folder):
        if folder not in floor:
            floor[folder] = 1 + max((floor_of(below) for below in rows[folder]), default=-1)
        return floor[folder]

    for folder in rows:
        floor_of(folder)
    floors = [[folder for folder in rows if floor[folder] == level] for level in range(max(floor.values()) + 1)]
    width = 2 * MARGIN + 3 * WIDTH + 2 * GAP_X
    height = 2 * MARGIN + len(floors) * HEIGHT + (len(floors) - 1) * GAP_Y
    place = {}
    for level, folders in enumerate(floors):
        for folder in folders:
            y = height - MARGIN - HEIGHT - level * (HEIGHT + GAP_Y)
            place[folder] = (MARGIN + COLUMN[folder] * (WIDTH + GAP_X), y)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<title>The folders of include/lora and what each may include</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#6b7280"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for folder, below in rows.items():
        out.append(f"<desc>{folder}: {' '.join(below)}</desc>")
        for target in below:
            if any(other != target and reaches(rows, other, target) for other in below):
                continue
            (x, y), (to_x, to_y) = place[folder], place[target]
            out.append(
                f'<line x1="{x + WIDTH / 2:.0f}" y1="{y + HEIGHT:.0f}" x2="{to_x + WIDTH / 2:.0f}" y2="{to_y:.0f}" '
                'stroke="#6b7280" marker-end="url(#tip)"/>'
            )
    for folder, (x, y) in place.items():
        out.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef4ff" stroke="#1f6feb"/>'
            f'<text x="{x + WIDTH / 2:.0f}" y="{y + 22:.0f}" text-anchor="middle" font-size="15" font-weight="bold">{folder}/</text>'
            f'<text x="{x + WIDTH / 2:.0f}" y="{y + 41:.0f}" text-anchor="middle" font-size="11" fill="#374151">{WHAT[folder]}</text>'
        )
    out.append("</svg>")
    (ROOT / "docs/architecture.svg").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
