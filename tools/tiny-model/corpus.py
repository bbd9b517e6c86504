"""Generates the training corpus: stories and chats about them, all from one seed.

    python tools/tiny-model/corpus.py --count 3

prints a few documents to look at.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from string import Template

import lexicon
import small_talk
from story_grammar import ENDINGS, MEETINGS, OPENINGS, PLOTS, THANKS, TIMES, Plot

BEGIN, END = "<|begin|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (BEGIN, END, SYSTEM, USER, ASSISTANT)

SHARED_TEMPLATES = {"time": TIMES, "meet": MEETINGS, "thank": THANKS, "end": ENDINGS}
INNERMOST_GROUP = re.compile(r"\{([^{}\[\]]*)\}|\[([^{}\[\]]*)\]")
SHARED_REFERENCE = re.compile(r"@([a-z]+)")

CHAT_SHARE = 0.5
TITLE_SHARE = 0.1
SYSTEM_SHARE = 0.2
SHORT_SHARE = 0.3
# Chance that an optional part of a template is told.
OPTIONAL_SHARE, OPTIONAL_SHARE_SHORT = 0.5, 0.1

TALK = {
    "greeting": small_talk.GREETINGS,
    "question": small_talk.QUESTIONS,
    "farewell": small_talk.FAREWELLS,
}
# The turns of a chat, with the weight of each shape.
CHAT_SHAPES = (
    ("story", 72),
    ("story farewell", 8),
    ("greeting story", 5),
    ("greeting question story", 2),
    ("story story", 3),
    ("greeting", 3),
    ("question", 4),
    ("greeting question", 2),
    ("greeting farewell", 1),
)

Slots = dict[str, str]


@dataclass(frozen=True)
class Message:
    role: str
    content: str


def with_article(phrase: str) -> str:
    vowel = phrase[0] in "aeiou" and not phrase.startswith("uni")
    return f"{'an' if vowel or phrase.startswith('honest') else 'a'} {phrase}"


def capitalized(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]


def expand(template: str, rng: random.Random, optional_share: float = OPTIONAL_SHARE) -> str:
    """Resolves shared references, choices and optional parts; slots are left in place."""
    template = SHARED_REFERENCE.sub(lambda m: rng.choice(SHARED_TEMPLATES[m[1]]), template)

    def resolve(group: re.Match[str]) -> str:
        if group[1] is not None:
            return rng.choice(group[1].split("|"))
        return group[2] if rng.random() < optional_share else ""

    while True:
        template, replaced = INNERMOST_GROUP.subn(resolve, template)
        if not replaced:
            return template


def fill(template: str, slots: Slots) -> str:
    return " ".join(Template(template).substitute(slots).split())


def character_slots(rng: random.Random, taken_kind: str, taken_name: str) -> tuple[str, str, bool]:
    """Draws (kind, name, is_male), distinct from the character that is already there."""
    pool = rng.choices(
        (lexicon.ANIMALS, lexicon.FANTASY, lexicon.WORKERS, lexicon.MALE_KINDS + lexicon.FEMALE_KINDS),
        weights=(60, 12, 10, 18),
    )[0]
    kind = rng.choice([k for k in pool if k != taken_kind])
    is_male = kind in lexicon.MALE_KINDS or (kind not in lexicon.FEMALE_KINDS and rng.random() < 0.5)
    names = lexicon.MALE_NAMES if is_male else lexicon.FEMALE_NAMES
    return kind, rng.choice([n for n in names if n != taken_name]), is_male


def pronoun_slots(is_male: bool, prefix: str, keys: Sequence[str]) -> Slots:
    subject, object_, possessive = ("he", "him", "his") if is_male else ("she", "her", "her")
    he, him, his = (prefix + key for key in keys)
    slots = {he: subject, him: object_, his: possessive}
    slots |= {capitalized(slot): capitalized(word) for slot, word in slots.items()}
    return slots


def draw_facts(rng: random.Random) -> Slots:
    """Draws everything that stays the same within one story."""
    kind, name, is_male = character_slots(rng, "", "")
    friend_kind, friend_name, friend_is_male = character_slots(rng, kind, name)
    trait, friend_trait = rng.sample(lexicon.TRAITS, 2)
    object_ = rng.choice(lexicon.OBJECTS)
    look = rng.choice(lexicon.COLOURS if rng.random() < 0.7 else lexicon.LOOKS)
    (preposition, place), (far_preposition, far_place) = rng.sample(lexicon.PLACES, 2)
    friend = f"{friend_trait} {friend_kind}" if rng.random() < 0.6 else friend_kind
    plant = rng.choice(lexicon.PLANTS)
    slots = {
        "N": name,
        "kind": kind,
        "a_kind": with_article(kind),
        "trait": trait,
        "a_hero": with_article(f"{trait} {kind}"),
        "F": friend_name,
        "fkind": friend_kind,
        "a_fkind": with_article(friend_kind),
        "a_friend": with_article(friend),
        "A_friend": capitalized(with_article(friend)),
        "object": object_,
        "a_object": with_article(object_),
        "look": look,
        "thing": f"{look} {object_}",
        "a_thing": with_article(f"{look} {object_}"),
        "place": place,
        "at": f"{preposition} {place}",
        "far": far_place,
        "at_far": f"{far_preposition} {far_place}",
        "skill": rng.choice(lexicon.SKILLS),
        "fear": rng.choice(lexicon.FEARS),
        "structure": rng.choice(lexicon.STRUCTURES),
        "plant": plant,
        "a_plant": with_article(plant),
        "food": rng.choice(lexicon.FOODS),
    }
    slots |= pronoun_slots(is_male, "", ("he", "him", "his"))
    slots["himself"] = "himself" if is_male else "herself"
    slots |= pronoun_slots(friend_is_male, "f", ("e", "im", "is"))
    return slots


def tell(plot: Plot, slots: Slots, rng: random.Random, optional_share: float) -> str:
    """Tells one story: the opening and the first beat share a paragraph, as do later pairs of beats."""
    parts = [rng.choice(OPENINGS)] + [rng.choice(beat) for beat in plot.beats]
    sentences = [fill(expand(part, rng, optional_share), slots) for part in parts]
    paragraphs = [" ".join(sentences[i : i + 2]) for i in range(0, len(sentences), 2)]
    return "\n".join(paragraphs)


def plain_story(rng: random.Random) -> str:
    slots = draw_facts(rng)
    story = tell(rng.choice(PLOTS), slots, rng, OPTIONAL_SHARE)
    if rng.random() >= TITLE_SHARE:
        return story
    title = rng.choice(("$N and the $thing", "The $trait $kind", "$N the $kind", "The $kind and the $object"))
    words = [word if word in ("and", "the") else capitalized(word) for word in fill(title, slots).split()]
    return capitalized(" ".join(words)) + "\n" + story


def story_turn(rng: random.Random) -> list[Message]:
    """A request and the story that honours every fact it names."""
    slots, plot = draw_facts(rng), rng.choice(PLOTS)
    is_short = rng.random() < SHORT_SHARE
    ask = expand(rng.choice(small_talk.SHORT_ASKS if is_short else small_talk.ASKS), rng)
    request = fill(rng.choice(plot.request), slots)
    prompt = fill(rng.choice(small_talk.STORY_REQUESTS), slots | {"ask": ask, "request": request})
    if ask.startswith("Can"):
        prompt = prompt[:-1] + "?"
    elif rng.random() < 0.15:
        prompt = prompt[:-1]
    share = OPTIONAL_SHARE_SHORT if is_short else OPTIONAL_SHARE
    return [Message("user", prompt), Message("assistant", tell(plot, slots, rng, share))]


def talk_turn(rng: random.Random, exchanges: Sequence[tuple[str, str]]) -> list[Message]:
    question, answer = rng.choice(exchanges)
    return [Message("user", expand(question, rng)), Message("assistant", expand(answer, rng))]


def chat(rng: random.Random) -> list[Message]:
    messages: list[Message] = []
    if rng.random() < SYSTEM_SHARE:
        messages.append(Message("system", rng.choice(small_talk.SYSTEM_PROMPTS)))
    shapes = [shape for shape, _ in CHAT_SHAPES]
    weights = [weight for _, weight in CHAT_SHAPES]
    for turn in rng.choices(shapes, weights)[0].split():
        messages += story_turn(rng) if turn == "story" else talk_turn(rng, TALK[turn])
    return messages


def render_chat(messages: Sequence[Message]) -> str:
    """The same text as the tokenizer's chat template makes."""
    return BEGIN + "".join(f"<|{m.role}|>{m.content}{END}" for m in messages)


def documents(seed: int) -> Iterator[str]:
    """An endless stream of training documents, special tokens included."""
    rng = random.Random(seed)
    while True:
        if rng.random() < CHAT_SHARE:
            yield render_chat(chat(rng))
        else:
            yield BEGIN + plain_story(rng) + END


def validation_stories(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [plain_story(rng) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    for document in islice(documents(arguments.seed), arguments.count):
        print(document, end="\n\n")


if __name__ == "__main__":
    main()
