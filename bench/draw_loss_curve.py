#!/usr/bin/env python3
"""Draws docs/loss_curve.svg from the losses of loss_curve.sh, and prints how far they are apart.

  python3 bench/draw_loss_curve.py results/loss_curve
"""
import json
import math
import pathlib
import sys

PICTURE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "loss_curve.svg"
NAMES = {"lora": "LoRA", "dora": "DoRA"}
PALE, DARK, GREY = "#9ec5fe", "#0b2e6b", "#8a919c"
WIDTH, HEIGHT, LEFT, RIGHT, GAP = 950, 440, 66, 16, 62
TOP, MIDDLE, LOW, BOTTOM = 66, 272, 306, 396  # of the losses, then of the differences
LEAST = 1e-8  # the lower end of the differences' axis, where smaller ones are drawn


def read(path):
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1)), f"{path} lacks steps"
    return [entry["loss"] for entry in entries]


def differences(ours, theirs):
    assert len(ours) == len(theirs), f"{len(ours)} and {len(theirs)} steps"
    return [abs(a - b) for a, b in zip(ours, theirs)]


class Panel:
    """The axes of one plot: maps steps and values to pixels."""

    def __init__(self, left, right, top, bottom, steps, low, high, log=False):
        self.left, self.right, self.top, self.bottom, self.steps = left, right, top, bottom, steps
        self.scale = (lambda v: math.log10(max(v, LEAST))) if log else (lambda v: v)
        self.low, self.high = self.scale(low), self.scale(high)

    def x(self, step):
        return self.left + (self.right - self.left) * step / self.steps

    def y(self, value):
        return self.bottom - (self.bottom - self.top) * (self.scale(value) - self.low) / (self.high - self.low)

    def line(self, values, color, width):
        points = " ".join(f"{self.x(i + 1):.1f},{self.y(value):.1f}" for i, value in enumerate(values))
        return (f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{width}" '
                'stroke-linejoin="round" stroke-linecap="round"/>')

    def dots(self, values, color):
        circles = "".join(f'<circle cx="{self.x(i + 1):.1f}" cy="{self.y(value):.1f}" r="1.7"/>'
                          for i, value in enumerate(values))
        return f'<g fill="{color}">{circles}</g>'

    def axes(self, ticks, name, steps_named):
        for value, label in ticks:
            y = self.y(value)
            yield segment(self.left, y, self.right, y, "#e3e3e3")
            yield text(self.left - 8, y + 4, label, "end")
        yield segment(self.left, self.bottom, self.right, self.bottom, "#777777")
        for step in range(0, self.steps + 1, 25 if self.steps <= 200 else 100):
            yield segment(self.x(step), self.bottom, self.x(step), self.bottom + 4, "#777777")
            if steps_named:
                yield text(self.x(step), self.bottom + 18, step)
        if name:
            x, y = self.left - 52, (self.top + self.bottom) / 2
            yield text(x, y, name, turn=f' transform="rotate(-90 {x} {y})"')
        if steps_named:
            yield text((self.left + self.right) / 2, self.bottom + 36, "step")


def segment(x1, y1, x2, y2, color, width=1):
    return f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" stroke="{color}" stroke-width="{width}"/>'


def text(x, y, content, anchor="middle", size=13, weight="normal", turn=""):
    return (f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="#333333"{turn}>{content}</text>')


def power(exponent):
    return f'10<tspan dy="-5" font-size="10">{"−" if exponent < 0 else ""}{abs(exponent)}</tspan>'


def legend(x, y, entries):
    for color, width, dot, label, room in entries:
        if width:
            yield segment(x, y, x + 30, y, color, width)
        if dot:
            yield f'<circle cx="{x + 15:.2f}" cy="{y}" r="{dot}" fill="{color}"/>'
        yield text(x + 38, y + 4.5, label, "start")
        x += room


def column(left, right, name, losses, top, exponent):
    steps = len(losses["ours"])
    loss = Panel(left, right, TOP, MIDDLE, steps, 0, top)
    yield text((left + right) / 2, TOP - 12, NAMES[name], size=15, weight="bold")
    yield from loss.axes([(v, v) for v in range(top + 1)], "loss, nats a token" if name == "lora" else "", False)
    yield loss.line(losses["theirs"], PALE, 7)
    yield loss.line(losses["ours"], DARK, 1.5)
    apart = Panel(left, right, LOW, BOTTOM, steps, LEAST, 10.0**exponent, log=True)
    yield from apart.axes([(10.0**e, power(e) if e > -8 else "≤ " + power(e)) for e in range(exponent, -9, -2)],
                          "|difference|" if name == "lora" else "", True)
    yield apart.dots(differences(losses["again"], losses["theirs"]), GREY)
    yield apart.dots(differences(losses["ours"], losses["theirs"]), DARK)


def main():
    folder = pathlib.Path(sys.argv[1])
    files = ("theirs", "ours", "again")
    runs = {name: {file: read(folder / name / f"{file}.jsonl") for file in files} for name in NAMES}
    for name, losses in runs.items():
        ours, again = (differences(losses[file], losses["theirs"]) for file in ("ours", "again"))
        print(f"{NAMES[name]}: {len(ours)} steps, loss {losses['theirs'][0]:.3f} to {losses['theirs'][-1]:.3f}; "
              f"largest difference {max(ours):.2g} (PyTorch with its other attention: {max(again):.2g})")
    top = math.ceil(max(max(losses[file]) for losses in runs.values() for file in files))
    largest = max(max(differences(losses[file], losses["theirs"])) for losses in runs.values() for file in files)
    exponent = max(-4, 2 * math.ceil(math.log10(max(largest, LEAST)) / 2))
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
             f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif">',
             "<title>Loss of each training step, here and under PyTorch with PEFT</title>",
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    lines += legend(LEFT, 24, [(PALE, 7, 0, "PyTorch + PEFT", 175),
                               (DARK, 1.5, 2.5, "lora; below, its difference from PEFT", 310),
                               (GREY, 0, 2.5, "PEFT with its other attention: difference", 0)])
    wide = (WIDTH - LEFT - RIGHT - GAP) / 2
    for left, name in ((LEFT, "lora"), (LEFT + wide + GAP, "dora")):
        lines += column(left, left + wide, name, runs[name], top, exponent)
    PICTURE.write_text("\n".join(lines) + "\n</svg>\n")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
