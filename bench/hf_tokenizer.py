"""Times HuggingFace's tokenizers: hf_tokenizer.py DIR TEXT prints the milliseconds of encoding the
text at once and line by line, the number of ids, and a digest of them."""
import hashlib
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import Tokenizer  # noqa: E402

tokenizer = Tokenizer.from_file(os.path.join(sys.argv[1], "tokenizer.json"))
with open(sys.argv[2], encoding="utf-8", newline="") as file:
    text = file.read()
lines = text.split("\n")


def timed(work):
    start = time.perf_counter()
    result = work()
    return 1000 * (time.perf_counter() - start), result


timed(lambda: tokenizer.encode(text, add_special_tokens=False))
whole, encoding = timed(lambda: tokenizer.encode(text, add_special_tokens=False))
by_line, _ = timed(
    lambda: [tokenizer.encode(line, add_special_tokens=False).ids for line in lines])
digest = hashlib.sha256(" ".join(map(str, encoding.ids)).encode()).hexdigest()[:16]
print(f"{whole:.3f} {by_line:.3f} {len(encoding.ids)} {digest}")
