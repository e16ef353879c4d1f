"""The probabilities after transformers' logits processors, applied in the given order."""
import torch
from transformers import (MinPLogitsWarper, RepetitionPenaltyLogitsProcessor,
                          TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)

from common import Draw, save, write_json

PROCESSORS = {
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
}
CASES = [
    [("temperature", 0.6)],
    [("top_k", 3)],
    [("top_p", 0.7)],
    [("min_p", 0.15)],
    [("repetition_penalty", 1.4)],
    [("repetition_penalty", 0.9)],
    [("repetition_penalty", 1.1), ("temperature", 0.75), ("top_k", 12), ("top_p", 0.85)],
    [("temperature", 1.3), ("top_k", 17), ("min_p", 0.04)],
    [("temperature", 2.0), ("top_p", 0.5), ("min_p", 0.3)],
]


def make(folder):
    draw = Draw("sampling")
    logits = draw.normal(4, 41, dtype=torch.float32, scale=2.5)
    ids = draw.integers(0, 41, (4, 9))
    tensors, rows = {"logits": logits, "input_ids": ids}, []
    for case, steps in enumerate(CASES):
        scores = logits.clone()
        for name, value in steps:
            scores = PROCESSORS[name](value)(ids, scores)
        tensors[f"probabilities_{case}"] = torch.softmax(scores, dim=-1)
        rows.append({"case": case, "processors_in_order": [list(step) for step in steps]})
    save(folder / "sampling.safetensors", tensors)
    write_json(folder / "sampling.json", rows)
