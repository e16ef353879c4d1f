#!/usr/bin/env python3
"""Writes include/lora/text/unicode_tables.hpp from the Unicode database of a Python module.

  python3 -m pip install unicodedata2==16.0.0 tokenizers
  python3 tools/make_unicode_tables.py > include/lora/text/unicode_tables.hpp

Needed only to move to another version of Unicode: the header is committed. Version 16 is the one
whose letters and numbers HuggingFace's tokenizers know (through Oniguruma), code point for code
point. Its normalisation and its Punctuation know older versions (about 9 and 8): what they do not
know is found by asking them, and left out.
"""
import sys

import unicodedata2 as unicode
from tokenizers import normalizers, pre_tokenizers

NFC, NFD = normalizers.NFC(), normalizers.NFD()
PUNCTUATION = pre_tokenizers.Punctuation("isolated")

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"
ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xAC00 + 11172)


def packed(numbers):
    """Five bits a digit, lowest first; a digit of 32 or more is followed by another."""
    out = []
    for number in numbers:
        assert number >= 0
        while True:
            number, low = number >> 5, number & 31
            out.append(DIGITS[low + (32 if number else 0)])
            if not number:
                break
    return "".join(out)


def runs(key):
    """(gap to the last run, length - 1, key) of each run of equal keys other than zero."""
    numbers, end, run = [], 0, []
    for c in ALL + [0x110000]:
        k = key(c) if c < 0x110000 else 0
        if run and (k != run[2] or c != run[1]):
            numbers += [run[0] - end, run[1] - run[0] - 1, run[2]]
            end, run = run[1], []
        if k and not run:
            run = [c, c, k]
        if run:
            run[1] = c + 1
    return numbers


def zigzag(n):
    return 2 * n if n >= 0 else -2 * n - 1


def combining(c):
    """The combining class, where the tokenizers library moves c by it."""
    value = unicode.combining(chr(c))
    if not value:
        return 0
    before, after = ("\u0334" if value > 1 else "\u0300"), chr(c)
    pair = after + before if value > 1 else before + after
    return value if NFC.normalize_str(pair) != pair else 0


def punctuation(c):
    return int(len(PUNCTUATION.pre_tokenize_str("a" + chr(c) + "a")) > 1)


def decompositions():
    """(gap, first, second, composes): one step of canonical decomposition, Hangul apart."""
    numbers, last, last_first = [], 0, 0
    for c in ALL:
        text = unicode.decomposition(chr(c))
        if not text or text[0] == "<" or c in HANGUL or NFD.normalize_str(chr(c)) == chr(c):
            continue
        parts = [int(part, 16) for part in text.split()]
        first, second = parts if len(parts) == 2 else (parts[0], 0)
        composes = second and NFC.normalize_str(chr(c)) == chr(c)
        numbers += [c - last, zigzag(first - last_first), 2 * second + bool(composes)]
        last, last_first = c, first
    return numbers


CATEGORIES = ("Cn Cc Cf Co Cs Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp "
              "Zs").split()


def category(c):
    return CATEGORIES.index(unicode.category(chr(c)))


CIRCLED = [*range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A), *range(0x1F150, 0x1F16A),
           *range(0x1F170, 0x1F18A)]  # Other_Alphabetic that are neither letters nor marks


def word(c):
    category = unicode.category(chr(c))
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or c in (0x200C, 0x200D)


def literal(name, comment, numbers):
    text = packed(numbers)
    rows = [text[i:i + 93] for i in range(0, len(text), 93)]
    lines = [f"/// {comment}", f"inline constexpr std::string_view {name} ="]
    lines += [f'    "{row}"' for row in rows]
    return "\n".join(lines) + ";\n"


def main():
    version = unicode.unidata_version
    if version != "16.0.0":
        sys.exit(f"unicodedata2 knows Unicode {version}, expected 16.0.0")
    print(f"""// Properties of code points, packed by tools/make_unicode_tables.py for unicode.hpp.
#pragma once

#include <string_view>

// clang-format off
namespace lora::unicode_tables {{

/// The version of Unicode of categories and words. Normalisation and punctuation know what those of
/// the tokenizers library know, which is less.
inline constexpr std::string_view version = "{version}";

/// The digits of a number, five bits each, lowest first; one of 32 or more is followed by another.
inline constexpr std::string_view digits =
    "{DIGITS}";
""")
    print(f"""/// The general categories in alphabetical order, two letters each; Cn, unassigned, is first.
inline constexpr std::string_view category_names =
    "{''.join(CATEGORIES)}";
""")
    print(literal("categories", "Runs: gap, length - 1, place in category_names.", runs(category)))
    print(literal("words",
                  "Runs: gap, length - 1, 1: part of a word (UTS #18, what a regular expression calls w).",
                  runs(lambda c: int(word(c) or c in CIRCLED))))
    print(literal("punctuation", "Runs: gap, length - 1, 1: what the pre-tokeniser Punctuation finds.",
                  runs(punctuation)))
    print(literal("combining", "Runs: gap, length - 1, canonical combining class.",
                  runs(combining)))
    print(literal("decompositions",
                  "Gap, change of the first part (zigzag), 2 * second part (0: none) + whether the "
                  "parts compose.", decompositions()))
    print("}  // namespace lora::unicode_tables\n// clang-format on")


main()
