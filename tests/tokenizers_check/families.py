"""Small tokenizers with the pipelines of published language models, and random texts for them."""
import json
import random

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
OLMO2 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
         r"|\s+(?!\S)|\s+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORDS = (r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + "+%s|" +
         r"[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + "*%s|")
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = WORDS % ("", "") + r"\p{N}" + REST
O200K = WORDS % (CONTRACTIONS + "?", CONTRACTIONS + "?") + r"\p{N}{1,3}" + REST
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
             r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
HAN = "[一-龥ࠀ-一가-퟿]+"
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"

POOLS = [list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"), list("0123456789"),
         list(" \t\n\r\x0b\x0c\x85\u00a0\u2028\u3000\u2003\u1680"),
         list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"), [chr(c) for c in [*range(32), 127]]]
POOLS += [[chr(c) for c in range(*r)] for r in [
    (0xa1, 0x250), (0x300, 0x370), (0x370, 0x600), (0x600, 0x700), (0x900, 0xa00), (0xe00, 0xe80),
    (0x3040, 0x3100), (0x4e00, 0x4f00), (0xac00, 0xad00), (0x1100, 0x1200)]]
POOLS += [[chr(c) for c in range(0x1f300, 0x1f650)] + ["\u200d", "\ufe0f", "\U0001f3fb", "\u20e3"],
          list("²³¹¼½¾٣௩Ⅷ①"), list("'’`ſKßﬁﬀİıǅʰ"),
          ["'s", "'T", "'re", "'VE", "'m", "'ll", "'D", "'ſ"],
          ["  ", "   ", "\n\n", " \n", "\r\n", "\t\t"],
          ["the ", "Hello", " world", "ing", "tion", "ein", "don't", "I'll", " 123", " 2024"],
          ["▁", "▁▁", "Ġ", "<0x41>", "<0xE4>"],
          ["e\u0301", "\u0344", "\u0f73", "\u1e9b\u0323", "\uac00\u11a8", "\u1100\u1161", "\u212b"]]


def any_char(r):
    c = r.randrange(0x110000 - 0x800)
    return chr(c if c < 0xd800 else c + 0x800)


def random_text(r, added=()):
    n = r.randint(0, r.choice([1, 2, 3, 5, 8, 13, 30]))
    pools = [r.choice(POOLS) for _ in range(r.randint(1, 5))]
    out = []
    for _ in range(n):
        x = r.random()
        if x < 0.04:
            out.append(any_char(r))
        elif added and x < 0.14:
            out.append(r.choice(added))
        else:
            out.append(r.choice(r.choice(pools)))
    return "".join(out)


def corpus(seed):
    r = random.Random(seed)
    words = ["the", "and", "that", "Hello", "world", "don't", "I'll", "ing", "123", "2024", "naïve",
             "für", "Straße", "мир", "привет", "世界", "你好", "こんにちは", "שלום", "مرحبا", "नमस्ते",
             "한국어", "x = y;", "{", "}", "return", "😀", "é", "e\u0301"]
    lines = [r.choice(["", " ", "\n"]).join(
        r.choice([" ", " ", " ", "\n", ", "]) + r.choice(words) for _ in range(r.randint(1, 30)))
        for _ in range(400)]
    # A vocabulary that spells "<0x41>" by merges is none that is published, and refused here.
    return lines + [random_text(r).replace("<0x", "") for _ in range(300)]


def flag_tokens():
    """A token for each combination of the five flags."""
    return [AddedToken(f"<f{i}>", single_word=bool(i & 1), lstrip=bool(i & 2), rstrip=bool(i & 4),
                       normalized=bool(i & 8), special=bool(i & 16)) for i in range(32)]


SPECIAL = [AddedToken("<|end|>", special=True, normalized=False),
           AddedToken("<|user|>", special=True, normalized=False, rstrip=True),
           AddedToken("<mid>", special=False, normalized=True),
           AddedToken("<left>", special=False, normalized=False, lstrip=True),
           AddedToken("word", special=False, normalized=False, single_word=True)]


def byte_level(pre, size=450, normalizer=None, added=SPECIAL, alphabet=True, template=False, **model):
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    letters = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    special = [model["unk_token"]] if model.get("unk_token") else []
    t.train_from_iterator(corpus(1), trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=letters, show_progress=False, special_tokens=special,
        **({} if alphabet else {"limit_alphabet": 120})))
    t.add_tokens(added)
    if template:
        t.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|end|> $A", pair="<|end|> $A <|end|> $B",
                                          special_tokens=[("<|end|>", t.token_to_id("<|end|>"))])])
    return t


