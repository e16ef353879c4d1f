"""Sentences, stories and questions about the world of world.py, in English and Chinese."""

import pathlib
import re

import world as w

HERE = pathlib.Path(__file__).resolve().parent

ATTRIBUTES = "colour size kind food home legs can".split()
VISITS = {  # homes that a person walks to
    "forest": "森林",
    "farm": "农场",
    "river": "河边",
    "lake": "湖边",
    "pond": "池塘",
    "mountain": "山上",
    "grassland": "草原",
    "garden": "花园",
    "field": "田野",
}
FEELINGS = [
    ("hungry", "饿了", "ate bread", "吃了面包"),
    ("hungry", "饿了", "ate an apple", "吃了苹果"),
    ("thirsty", "渴了", "drank milk", "喝了牛奶"),
    ("thirsty", "渴了", "drank water", "喝了水"),
    ("tired", "累了", "slept on the bed", "在床上睡觉"),
    ("cold", "冷了", "drank tea", "喝了茶"),
    ("happy", "很高兴", "sang a song", "唱了歌"),
    ("afraid", "很害怕", "ran home", "跑回了家"),
]


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def capital(text):
    return text[0].upper() + text[1:]


def plural_kind(kind):
    return kind if kind == "fish" else kind + "s"


def he_or_she(person):
    return "He" if person in ("Father", "Grandfather", "Uncle", "Tom") else "She"


def others(rng, table, value):
    """A key of the table that is wrong beside value (black and white is not denied to be black)."""
    return rng.choice([key for key in table if key not in value and value not in key])


def grouped(rng, sentences, size, joint):
    """Documents of up to `size` of the sentences, in a random order."""
    order = list(sentences)
    rng.shuffle(order)
    return [joint.join(order[i : i + size]) for i in range(0, len(order), size)]


# --- the facts of one animal


def animal_en(a):
    """Every wording of every fact of an animal."""
    x, xs, colour = a["en"], a["plural"], a["colour"]
    home, can, cannot = w.HOMES[a["home"]][0], a["can"], a["cannot"]
    sentences = [
        f"The {x} is {colour}.",
        f"{capital(xs)} are {colour}.",
        f"The colour of the {x} is {colour}.",
        f"{capital(article(x))} is {article(colour)} animal.",
        f"The {x} is {a['size']}.",
        f"{capital(article(x))} is {article(a['size'])} animal.",
        f"The {x} eats {a['food']}.",
        f"{capital(xs)} like to eat {a['food']}.",
        f"When the {x} is hungry, it eats {a['food']}.",
        f"The food of the {x} is {a['food']}.",
        f"The {x} lives {home}.",
        f"You can find {xs} {home}.",
        f"The home of the {x} is the {a['home']}.",
        f"The {x} has {a['legs']} legs.",
        f"{capital(xs)} have {a['legs']} legs.",
        f"The {x} is {article(a['kind'])}.",
        f"{capital(xs)} are {plural_kind(a['kind'])}.",
        f"The {x} can {can}.",
        f"The {x} cannot {cannot}.",
        f"{capital(xs)} can {can}, but they cannot {cannot}.",
        f"The {x} {a['note']}.",
        f"The {x} is an animal.",
    ]
    if a["kind"] in w.COVERS:
        sentences.append(f"The {x} has {colour} {w.COVERS[a['kind']][0]}.")
    if x in w.SOUNDS:
        sentences += [
            f"The {x} says {w.SOUNDS[x][0]}.",
            f"The sound of the {x} is {w.SOUNDS[x][0]}.",
        ]
    return sentences


def animal_denials_en(rng, a):
    x = a["en"]
    return [
        f"The {x} is not {others(rng, w.COLOURS, a['colour'])}. It is {a['colour']}.",
        f"The {x} does not eat {others(rng, w.FOODS_OF_ANIMALS, a['food'])}. It eats {a['food']}.",
        f"The {x} does not live {w.HOMES[others(rng, w.HOMES, a['home'])][0]}. "
        f"It lives {w.HOMES[a['home']][0]}.",
    ]


def animal_portrait_en(rng, a):
    x = a["en"]
    middle = [
        f"It is {a['colour']}.",
        f"It lives {w.HOMES[a['home']][0]}.",
        f"It eats {a['food']}.",
        f"It has {a['legs']} legs.",
        f"It can {a['can']}, but it cannot {a['cannot']}.",
    ]
    rng.shuffle(middle)
    return " ".join(
        [f"The {x} is {article(a['size'])} {a['kind']}."] + middle + [f"The {x} {a['note']}."]
    )


