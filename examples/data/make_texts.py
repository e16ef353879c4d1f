"""Makes the texts of this folder: corpus_en.txt, corpus_zh.txt and instructions.json.

    python3 make_texts.py [FOLDER]        (default: the folder of this program)

The tables of source/world.py, the stories and records of source/*.txt and the sentence patterns of
source/sentences.py are the source of those three files; edit them and run this again, never the
three files. The same source gives the same bytes: every choice is drawn from a seeded generator,
and Python's Random(str) does not depend on the machine.
Before anything is written, each record is checked against the tables.
"""

import json
import pathlib
import random
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "source"))
import world as w  # noqa: E402  (these lie in source/)
from records import all_records  # noqa: E402
import sentences as s  # noqa: E402

MICRO_STORIES = 140  # of each language
TALKS = 100  # of each language


# --- the two corpora


def corpus(rng, documents):
    """One document a paragraph, an empty line between two."""
    rng.shuffle(documents)
    return "\n\n".join(documents) + "\n"


def corpus_en():
    rng = random.Random("corpus_en")
    documents = [
        story + (f" In short: {summary}" if i % 2 else "")
        for i, (story, summary) in enumerate(s.stories("stories_en.txt"))
    ]
    for a in w.ANIMALS.values():
        documents += s.grouped(rng, s.animal_en(a), 6, " ") + [
            " ".join(s.animal_denials_en(rng, a))
        ]
        documents += [s.animal_portrait_en(rng, a)]
    documents += s.grouped(rng, s.shared_facts(rng, "en", s.shared_fact_en), 4, " ")
    for a, b in s.comparisons(rng, 60):
        documents.append(
            f"The {a['en']} is bigger than the {b['en']}. "
            f"The {b['en']} is smaller than the {a['en']}."
        )
    for table, facts in (
        (w.FOODS, s.food_en),
        (w.TOOLS, s.tool_en),
        (w.JOBS, s.job_en),
        (w.FAMILY, s.person_en),
    ):
        for row in table.values():
            documents += s.grouped(rng, facts(row), 5, " ")
    for _ in range(2):
        documents += s.grouped(rng, s.time_and_weather_en(), 4, " ")
        documents += s.grouped(
            rng, [f"The Chinese word for {en} is {zh}." for en, zh in s.dictionary()], 4, " "
        )
    documents += sorted({s.micro_story_en(rng) for _ in range(MICRO_STORIES)})
    documents += sorted({s.talk_en(rng) for _ in range(TALKS)})
    return corpus(rng, documents)


def corpus_zh():
    rng = random.Random("corpus_zh")
    documents = [
        story + (f"总之，{summary}" if i % 2 else "")
        for i, (story, summary) in enumerate(s.stories("stories_zh.txt"))
    ]
    for a in w.ANIMALS.values():
        documents += s.grouped(rng, s.animal_zh(a), 6, "") + ["".join(s.animal_denials_zh(rng, a))]
        documents += [s.animal_portrait_zh(rng, a)]
    documents += s.grouped(rng, s.shared_facts(rng, "zh", s.shared_fact_zh), 4, "")
    for a, b in s.comparisons(rng, 60):
        documents.append(f"{a['zh']}比{b['zh']}大。{b['zh']}比{a['zh']}小。")
    for table, facts in (
        (w.FOODS, s.food_zh),
        (w.TOOLS, s.tool_zh),
        (w.JOBS, s.job_zh),
        (w.FAMILY, s.person_zh),
    ):
        for row in table.values():
            documents += s.grouped(rng, facts(row), 5, "")
    for _ in range(2):
        documents += s.grouped(rng, s.time_and_weather_zh(), 4, "")
        documents += s.grouped(rng, [f"{zh}的英文是 {en}。" for en, zh in s.dictionary()], 4, "")
    documents += sorted({s.micro_story_zh(rng) for _ in range(MICRO_STORIES)})
    documents += sorted({s.talk_zh(rng) for _ in range(TALKS)})
    return corpus(rng, documents)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    w.check_tables()
    s.check_stories()
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in all_records())
    texts = {
        "corpus_en.txt": corpus_en(),
        "corpus_zh.txt": corpus_zh(),
        "instructions.json": f"[\n{rows}\n]\n",
    }
    for name, text in texts.items():
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text), f"{name} has a control character"
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}: {len(text.encode('utf-8'))} bytes")


if __name__ == "__main__":
    main()
