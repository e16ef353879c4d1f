"""Trains an adapter with PyTorch, transformers and PEFT and writes what loss_curve.cpp needs to train the
same one: the other side of loss_curve.sh.

    torch_loss_curve.py FOLDER THREADS

The base is examples/data/base in float32, the data examples/data/instructions.json in batches of 16; only
the answers contribute to the loss. For "lora" and "dora" FOLDER/<name>/ receives adapter/ (before the
training) and theirs.jsonl (step, loss and norm of the gradient); again.jsonl is the same training with
PyTorch's other attention, which rounds differently. FOLDER also receives batches.safetensors and training.json.
"""

import json
import pathlib
import random
import sys

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

DATA = pathlib.Path(__file__).resolve().parent.parent / "examples" / "data"
ROWS, ACCUMULATION = 8, 2
TRAINING = {"max_steps": 150, "gradient_accumulation_steps": ACCUMULATION, "learning_rate": 3e-3,
            "weight_decay": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
            "lr_scheduler_type": "cosine", "warmup_steps": 10, "max_grad_norm": 1.0}


def rendered(tokenizer, record):
    """The ids of a record in the base's chat template, and its labels: -100 but for the answer."""
    asked = "\n\n".join(filter(None, (record["instruction"], record["input"])))
    question = [{"role": "user", "content": asked}]
    answer = [{"role": "assistant", "content": record["output"]}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = tokenizer.apply_chat_template(question + answer, return_dict=True)["input_ids"]
    assert ids[:len(prompt)] == prompt
    return ids, [-100] * len(prompt) + ids[len(prompt):]


def make_batches():
    """input_ids and labels of shape (micro-batches, rows, tokens), shuffled anew for each epoch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(DATA / "base")
    records = [rendered(tokenizer, one) for one in json.loads((DATA / "instructions.json").read_text())]
    micro = TRAINING["max_steps"] * ACCUMULATION
    order, draw = [], random.Random(42)
    while len(order) < micro * ROWS:
        order += draw.sample(range(len(records)), len(records))
    longest = max(len(ids) for ids, _ in records)
    shape = (micro, ROWS, longest)
    ids = torch.full((micro * ROWS, longest), tokenizer.pad_token_id)
    labels = torch.full((micro * ROWS, longest), -100)
    for row, index in enumerate(order[:micro * ROWS]):
        one, counted = records[index]
        ids[row, :len(one)], labels[row, :len(one)] = torch.tensor(one), torch.tensor(counted)
    return ids.view(shape), labels.view(shape)


def load_base(attention):
    return transformers.AutoModelForCausalLM.from_pretrained(
        DATA / "base", dtype=torch.float32, attn_implementation=attention)


def train(model, ids, labels):
    steps = TRAINING["max_steps"]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=TRAINING["learning_rate"], betas=(TRAINING["adam_beta1"], TRAINING["adam_beta2"]),
        eps=TRAINING["adam_epsilon"], weight_decay=TRAINING["weight_decay"])
    schedule = transformers.get_scheduler(TRAINING["lr_scheduler_type"], optimiser,
                                          num_warmup_steps=TRAINING["warmup_steps"], num_training_steps=steps)
    model.train()
    for step in range(steps):
        micro = range(step * ACCUMULATION, (step + 1) * ACCUMULATION)
        counted = sum((labels[m, :, 1:] != -100).sum() for m in micro)
        loss = 0.0
        for m in micro:
            part = model(input_ids=ids[m], labels=labels[m], num_items_in_batch=counted).loss
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, TRAINING["max_grad_norm"])
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        yield {"step": step + 1, "loss": loss, "grad_norm": norm.item()}


def write_lines(path, entries):
    with open(path, "w") as file:
        for entry in entries:
            file.write(json.dumps(entry) + "\n")


def main():
    folder = pathlib.Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    ids, labels = make_batches()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"input_ids": ids.contiguous(), "labels": labels.contiguous()}, folder / "batches.safetensors")
    (folder / "training.json").write_text(json.dumps(TRAINING, indent=2) + "\n")
    for name in ("lora", "dora"):
        torch.manual_seed(1)
        adapter = folder / name / "adapter"
        get_peft_model(load_base("sdpa"), LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", use_dora=name == "dora",
            task_type="CAUSAL_LM")).save_pretrained(adapter)
        for attention, file in (("sdpa", "theirs.jsonl"), ("eager", "again.jsonl")):
            model = PeftModel.from_pretrained(load_base(attention), adapter, is_trainable=True)
            write_lines(folder / name / file, train(model, ids, labels))


if __name__ == "__main__":
    main()