def animal_zh(a):
    x, colour = a["zh"], w.COLOURS[a["colour"]]
    size, kind, food = w.SIZES[a["size"]], w.KINDS[a["kind"]], w.FOODS_OF_ANIMALS[a["food"]]
    home, can, cannot = w.HOMES[a["home"]][1], w.ABILITIES[a["can"]], w.ABILITIES[a["cannot"]]
    legs = "没有腿" if a["legs"] == "no" else f"有{w.LEGS[a['legs']]}条腿"
    cover = w.COVERS.get(a["kind"], ("", "身体"))[1]
    sentences = [
        f"{x}是{colour}的。",
        f"{x}的颜色是{colour}。",
        f"{x}的{cover}是{colour}的。",
        f"这{a['measure']}{x}是{colour}的。",
        f"{x}{size}。",
        f"{x}是一种{size}的动物。",
        f"{x}吃{food}。",
        f"{x}喜欢吃{food}。",
        f"{x}饿了就吃{food}。",
        f"{x}的食物是{food}。",
        f"{x}住在{home}。",
        f"在{home}可以看到{x}。",
        f"{x}的家在{home}。",
        f"{x}{legs}。",
        f"我们知道{x}{legs}。",
        f"{x}是{kind}。",
        f"{x}是{kind}的一种。",
        f"{x}能{can}。",
        f"{x}不能{cannot}。",
        f"{x}能{can}，但是不能{cannot}。",
        f"{x}{a['note_zh']}。",
        f"{x}是一种动物。",
    ]
    if a["en"] in w.SOUNDS:
        sound = w.SOUNDS[a["en"]][1]
        sentences += [f"{x}{sound}叫。", f"{sound}，{x}在叫。"]
    return sentences


def animal_denials_zh(rng, a):
    x = a["zh"]
    other_colour = w.COLOURS[others(rng, w.COLOURS, a["colour"])]
    other_food = w.FOODS_OF_ANIMALS[others(rng, w.FOODS_OF_ANIMALS, a["food"])]
    other_home = w.HOMES[others(rng, w.HOMES, a["home"])][1]
    return [
        f"{x}不是{other_colour}的，{x}是{w.COLOURS[a['colour']]}的。",
        f"{x}不吃{other_food}，{x}吃{w.FOODS_OF_ANIMALS[a['food']]}。",
        f"{x}不住在{other_home}，{x}住在{w.HOMES[a['home']][1]}。",
    ]


def animal_portrait_zh(rng, a):
    x = a["zh"]
    legs = "没有腿" if a["legs"] == "no" else f"有{w.LEGS[a['legs']]}条腿"
    middle = [
        f"它是{w.COLOURS[a['colour']]}的。",
        f"它住在{w.HOMES[a['home']][1]}。",
        f"它吃{w.FOODS_OF_ANIMALS[a['food']]}。",
        f"它{legs}。",
        f"它能{w.ABILITIES[a['can']]}，但是不能{w.ABILITIES[a['cannot']]}。",
    ]
    rng.shuffle(middle)
    return "".join(
        [f"{x}是一种{w.SIZES[a['size']]}的{w.KINDS[a['kind']]}。"]
        + middle
        + [f"{x}{a['note_zh']}。"]
    )


# --- several animals


def shared_fact_en(names, attribute, value):
    """What several animals have in common: The crow and the bat are black."""
    listed = ", ".join(f"the {name}" for name in names[:-1]) + f" and the {names[-1]}"
    what = {
        "colour": f"are {value}",
        "size": f"are {value}",
        "kind": f"are {plural_kind(value)}",
        "food": f"eat {value}",
        "home": f"live {w.en_of('home', value)}" if attribute == "home" else "",
        "legs": f"have {value} legs",
        "can": f"can {value}",
    }[attribute]
    return f"{capital(listed)} {what}."


def shared_fact_zh(names, attribute, value):
    listed = "、".join(names[:-1]) + "和" + names[-1]
    word = w.zh_of(attribute, value)
    legs = "没有腿" if value == "no" else f"有{word}条腿"
    what = {
        "colour": f"是{word}的",
        "size": word,
        "kind": f"是{word}",
        "food": f"吃{word}",
        "home": f"住在{word}",
        "legs": legs,
        "can": f"能{word}",
    }[attribute]
    return f"{listed}{what}。"


