"""Tokenizers trained here, their ids for many texts, and renderings of chat templates."""
import json
import pathlib
import random

import jinja2
import tokenizers
import transformers
import trl
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from common import versions, write_json

# ---- text ----

WORDS = {
    "latin": "the a of river stone light under over walks sings quiet green seven boats harbour wind morning "
             "letters between mountains never always because doesn't we've I'm they'll it's she'd you're",
    "accents": "café naïve Übergröße señor façade København żółć élève Ångström crème brûlée",
    "greek": "ποτάμι φως βουνό θάλασσα άνεμος", "cyrillic": "река свет гора море ветер",
    "han": "河流 山 海风 早晨 信件", "kana": "かわ ひかり ヤマ", "hangul": "강물 바람 아침",
    "arabic": "نهر جبل ضوء", "hebrew": "נהר הר אור", "devanagari": "नदी पहाड़ प्रकाश", "thai": "แม่น้ำ ภูเขา",
    "emoji": "🌊 🏔️ 👩‍🚀 👍🏽 🇳🇴", "digits": "7 42 1999 3.14 10,000 ½ ٣٤",
}
MARKS = [" ", " ", " ", " ", ", ", ". ", "? ", "! ", "\n", "  ", ": ", " - ", "; ", "\n\n", "\t"]


def sentence(draw, scripts, words):
    text = ""
    for _ in range(words):
        word = draw.choice(WORDS[draw.choice(scripts)].split(" "))
        text += (word.capitalize() if draw.random() < 0.15 else word) + draw.choice(MARKS)
    return text


def corpus():
    draw = random.Random(20240229)
    scripts = ["latin"] * 12 + sorted(WORDS)
    return [sentence(draw, scripts, 30) for _ in range(400)]


def texts():
    draw = random.Random(7)
    fixed = [
        "", " ", "  ", "\n", "\t", " a", "a ", "  a  b   c    ", "\n\n  \n x", "a\r\nb\rc", "A river under stone.",
        "DOESN'T doesn't DoEsN'T we'Ve I'M 's 't", "1 12 123 1234 12345 1,234.50 ½ ²", "x=(y+1)*2; // {z}",
        "a\u0301 e\u0308 \u1100\u1161\u11a8 n\u0303", "ﬁ Å Å ①", "\u00a0\u2003\u3000", "\u200b\u200d\ufeff",
        "\x00\x01\x1f\x7f\x85", "🌊🏔️👩‍🚀👍🏽🇳🇴", "<s>", "a<s>b", " </s> x", "<unk>", "<|endoftext|>after",
        "x <|endoftext|> y", "<|im_start|>user\nhi<|im_end|>\n", "<|im_st", "<0x41>", "▁", "a▁b ▁ c",
        "nepřetržitý příliš žluťoučký", "𝒳𝔘 𐍈", "ạ̈̃ẅ", "------====", "河流山海风早晨", "\u202eabc\u202c",
    ]
    scripts = sorted(WORDS)
    for words in (1, 2, 3, 5, 8, 13):
        fixed += [sentence(draw, [script], words) for script in draw.sample(scripts, 4)]
        fixed += [sentence(draw, scripts, words) for _ in range(3)]
    for _ in range(12):  # any code points except surrogates
        points = [draw.choice([draw.randrange(0xd800), draw.randrange(0xe000, 0x110000), draw.randrange(0x250)])
                  for _ in range(draw.randrange(1, 12))]
        fixed.append("".join(map(chr, points)))
    return fixed


# ---- tokenizers ----

QWEN2_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
               r"\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|")


def trained(tokenizer, size, specials):
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if not tokenizer.model.byte_fallback else [])
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def byte_level():
    """The form of GPT-2."""
    t = tokenizers.Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return trained(t, 480, ["<|endoftext|>"]), {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>",
                                                "tokenizer_class": "GPT2Tokenizer"}


def split(pattern, **parts):
    t = tokenizers.Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    for name, part in parts.items():
        setattr(t, name, part)
    return t


def qwen2():
    """NFC, a split by a regular expression, bytes."""
    t = split(QWEN2_SPLIT, normalizer=normalizers.NFC())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return trained(t, 520, specials), {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                                       "tokenizer_class": "Qwen2Tokenizer"}


def llama3():
    """Three digits per piece, and a begin token added by the post-processor."""
    t = trained(split(LLAMA3_SPLIT), 500, ["<|begin_of_text|>", "<|eot_id|>"])
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B",
                                      special_tokens=[("<|begin_of_text|>", 0)])])
    return t, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}


def sentencepiece_form(**parts):
    """Spaces as U+2581, bytes for what the vocabulary lacks, a begin token."""
    t = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    for name, part in parts.items():
        setattr(t, name, part)
    specials = ["<unk>", "<s>", "</s>"]
    trained(t, 700, specials + [f"<0x{byte:02X}>" for byte in range(256)])
    state = json.loads(t.to_str())
    state["added_tokens"] = [one for one in state["added_tokens"] if one["content"] in specials]
    t = tokenizers.Tokenizer.from_str(json.dumps(state))
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return t, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def llama2():
    return sentencepiece_form(normalizer=normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))


