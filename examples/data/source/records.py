"""The instruction records: written by hand or made from the tables, all checked by the tables."""

import pathlib
import random
import re

import world as w
from sentences import QUESTIONS_EN, dictionary, question_en, question_zh

HERE = pathlib.Path(__file__).resolve().parent
GENERATED_RECORDS = 80  # of each language


def written_records(name):
    """The lines of a file here: tag | instruction | input | output. The tag says what to check."""
    records = []
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")] if line.strip() else []
        if cells:
            if len(cells) != 4:
                raise ValueError(f"{name}: {len(cells)} cells, expected 4: {line}")
            records.append(tuple(cells))
    return records


def generated_records(seed, question, translate, known):
    """Records from the tables that are not among the known (instruction, input)."""
    rng = random.Random(seed)
    words = dictionary()
    made = []
    while len(made) < GENERATED_RECORDS:
        if rng.random() < 0.25:
            record = translate(*rng.choice(words))
        else:
            record = question(
                rng, rng.choice(list(w.ANIMALS.values())), rng.choice(list(QUESTIONS_EN))
            )
        if record[1:3] not in known:
            known.add(record[1:3])
            made.append(record)
    return made


# --- the check of a record against the tables


def has(text, word):
    """Whether the word stands in the text, as a whole word where it is English."""
    return (
        bool(re.search(rf"\b{re.escape(word)}\b", text, re.I)) if word.isascii() else word in text
    )


def says_yes(output):
    for word, meaning in (("Yes", True), ("是的", True), ("No", False), ("不", False)):
        if output.startswith((word + ",", word + "，")):
            return meaning
    raise ValueError("neither yes nor no")


def check_animal(name, rest, text):
    attribute, asked = rest.split(" ? ") if " ? " in rest else (rest, "")
    a = w.ANIMALS[name]
    if asked:
        yes = says_yes(text)
        assert yes == (asked == a[attribute])
        if attribute == "can":  # a no must be known, not only absent
            assert yes or asked == a["cannot"]
            expected = asked
        else:
            expected = a[attribute]
    else:
        expected = a[attribute]
    english, chinese = w.en_of(attribute, expected), w.zh_of(attribute, expected)
    assert has(text, english) or chinese in text
    assert has(text, name) or a["zh"] in text


def check_list(rest, text):
    attribute, value = rest.split(" ", 1)
    # Chinese has no spaces between words: a name (鱼) must stand alone between its neighbours.
    stands = r"(^|和){}(?=[和是住吃能非有])"
    named = [
        a
        for a in w.ANIMALS.values()
        if has(text, a["en"]) or re.search(stands.format(a["zh"]), text)
    ]
    assert len(named) == 2, [a["en"] for a in named]
    assert all(a[attribute] == value for a in named)
    assert (
        has(text, w.en_of(attribute, value))
        or has(text, value + "s")
        or w.zh_of(attribute, value) in text
    )


def check_row(row, columns, text):
    """One of the columns stands in the text."""
    assert any(row.get(column) and has(text, row[column]) for column in columns), [
        row.get(c) for c in columns
    ]


def check_food(name, attribute, text):
    f = w.FOODS[name]
    zh = {
        "colour": w.COLOURS[f["colour"]],
        "taste": w.TASTES[f["taste"]],
        "kind": w.FOOD_KINDS[f["kind"]],
        "origin": f["origin_zh"],
    }[attribute]
    assert has(text, f[attribute]) or zh in text