def shared_facts(rng, name_of, sentence):
    """For each value of each attribute, sentences on two or three of the animals that have it."""
    made = []
    for attribute in ATTRIBUTES:
        for value in sorted({a[attribute] for a in w.ANIMALS.values()}):
            names = [a[name_of] for a in w.ANIMALS.values() if a[attribute] == value]
            for _ in range(min(4, len(names) // 2)):
                made.append(
                    sentence(
                        rng.sample(names, rng.choice((2, 2, min(3, len(names))))), attribute, value
                    )
                )
    return sorted(set(made))


def comparisons(rng, count):
    """(bigger, smaller) animals."""
    rank = {size: i for i, size in enumerate(w.SIZES)}
    rows = list(w.ANIMALS.values())
    pairs = []
    while len(pairs) < count:
        a, b = rng.sample(rows, 2)
        if rank[a["size"]] > rank[b["size"]]:
            pairs.append((a, b))
    return pairs


# --- foods, tools, jobs, people, time, weather


def food_en(f):
    if f["plural"]:
        one, many, end = f"The {f['en']}", capital(f["plural"]), ""
        both = [f"{many} are {f['colour']}.", f"{many} are {f['taste']}."]
    else:
        one, many, end, both = capital(f["en"]), capital(f["en"]), "s", []
    kind = article(f["kind"])
    sentences = both + [
        f"{one} is {f['colour']}.",
        f"{one} is {f['taste']}.",
        f"{many} taste{end} {f['taste']}.",
        f"{one} is {kind}.",
        f"{many} {f['origin']}.",
    ]
    if f["kind"] not in ("food", "drink"):
        sentences.append(f"{one} is a food.")
    if f["season"]:
        sentences.append(f"{many} come{end} in {f['season']}.")
    return sentences


def food_zh(f):
    x, taste = f["zh"], w.TASTES[f["taste"]]
    if f["kind"] == "drink" and f["taste"] == "good":
        taste = "好喝"
    sentences = [
        f"{x}是{w.COLOURS[f['colour']]}的。",
        f"{x}的颜色是{w.COLOURS[f['colour']]}。",
        f"{x}是{taste}的。",
        f"{x}很{taste}。",
        f"{x}是{w.FOOD_KINDS[f['kind']]}。",
        f"{x}{f['origin_zh']}。",
    ]
    if f["kind"] != "drink":
        sentences.append(f"{x}是一种食物。")
    if f["season"]:
        sentences.append(f"{dict((s[0], s[1]) for s in w.SEASONS)[f['season']]}有{x}。")
    return sentences


def tool_en(t):
    x = article(t["en"])
    return [
        f"We use {x} to {t['use']}.",
        f"{capital(x)} is a tool.",
        f"The {t['en']} is a tool.",
        f"With {x} you can {t['use']}.",
        f"To {t['use']}, take {x}.",
    ]


def tool_zh(t):
    x = t["zh"]
    return [
        f"我们用{x}{t['use_zh']}。",
        f"{x}是一种工具。",
        f"{x}可以用来{t['use_zh']}。",
        f"想{t['use_zh']}，就拿{x}。",
    ]


def job_en(j):
    x = j["en"]
    sentences = [
        f"The {x} {j['does']}.",
        f"The {x} works {j['place']}.",
        f"At work, the {x} {j['does']}.",
        f"You can find the {x} {j['place']}.",
        f"{capital(x)} is a job.",
    ]
    return sentences + ([f"The {x} uses {article(j['tool'])}."] if j["tool"] else [])


def job_zh(j):
    x = j["zh"]
    sentences = [
        f"{x}{j['does_zh']}。",
        f"{x}在{j['place_zh']}工作。",
        f"{x}的工作是{j['does_zh']}。",
        f"{x}是一种工作。",
    ]
    return sentences + ([f"{x}用{w.TOOLS[j['tool']]['zh']}。"] if j["tool"] else [])


def person_en(p):
    x = p["en"]
    sentences = [f"{x} likes {p['likes']}.", f"{x} likes {p['likes']} very much."]
    if p["job"]:
        sentences += [
            f"{x} is {article(p['job'])}.",
            f"{x} {w.JOBS[p['job']]['does']}.",
            f"The job of {x} is {p['job']}.",
        ]
    if p["pet"]:
        sentences += [
            f"{x} has {article(p['pet'])}.",
            f"The pet of {x} is {article(p['pet'])}.",
            f"The {p['pet']} of {x} is {w.ANIMALS[p['pet']]['colour']}.",
        ]
    return sentences


def person_zh(p):
    x = p["zh"]
    sentences = [f"{x}喜欢{p['likes_zh']}。", f"{x}非常喜欢{p['likes_zh']}。"]
    if p["job"]:
        job = w.JOBS[p["job"]]
        sentences += [
            f"{x}是{job['zh']}。",
            f"{x}{job['does_zh']}。",
            f"{x}的工作是{job['does_zh']}。",
        ]
    if p["pet"]:
        pet = w.ANIMALS[p["pet"]]
        sentences += [
            f"{x}有一{pet['measure']}{pet['zh']}。",
            f"{x}的{pet['zh']}是{w.COLOURS[pet['colour']]}的。",
        ]
    return sentences


def time_and_weather_en():
    sentences = [
        "A week has seven days.",
        "A year has four seasons.",
        "Tom and Anna are the children of the family.",
        "Who bakes bread in the family? Grandmother bakes bread.",
        "Tom is the brother of Anna.",
        "Anna is the sister of Tom.",
    ]
    for i, (day, _, does, _) in enumerate(w.DAYS):
        after = w.DAYS[(i + 1) % 7][0]
        sentences += [
            f"On {day} we {does}.",
            f"We {does} on {day}.",
            f"{after} comes after {day}.",
            f"After {day} comes {after}.",
        ]
    for i, (season, _, feels, _, what, _, does, _) in enumerate(w.SEASONS):
        after = w.SEASONS[(i + 1) % 4][0]
        sentences += [
            f"{capital(season)} is a season.",
            f"{capital(season)} is {feels}.",
            f"In {season} {what}.",
            f"{capital(what)} in {season}.",
            f"In {season} we {does}.",
            f"We {does} in {season}.",
            f"After {season} comes {after}.",
        ]
    for weather, _, does, _ in w.WEATHER:
        sentences += [f"When it is {weather}, we {does}.", f"On {article(weather)} day we {does}."]
    for a, b, _, _ in w.OPPOSITES:
        sentences += [
            f"The opposite of {a} is {b}.",
            f"The opposite of {b} is {a}.",
            f"Not {a}, but {b}.",
        ]
    for thing, _, colour in w.THINGS:
        sentences += [f"The {thing} is {colour}.", f"The colour of the {thing} is {colour}."]
    numbers = [n[0] for n in w.NUMBERS]
    return sentences + [f"After {a} comes {b}." for a, b in zip(numbers, numbers[1:])]


def time_and_weather_zh():
    sentences = [
        "一个星期有七天。",
        "一年有四个季节。",
        "小明和小红是孩子。",
        "小明是小红的哥哥。",
        "小红是小明的妹妹。",
    ]
    for i, (_, day, _, does) in enumerate(w.DAYS):
        after = w.DAYS[(i + 1) % 7][1]
        sentences += [
            f"{day}我们{does}。",
            f"我们{day}{does}。",
            f"{day}后面是{after}。",
            f"过了{day}就是{after}。",
        ]
    for i, (_, season, _, feels, _, what, _, does) in enumerate(w.SEASONS):
        after = w.SEASONS[(i + 1) % 4][1]
        sentences += [
            f"{season}很{feels}。",
            f"{season}{what}。",
            f"我们在{season}{does}。",
            f"{season}我们{does}。",
            f"{season}后面是{after}。",
        ]
    for _, weather, _, does in w.WEATHER:
        sentences += [f"{weather}的时候我们{does}。", f"{weather}的时候，大家都{does}。"]
    for _, _, a, b in w.OPPOSITES:
        sentences += [f"“{a}”的反义词是“{b}”。", f"“{b}”的反义词是“{a}”。", f"不是{a}，是{b}。"]
    for _, thing, colour in w.THINGS:
        sentences += [f"{thing}是{w.COLOURS[colour]}的。", f"{thing}的颜色是{w.COLOURS[colour]}。"]
    numbers = [n[1] for n in w.NUMBERS]
    return sentences + [f"{a}后面是{b}。" for a, b in zip(numbers, numbers[1:])]


def dictionary():
    """(English, Chinese) of every word that is translated; orange is the fruit only."""
    words = [
        (row["en"], row["zh"])
        for table in (w.ANIMALS, w.FOODS, w.TOOLS, w.JOBS)
        for row in table.values()
    ]
    words += [(en, zh) for en, zh in w.COLOURS.items() if en != "orange"]
    words += [(row[0], row[1]) for row in w.DAYS + w.SEASONS + w.THINGS] + w.NUMBERS
    words += [pair for a, b, x, y in w.OPPOSITES for pair in ((a, x), (b, y))]
    words += [(row["en"], row["zh"]) for row in w.FAMILY.values() if row["job"]]
    seen = {}
    for en, zh in words:
        seen.setdefault(en, zh)
    return list(seen.items())


# --- stories


def stories(name):
    """(story, its summary) of a file of source/."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [tuple(part.strip() for part in line.split("||")) for line in lines if line.strip()]


def visit(rng):
    """The draw that a micro story is told from: who sees which animal, when, in which weather."""
    animal = rng.choice([a for a in w.ANIMALS.values() if a["home"] in VISITS])
    return rng.choice(list(w.FAMILY.values())), animal, rng.choice(w.DAYS), rng.choice(w.WEATHER)


def micro_story_en(rng):
    person, a, day, weather = visit(rng)
    x, place = a["en"], w.HOMES[a["home"]][0]
    shape = rng.randrange(3)
    if shape == 0:
        return (
            f"On {day[0]} {person['en']} went to the {a['home']}. It was {weather[0]}. "
            f"{he_or_she(person['en'])} saw {article(a['colour'])} {x}. The {x} ate {a['food']}. "
            f"In short: {person['en']} saw {article(x)} {place}."
        )
    if shape == 1:
        feel, _, did, _ = rng.choice(FEELINGS)
        hero = rng.choice([person["en"], f"the {x}"])
        did = did if hero == person["en"] else rng.choice([f"ate {a['food']}", "drank water"])
        feel = feel if hero == person["en"] else ("hungry" if did[0] == "a" else "thirsty")
        pronoun = he_or_she(hero) if hero == person["en"] else "It"
        hero = capital(hero)
        return f"{hero} was {feel}. {pronoun} {did}. In one sentence: {hero} was {feel} and {did}."
    food = rng.choice([f for f in w.FOODS.values() if f["plural"]])
    return (
        f"On {day[0]} {person['en']} went to the market. It was {weather[0]}. "
        f"{he_or_she(person['en'])} bought {food['plural']}. "
        f"The {food['plural']} were {food['colour']}. "
        f"In short: {person['en']} bought {food['plural']} at the market."
    )


def micro_story_zh(rng):
    person, a, day, weather = visit(rng)
    who, x, place = person["zh"], a["zh"], w.HOMES[a["home"]][1]
    it = "他" if he_or_she(person["en"]) == "He" else "她"
    that_day = "那天是晴天" if weather[0] == "sunny" else f"那天{weather[1]}"
    shape = rng.randrange(3)
    if shape == 0:
        one = f"一{a['measure']}"
        return (
            f"{day[1]}，{who}去{VISITS[a['home']]}。{that_day}。"
            f"{it}看见{one}{w.COLOURS[a['colour']]}的{x}。"
            f"{x}在吃{w.FOODS_OF_ANIMALS[a['food']]}。总之，{who}在{place}看见{one}{x}。"
        )
    if shape == 1:
        _, feel, _, did = rng.choice(FEELINGS)
        if rng.randrange(2):
            who, it = x, "它"
            feel, did = rng.choice(
                [("饿了", f"吃了{w.FOODS_OF_ANIMALS[a['food']]}"), ("渴了", "喝了水")]
            )
        return f"{who}{feel}。{it}{did}。用一句话说：{who}{feel}，{did}。"
    food = rng.choice([f for f in w.FOODS.values() if f["plural"]])
    return (
        f"{day[1]}，{who}去市场。{that_day}。{it}买了{food['zh']}。"
        f"{food['zh']}是{w.COLOURS[food['colour']]}的。"
        f"总之，{who}在市场买了{food['zh']}。"
    )


# --- questions about one animal


QUESTIONS_EN = {
    "colour": [
        "What colour is the {x}?",
        "Tell me the colour of the {x}.",
        "Name the colour of the {x}.",
    ],
    "size": ["How big is the {x}?", "Tell me the size of the {x}."],
    "food": [
        "What does the {x} eat?",
        "Tell me the food of the {x}.",
        "What food does the {x} like?",
    ],
    "home": ["Where does the {x} live?", "Where is the home of the {x}?", "Where can I find {a}?"],
    "kind": ["What kind of animal is the {x}?", "To which kind of animals does the {x} belong?"],
    "legs": ["How many legs does the {x} have?", "Count the legs of the {x}."],
}
ANSWERS_EN = {
    "colour": "The {x} is {v}.",
    "size": "The {x} is {v}.",
    "food": "The {x} eats {v}.",
    "home": "The {x} lives {v}.",
    "legs": "The {x} has {v} legs.",
}
QUESTIONS_ZH = {
    "colour": ["{x}是什么颜色？", "请告诉我{x}的颜色。", "说出{x}的颜色。"],
    "size": ["{x}有多大？", "{x}是大还是小？"],
    "food": ["{x}吃什么？", "{x}喜欢吃什么？", "{x}的食物是什么？"],
    "home": ["{x}住在哪里？", "{x}的家在哪里？", "{x}住在什么地方？"],
    "kind": ["{x}是哪一种动物？", "{x}属于哪一种动物？"],
    "legs": ["{x}有几条腿？", "数一数{x}的腿。"],
}
ANSWERS_ZH = {
    "colour": "{x}是{v}的。",
    "size": "{x}{v}。",
    "food": "{x}吃{v}。",
    "home": "{x}住在{v}。",
    "kind": "{x}是{v}。",
    "legs": "{x}有{v}条腿。",
}


def question_en(rng, a, attribute):
    x, v = a["en"], w.en_of(attribute, a[attribute])
    ask = rng.choice(QUESTIONS_EN[attribute]).format(x=x, a=article(x))
    answer = (
        f"The {x} is {article(v)}."
        if attribute == "kind"
        else ANSWERS_EN[attribute].format(x=x, v=v)
    )
    return f"animal {x} {attribute}", ask, "", answer


def question_zh(rng, a, attribute):
    x, v = a["zh"], w.zh_of(attribute, a[attribute])
    answer = ANSWERS_ZH[attribute].format(x=x, v=v).replace("有没有条腿", "没有腿")
    return (
        f"animal {a['en']} {attribute}",
        rng.choice(QUESTIONS_ZH[attribute]).format(x=x),
        "",
        answer,
    )


# --- questions and answers between people


def talk_en(rng):
    """Somebody asks and somebody answers; this is where the corpus has its question words."""
    a, b = rng.sample(list(w.ANIMALS.values()), 2)
    attribute = rng.choice(list(QUESTIONS_EN))
    tool, job = rng.choice(list(w.TOOLS.values())), rng.choice(list(w.JOBS.values()))
    food = rng.choice([f for f in w.FOODS.values() if f["plural"]])
    en, zh = rng.choice(dictionary())
    old, new = rng.choice(w.OPPOSITES)[:2]
    feel, _, did, _ = rng.choice(FEELINGS)
    x, t = a["en"], article(tool["en"])
    ask, answer = rng.choice(
        [
            question_en(rng, a, attribute)[1::2],
            question_en(rng, b, rng.choice(list(QUESTIONS_EN)))[1::2],
            (f"Can the {x} {a['can']}?", f"Yes, the {x} can {a['can']}."),
            (f"Is the {x} able to {a['cannot']}?", f"No, the {x} cannot {a['cannot']}."),
            (f"Is the {x} {a['colour']}?", f"Yes, the {x} is {a['colour']}."),
            (f"Does the {x} eat {a['food']}?", f"Yes, the {x} eats {a['food']}."),
            (f"What do we use {t} for?", f"We use {t} to {tool['use']}."),
            (f"What does a {job['en']} do?", f"The {job['en']} {job['does']}."),
            (f"How do {food['plural']} taste?", f"{capital(food['plural'])} are {food['taste']}."),
            (f"How do you say {en} in Chinese? Please translate it.", f"{zh}."),
            (f"Which word is the opposite of {old}?", f"The opposite of {old} is {new}."),
            (
                f"To which group does the {tool['en']} belong? Classify it.",
                f"The {tool['en']} is a tool.",
            ),
            (f"Do you know this animal? It {a['note']}. Give me its name.", f"It is the {x}."),
            (
                f"Name and list two animals that are {a['size']}.",
                shared_fact_en(rng.sample(same(a, "size", "en"), 2), "size", a["size"]),
            ),
            (f"Make a sentence with these words: {x}, {a['food']}.", f"The {x} eats {a['food']}."),
            (f"Is the {tool['en']} a tool or a job?", f"The {tool['en']} is a tool."),
            (f"Summarise this story: Tom was {feel}. He {did}.", f"Tom was {feel} and {did}."),
        ]
    )
    one, two = rng.sample(list(w.FAMILY), 2)
    return f"{one} asked: {ask} {two} said: {answer}"


def talk_zh(rng):
    a, b = rng.sample(list(w.ANIMALS.values()), 2)
    attribute = rng.choice(list(QUESTIONS_ZH))
    tool, job = rng.choice(list(w.TOOLS.values())), rng.choice(list(w.JOBS.values()))
    food = rng.choice([f for f in w.FOODS.values() if f["plural"]])
    en, zh = rng.choice(dictionary())
    old, new = rng.choice(w.OPPOSITES)[2:]
    _, feel, _, did = rng.choice(FEELINGS)
    x, t, eats = a["zh"], tool["zh"], w.FOODS_OF_ANIMALS[a["food"]]
    can, cannot, colour = w.ABILITIES[a["can"]], w.ABILITIES[a["cannot"]], w.COLOURS[a["colour"]]
    ask, answer = rng.choice(
        [
            question_zh(rng, a, attribute)[1::2],
            question_zh(rng, b, rng.choice(list(QUESTIONS_ZH)))[1::2],
            (f"{x}能{can}吗？", f"是的，{x}能{can}。"),
            (f"{x}能{cannot}吗？", f"不，{x}不能{cannot}。"),
            (f"你知道{x}是{colour}的吗？", f"是的，{x}是{colour}的。"),
            (f"{x}吃{eats}还是不吃{eats}？", f"{x}吃{eats}。"),
            (f"{t}有什么用？可以做什么？", f"我们用{t}{tool['use_zh']}。"),
            (f"{job['zh']}做什么工作？谁知道？", f"{job['zh']}{job['does_zh']}。"),
            (f"{food['zh']}是什么味道？", f"{food['zh']}是{w.TASTES[food['taste']]}的。"),
            (f"请翻译“{zh}”，用英文怎么说？", f"{en}。"),
            (f"哪个词和“{old}”相反？", f"“{old}”的反义词是“{new}”。"),
            (f"{t}属于哪一类？给它分类：工具或食物。", f"{t}是一种工具。"),
            (f"哪种动物{a['note_zh']}？请告诉我。", f"{x}{a['note_zh']}。"),
            (
                f"说出两种{w.SIZES[a['size']]}的动物。",
                shared_fact_zh(rng.sample(same(a, "size", "zh"), 2), "size", a["size"]),
            ),
            (f"用这些词说一句话：{x}、{eats}。", f"{x}吃{eats}。"),
            (f"小明{feel}。他{did}。这个故事说了什么？", f"小明{feel}，{did}。"),
        ]
    )
    one, two = rng.sample([p["zh"] for p in w.FAMILY.values()], 2)
    return f"{one}问：{ask}{two}说：{answer}"


def same(a, attribute, name_of):
    """The names of all animals that agree with this one in the attribute."""
    return [b[name_of] for b in w.ANIMALS.values() if b[attribute] == a[attribute]]


def check_stories():
    """Where a story or a document names a colour before an animal, it is the animal's."""
    for story, _ in stories("stories_en.txt"):
        for a in w.ANIMALS.values():
            for colour in re.findall(rf"({'|'.join(w.COLOURS)}) {a['en']}\b", story):
                assert colour == a["colour"], (story, a["en"])
    for story, _ in stories("stories_zh.txt"):
        for a in w.ANIMALS.values():
            for colour in re.findall(rf"({'|'.join(w.COLOURS.values())})的{a['zh']}", story):
                assert colour == w.COLOURS[a["colour"]], (story, a["zh"])