def llama2_metaspace():
    return sentencepiece_form(pre_tokenizer=pre_tokenizers.Metaspace(
        replacement="▁", prepend_scheme="first", split=False))


TOKENIZERS = [byte_level, qwen2, llama3, llama2, llama2_metaspace]


def write_tokenizers(folder):
    out = {"versions": versions("tokenizers"), "texts": texts(), "tokenizers": {}}
    for make_one in TOKENIZERS:
        tokenizer, config = make_one()
        name = make_one.__name__
        target = folder / "tokenizers" / name
        target.mkdir(parents=True)
        tokenizer.save(str(target / "tokenizer.json"), pretty=False)
        if "tokenizer_class" in config:  # the two classes that need no tokenizer.json
            tokenizer.model.save(str(target))
            config["added_tokens_decoder"] = {
                str(number): {"content": token.content, "lstrip": token.lstrip, "normalized": token.normalized,
                              "rstrip": token.rstrip, "single_word": token.single_word, "special": token.special}
                for number, token in sorted(tokenizer.get_added_tokens_decoder().items())}
        write_json(target / "tokenizer_config.json", config)
        rows = []
        for text in out["texts"]:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            rows.append({"ids": ids, "ids_with_special": tokenizer.encode(text).ids,
                         "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
        out["tokenizers"][name] = rows
    write_json(folder / "tokenizers.json", out, indent=None)


# ---- chat templates ----

CONVERSATIONS = {
    "short": [("user", "Which river is the longest?")],
    "instructed": [("system", "Answer in five words."), ("user", "Why is snow white?"),
                   ("assistant", "It scatters every colour equally.")],
    "turns": [("user", "Name a prime."), ("assistant", "Seven."), ("user", "  Another one?\n"),
              ("assistant", "\nEleven. "), ("user", "And their sum?")],
    "all": [("system", "You are terse.\nNo jokes."), ("user", "2 + 2?"), ("assistant", "4"), ("user", "Sure?"),
            ("assistant", "<b>Yes</b> & \"yes\" – ½ 🌊")],
    "thoughts": [("user", "Is 91 prime?"), ("assistant", "<think>\n7 * 13\n</think>\n\nNo."), ("user", "Thanks")],
    "two_users": [("user", "one"), ("user", "two")],
    "assistant_first": [("assistant", "Hello"), ("user", "Hi")],
    "empty_content": [("user", ""), ("assistant", "")],
}
# TRL's files, whose texts are not copied: the library's name for each, and the tokens of its models.
SHIPPED = {
    "qwen2_5": ("qwen2.5", "", "<|im_end|>"),
    "qwen3": ("qwen3", "", "<|im_end|>"),
    "deepseek_r1_distill": ("deepseek-r1", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "gemma": ("gemma", "<bos>", "<eos>"),
    "llama3": ("llama3", "<|begin_of_text|>", "<|eot_id|>"),
    "llama3_1": ("llama3.1", "<|begin_of_text|>", "<|eot_id|>"),
    "llama3_2": ("llama3.2", "<|begin_of_text|>", "<|eot_id|>"),
    "phi3_5": ("phi3", "<s>", "<|end|>"),
}
# A format written here.
CHATML = """{% for m in messages -%}
<|im_start|>{{ m.role + '\\n' + m.content }}<|im_end|>{{ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def write_chats(folder):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(models.BPE()))
    conversations = {name: [{"role": role, "content": content} for role, content in turns]
                     for name, turns in CONVERSATIONS.items()}
    out = {"versions": versions("transformers", "trl", "jinja2"), "conversations": conversations,
           "named": {}, "output": {}}
    shipped = pathlib.Path(trl.__file__).parent / "chat_templates"
    templates = {name: ((shipped / f"{name}.jinja").read_text(encoding="utf-8"), *rest)
                 for name, rest in SHIPPED.items()}
    templates["chatml"] = (CHATML, "chatml", "", "<|im_end|>")
    for name, (jinja, known_as, bos, eos) in templates.items():
        out["named"][name] = known_as
        tokenizer.bos_token, tokenizer.eos_token = bos or None, eos
        rendered = {}
        for conversation, messages in conversations.items():
            for ending in ("whole", "prompt"):
                try:
                    value = tokenizer.apply_chat_template(
                        messages, chat_template=jinja, tokenize=False, add_generation_prompt=ending == "prompt",
                        date_string="09 Nov 2023")
                except jinja2.TemplateError as error:
                    value = {"refused": str(error)}
                rendered[f"{conversation}|{ending}"] = value
        out["output"][name] = {"bos_token": bos, "eos_token": eos, "rendered": rendered}
    write_json(folder / "chat.json", out)


def make(folder):
    write_tokenizers(folder)
    write_chats(folder)