def check_other(kind, rest, text):
    """Tools, jobs, people, days and the like."""
    first, _, last = rest.rpartition(" ")
    if kind == "tool":
        check_row(w.TOOLS[first], ("use", "use_zh"), text)
    elif kind == "job" and last == "tool":
        tool = w.TOOLS[w.JOBS[first]["tool"]]
        check_row(tool, ("en", "zh"), text)
    elif kind == "job":
        check_row(w.JOBS[first], (last, last + "_zh"), text)
    elif kind == "person" and last == "likes":
        check_row(w.FAMILY[first], ("likes", "likes_zh"), text)
    elif kind == "person":
        row = {"job": w.JOBS, "pet": w.ANIMALS}[last][w.FAMILY[first][last]]
        check_row(row, ("en", "zh"), text)
        check_row(w.FAMILY[first], ("en", "zh"), text)
    elif kind == "day":
        days = [d[0] for d in w.DAYS] if first.isascii() else [d[1] for d in w.DAYS]
        assert days[(days.index(first) + 1) % 7] == last and first in text and last in text
    elif kind == "dayjob":
        day = next(d for d in w.DAYS if rest in d)
        assert rest in text and (day[2] in text or day[3] in text)
    elif kind == "season":
        season = next(s for s in w.SEASONS if rest in s)
        assert has(text, season[0]) or season[1] in text
        assert any(word in text.lower() for word in season[2:])
    elif kind == "weather":
        weather = next(x for x in w.WEATHER if rest in x)
        assert weather[2] in text or weather[3] in text
    elif kind == "thing":
        thing = next(x for x in w.THINGS if x[0] == rest)
        assert has(text, thing[2]) or w.COLOURS[thing[2]] in text
    elif kind == "opposite":
        pairs = {(o[0], o[1]) for o in w.OPPOSITES} | {(o[2], o[3]) for o in w.OPPOSITES}
        assert (first, last) in pairs or (last, first) in pairs
        assert has(text, first) and has(text, last) and text.index(first) < text.rindex(last)
    elif kind == "class":
        table, zh = {
            "animal": (w.ANIMALS, "动物"),
            "food": (w.FOODS, "食物"),
            "tool": (w.TOOLS, "工具"),
            "job": (w.JOBS, "工作"),
        }[last]
        check_row(table[first], ("en", "zh"), text)
        assert has(text, last) or zh in text
    elif kind == "note":
        check_row(w.ANIMALS[rest], ("note", "note_zh"), text)
        check_row(w.ANIMALS[rest], ("en", "zh"), text)
    elif kind == "sound":
        assert w.SOUNDS[rest][0] in text or w.SOUNDS[rest][1] in text
    else:
        raise ValueError(f"unknown tag {kind}")


def check_record(tag, instruction, given, output):
    """The tag's fact stands in the output, and the output is short."""
    kind, _, rest = tag.partition(" ")
    assert instruction and output
    words = len(output.split()) if output.isascii() else len(output) / 2
    assert words <= 25
    if kind in ("animal", "sentence"):
        name = max((n for n in w.ANIMALS if rest.startswith(n + " ")), key=len)
        check_animal(name, rest[len(name) + 1 :], output)
    elif kind == "list":
        check_list(rest, output)
    elif kind == "food":
        check_food(*rest.split(" "), output)
    elif kind == "translate":
        assert {given, output} == {rest, dict(dictionary())[rest]}
    elif kind != "free":
        check_other(kind, rest, output)


def all_records():
    """Every record, checked, in a mixed order."""
    records = written_records("records_en.txt") + written_records("records_zh.txt")
    known = {record[1:3] for record in records}
    assert len(known) == len(records), "a written record is there twice"
    records += generated_records(
        "records_en",
        question_en,
        lambda en, zh: (f"translate {en}", "Translate into Chinese.", en, zh),
        known,
    )
    records += generated_records(
        "records_zh", question_zh, lambda en, zh: (f"translate {en}", "翻译成英文。", zh, en), known
    )
    for record in records:
        try:
            check_record(*record)
        except (AssertionError, KeyError, ValueError, StopIteration) as error:
            raise SystemExit(
                f"make_texts: {record} does not agree with the tables: {error!r}"
            ) from error
    random.Random("records").shuffle(records)
    return [{"instruction": r[1], "input": r[2], "output": r[3]} for r in records]