def pieces(normalizer=None, pre=None, strip=True, added=SPECIAL, fallback=True, **model):
    model = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": fallback, **model}
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    names = ["<unk>", "<s>", "</s>"]
    hexes = [f"<0x{i:02X}>" for i in range(256)] if fallback else []
    t.train_from_iterator(corpus(2), trainers.BpeTrainer(
        vocab_size=700, show_progress=False, special_tokens=names + hexes, limit_alphabet=150,
        max_token_length=12))
    j = json.loads(t.to_str())
    j["added_tokens"] = j["added_tokens"][:3]
    t = Tokenizer.from_str(json.dumps(j))
    t.add_tokens(added)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    t.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return t


def families():
    P, N = pre_tokenizers, normalizers

    def split(pattern, behavior="isolated", invert=False):
        return P.Split(Regex(pattern), behavior, invert)

    def then(*steps, prefix=False, use_regex=False):
        return P.Sequence([*steps, P.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)])

    marks = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    meta = P.Metaspace
    return {
        "gpt2": byte_level(P.ByteLevel(add_prefix_space=False)),
        "gpt2_prefix": byte_level(P.ByteLevel(add_prefix_space=True)),
        "flags_bytes": byte_level(P.ByteLevel(add_prefix_space=False), normalizer=N.NFC(),
                                  added=flag_tokens()),
        "llama3": byte_level(then(split(LLAMA3)), ignore_merges=True, template=True),
        "qwen2": byte_level(then(split(QWEN2)), normalizer=N.NFC()),
        "olmo2": byte_level(then(split(OLMO2))),
        "tekken": byte_level(then(split(TEKKEN)), ignore_merges=True, template=True),
        "o200k": byte_level(then(split(O200K)), ignore_merges=True),
        "deepseek3": byte_level(then(split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"),
                                     split(DEEPSEEK3)), template=True),
        "deepseek_coder": byte_level(then(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
                                          split(HAN), P.Digits(True))),
        "deepseek_llm": byte_level(then(
            split("[\r\n]"), split("\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+"),
            split("\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"), split(r"\s+$"), split(HAN), P.Digits(True))),
        "smollm": byte_level(then(P.Digits(True), use_regex=True), alphabet=False),
        "starcoder_unk": byte_level(then(P.Digits(True), use_regex=True), alphabet=False,
                                    unk_token="<|unk|>", fuse_unk=True),
        "falcon": byte_level(P.Sequence([
            P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=False), P.Digits(False),
            split("[0-9][0-9][0-9]")])),
        "bloom": byte_level(then(split(BLOOM))),
        "behaviors": byte_level(then(split("[aeiou]", "merged_with_previous"), P.Split("th", "merged_with_next"),
                                     split(r"\d", "contiguous", True), P.Punctuation("removed"),
                                     P.Split("x", "removed"), prefix=True)),
        "spaces": byte_level(then(P.Whitespace()), normalizer=N.Sequence([
            N.Strip(), N.Replace(Regex(r"\s{2,}"), " "), N.Replace("\u2019", "'")])),
        "space_split": byte_level(then(P.WhitespaceSplit(), use_regex=True)),
        "llama2": pieces(marks),
        "flags_pieces": pieces(marks, added=flag_tokens()),
        "metaspace_first": pieces(pre=meta("▁", "first", False)),
        "metaspace_always": pieces(pre=meta("▁", "always", True)),
        "metaspace_never": pieces(pre=meta("▁", "never", True), strip=False),
        "gemma": pieces(N.Replace(" ", "▁"), P.Split(" ", "merged_with_previous"), strip=False),
        "no_fallback": pieces(marks, fallback=False),
        "no_unknown": pieces(marks, fallback=False, unk_token=None),
        "no_fuse": pieces(marks, fallback=False, fuse_unk=False),
    }
