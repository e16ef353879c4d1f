"""One LoRA linear layer under PyTorch + PEFT on the CPU: the other side of compare_torch.sh.

    torch_lora_linear.py WIDTH RANK THREADS DTYPE TOKENS [dora]

Prints the least time of a step (zero gradients, forward, backward with the input's gradient, AdamW
on A and B) in milliseconds.
"""

import sys
import time

import torch
from peft import LoraConfig, get_peft_model


class Layer(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(width, width, bias=False)

    def forward(self, x):
        return self.linear(x)


def main():
    width, rank, threads = (int(text) for text in sys.argv[1:4])
    dtype, tokens = getattr(torch, sys.argv[4]), int(sys.argv[5])
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    config = LoraConfig(r=rank, lora_alpha=16, target_modules=["linear"], init_lora_weights=False,
                        use_dora="dora" in sys.argv[6:])
    model = get_peft_model(Layer(width).to(dtype), config).to(dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    x = torch.randn(tokens, width, dtype=dtype, requires_grad=True)
    dy = torch.randn(tokens, width, dtype=dtype)

    least, end = float("inf"), time.perf_counter() + 1.0
    for turn in range(10**6):
        begin = time.perf_counter()
        x.grad = None
        optimizer.zero_grad(set_to_none=True)
        model(x).backward(dy)
        optimizer.step()
        now = time.perf_counter()
        if turn >= 2:
            least = min(least, now - begin)
        if turn >= 5 and now > end:
            break
    print(f"{least * 1e3:.4f}")


main()
