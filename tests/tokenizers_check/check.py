"""Ids and texts of this library against the tokenizers library; run.sh calls it.

  check.py ENCODE COUNT [NAME...]     compare on COUNT random texts for each family
  check.py --golden FILE              write the golden numbers of the default tests (training breaks
                                      ties at random, so another file each time)
"""
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from families import families, random_text

FIELDS = ("ids", "raw", "decoded", "without_special")


def texts_of(tokenizer, name, count):
    r = random.Random(name)
    added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    return [random_text(r, added) for _ in range(count)]


def expected(tokenizer, text):
    ids = tokenizer.encode(text).ids
    return (ids, tokenizer.encode(text, add_special_tokens=False).ids,
            tokenizer.decode(ids, skip_special_tokens=False),
            tokenizer.decode(ids, skip_special_tokens=True))


def check(encode, name, tokenizer, count):
    texts = texts_of(tokenizer, name, count)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder + "/tokenizer.json")
        pathlib.Path(folder, "texts.json").write_text(json.dumps(texts))
        run = subprocess.run([encode, folder, folder + "/texts.json"], capture_output=True, text=True)
    if run.returncode:
        print(f"{name:18} FAILED: {run.stderr.strip()}")
        return count
    wrong = 0
    for text, line in zip(texts, run.stdout.split("\n")):
        ours = json.loads(line)
        for field, value in zip(FIELDS, expected(tokenizer, text)):
            if ours[field] != value:
                wrong += 1
                if wrong <= 3:
                    print(f"{name}: {text!r}: {field}\n  here       {ours[field]!r}\n"
                          f"  tokenizers {value!r}")
                break
    print(f"{name:18} {count} texts, {wrong} differ", flush=True)
    return wrong


def golden(path):
    out = {}
    for name, tokenizer in families().items():
        file = json.loads(tokenizer.to_str())
        rows = [[text, *expected(tokenizer, text)] for text in texts_of(tokenizer, name, 500)]
        out[name] = {"tokenizer": file, "rows": rows}
    pathlib.Path(path).write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")))


def main():
    if sys.argv[1] == "--golden":
        return golden(sys.argv[2])
    names = sys.argv[3:]
    wrong = sum(check(sys.argv[1], name, tokenizer, int(sys.argv[2]))
                for name, tokenizer in families().items() if not names or name in names)
    sys.exit(wrong > 0)


main()
