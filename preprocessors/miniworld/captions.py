"""Captions and short prompts: several wordings of one scene or one video frame, some of them held out for tests.

A held-out wording consists of words that occur in training, in a template that does not. Captions of a frame say which
event strikes now, is silent, or has sounded how often.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sonolume.preprocessors.miniworld.drawings import Appearance
from sonolume.preprocessors.miniworld.scene import COUNTABLE, KINDS, PITCHED, Event, Scene, band

SUBJECTS: dict[str, tuple[str, tuple[str, ...]]] = {  # kind: (noun with its article, verbs in the -s form)
    "bell": ("a bell", ("rings", "tolls", "chimes")), "rain": ("rain", ("falls", "pours", "patters")),
    "siren": ("a siren", ("wails", "howls", "sounds")), "clock": ("a clock", ("ticks", "clicks", "ticktocks")),
    "engine": ("an engine", ("runs", "hums", "idles")), "bird": ("a bird", ("chirps", "sings", "tweets")),
    "thunder": ("thunder", ("rumbles", "rolls", "booms")), "phone": ("a phone", ("rings", "buzzes", "rattles")),
    "footsteps": ("someone", ("walks", "strides", "steps")), "whistle": ("a whistle", ("blows", "shrills", "sounds")),
    "dog": ("a dog", ("barks", "woofs", "yaps")), "drops": ("water", ("drips", "drops", "dribbles")),
}  # fmt: skip
NAMES = {kind: noun for kind, (noun, _) in SUBJECTS.items()} | {"footsteps": "footsteps", "drops": "drops of water"}
KIND_WORDS = {noun.split()[-1]: kind for kind, (noun, _) in SUBJECTS.items()}  # bell, rain, ... someone, water
KIND_WORDS |= {kind: kind for kind in KINDS}
ING = {  # verb in the -s form: its -ing form; a consonant after one vowel is doubled, a final e is dropped
    verb: re.sub(r"([^aeiou][aeiou])([mnp])$", r"\1\2\2", verb.removesuffix("s")).removesuffix("e") + "ing"
    for _, verbs in SUBJECTS.values() for verb in verbs
}  # fmt: skip
PITCH = {"low": ("low", "deep"), "high": ("high", "high-pitched")}
LOUDNESS = {"low": ("quietly", "softly", "faintly"), "high": ("loudly", "noisily")}
COUNTS = {1: ("once", "one time"), 2: ("twice", "two times"), 3: ("three times", "thrice")}
ORDINALS = {1: ("first",), 2: ("second",), 3: ("third",)}
DIRECTIONS = {"up": ("rising", "climbing"), "down": ("falling", "sinking")}

# {a}, {b}: clauses ("a bell rings twice"); {an}, {bn}: as noun phrases ("a bell ringing twice"); {n}: the name alone
TRAIN = {
    "": ("{a}", "{a}", "{an}", "the sound of {an}", "one can hear {an}", "{a} nearby", "{n}", "the sound of {n}"),
    "then": (
        "{a}, then {b}", "{a} and then {b}", "{a}, followed by {bn}", "first {a}, then {b}", "{a} before {b}",
        "after {an}, {b}", "{b} after {an}", "{an} and afterwards {bn}", "{an}, then {bn}",
    ),
    "over": (
        "{a} while {b}", "{a} as {b}", "{a} and {b} at the same time", "{a} with {bn} in the background",
        "{a} over {bn}", "{an} together with {bn}", "while {b}, {a}",
    ),
}  # fmt: skip
TEST = {
    "": ("one can hear the sound of {an}", "the sound of {an} nearby", "{an} nearby"),
    "then": ("first {a} and then {b}", "first {an}, followed by {bn}", "{a} and afterwards {b}"),
    "over": ("{a} together with {bn}", "{an} and {bn} at the same time", "{an} while {b}"),
}  # fmt: skip
PROMPTS = (
    "a photo of {n}", "a photo of {n}", "a picture of {n}", "an image of {n}", "a drawing of {n}", "a painting of {n}",
    "photo of {n}", "{n}",
)  # fmt: skip
OTHER_NOUNS: dict[str, tuple[str, ...]] = {  # for prompts, besides `NAMES` and the names without their article
    "footsteps": ("footprints", "steps", "someone walking"), "drops": ("a tap", "water drops", "dripping water"),
    "engine": ("a car",), "rain": ("a rain cloud",), "thunder": ("a thunderstorm", "lightning"),
    "phone": ("a telephone",), "dog": ("a dog barking",),
}  # fmt: skip

# captions of single video frames: {n}: name; {an}: noun phrase ("a low bell ringing"); {times}: "twice"; {th}: "second"
FRAME_TRAIN = {
    "silent": ("{n}, silent", "{n}, not sounding", "{an}, not yet", "silence before {an}", "silent: {an}"),
    "strikes": ("{an} now", "now {an}", "{an} at this moment", "at this moment {an}"),
    "strikes again": ("{an} for the {th} time now", "now {an} for the {th} time", "the {th} time now, {an}"),
    "has sounded": ("after {an} {times}", "{an} {times} so far", "{times} so far, {an}"),
    "is over": ("silence after {an} {times}", "{an} {times}, now silent", "silent after {an} {times}"),
    "sounds": ("{an}", "{an} on and on", "still {an}"),
}  # fmt: skip
FRAME_TEST = {
    "silent": ("silent, {n}", "{n}, not sounding yet", "silent before {an}"),
    "strikes": ("at this moment, now, {an}", "now, {an}"),
    "strikes again": ("at this moment {an} for the {th} time", "now the {th} time, {an}"),
    "has sounded": ("so far {an} {times}", "after {times}, {an}"),
    "is over": ("after {an} {times}, silence", "silent: {an} {times}"),
    "sounds": ("on and on, {an}",),
}  # fmt: skip
PLACES = {  # of frames: captions of two events, {a} and {b}
    "then": ("left {a}, right {b}", "on the left {a}, on the right {b}", "{a} on the left, {b} on the right"),
    "over": ("above {a}, below {b}", "at the top {a}, at the bottom {b}", "{a} at the top, {b} at the bottom"),
}  # fmt: skip
TEST_PLACES = {
    "then": ("left, {a}, and right, {b}", "on the right {b}, on the left {a}"),
    "over": ("top, {a}, and bottom, {b}", "at the bottom {b}, at the top {a}"),
}  # fmt: skip
FRAME_TABLES = (ORDINALS, FRAME_TRAIN, FRAME_TEST, PLACES, TEST_PLACES)
FRAME_TEXTS = [text for table in FRAME_TABLES for group in table.values() for text in group]  # type: ignore[attr-defined]


def pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    """Draw one of several words or texts."""
    return words[rng.integers(len(words))]


def phrase(event: Event, form: str, rng: np.random.Generator, mention: float) -> str:
    """Word one event as a clause ("s", "is") or a noun phrase ("ing").

    Each attribute is mentioned with probability `mention`; a count above one always is, as a listener would.
    """
    noun, verbs = SUBJECTS[event.kind]
    verb = pick(rng, verbs)
    adjectives, adverbs = [], []
    if event.kind in PITCHED and band(event.pitch) and rng.uniform() < mention:
        adjectives.append(pick(rng, PITCH[band(event.pitch)]))
    if event.direction and rng.uniform() < max(mention, 0.7):
        adjectives.append(pick(rng, DIRECTIONS[event.direction]))
    if event.count > 1 or (event.count == 1 and rng.uniform() < 0.5):
        adverbs.append(pick(rng, COUNTS[event.count]))
    if band(event.loudness) and rng.uniform() < mention:
        adverbs.append(pick(rng, LOUDNESS[band(event.loudness)]))
    if adjectives:
        bare = noun.split(" ", 1)[-1]
        article = "an" if adjectives[0][0] in "aeiou" else "a"
        noun = f"{article} {' '.join(adjectives)} {bare}"
    action = {"s": verb, "is": f"is {ING[verb]}", "ing": ING[verb]}[form]
    return " ".join([noun, action, *adverbs])


def caption(scene: Scene, rng: np.random.Generator, held_out_wording: bool = False, mention: float = 0.5) -> str:
    """Draw one caption of a scene; `held_out_wording` selects the templates that training never contains."""
    templates = (TEST if held_out_wording else TRAIN)[scene.relation]
    if any(event.count > 1 for event in scene.events):
        templates = tuple(template for template in templates if "{n}" not in template)
    template = pick(rng, templates)
    clause = "is" if rng.uniform() < 0.25 else "s"
    words = {"n": NAMES[scene.events[0].kind]}
    for name, event in zip("ab", scene.events, strict=False):
        form = "ing" if "{" + name + "n}" in template else clause
        words[name] = words[name + "n"] = phrase(event, form, rng, mention)
    text = template.format(**words)
    text = text[0].upper() + text[1:] if rng.uniform() < 0.5 else text
    return text + ("." if rng.uniform() < 0.3 else "")


def captions(scene: Scene, count: int, split: str, mention: float = 0.5) -> list[str]:
    """Return `count` captions of a scene, always the same ones; the test split has wordings of its own.

    `mention` is the probability with which each unusual attribute is mentioned.
    """
    rng = np.random.default_rng([scene.seed, 7])
    return [caption(scene, rng, split == "test", mention) for _ in range(count)]


def nouns(kind: str) -> tuple[str, ...]:
    """Names of a kind in prompts, the usual one first."""
    name = NAMES[kind]
    bare = name.removeprefix("a ").removeprefix("an ")
    return tuple(dict.fromkeys((name, bare, *OTHER_NOUNS.get(kind, ()))))


def prompt(kind: str, rng: np.random.Generator) -> str:
    """Draw a short prompt that names a kind and nothing else, such as "a photo of a dog"; half use the usual name."""
    choice = nouns(kind)
    noun = choice[0] if rng.uniform() < 0.5 else pick(rng, choice)
    text = pick(rng, PROMPTS).format(n=noun)
    return text[0].upper() + text[1:] if rng.uniform() < 0.3 else text


def kinds_in(text: str) -> list[str]:
    """Kinds named in a text, each once, in the order of `KINDS`; [] for a text about something else.

    Exact for every caption of the miniature world.
    """
    words = re.findall(r"[a-z]+", text.lower())
    found = {KIND_WORDS[form] for word in words for form in (word, word.removesuffix("s")) if form in KIND_WORDS}
    return [kind for kind in KINDS if kind in found]


def unknown_words(text: str) -> list[str]:
    """Words of a text, each once, that no caption or prompt of the miniature world has; a final s may differ."""
    words = dict.fromkeys(re.findall(r"[^\W_]+", text.lower()))
    known = _vocabulary()
    return [word for word in words if word != "s" and not {word, word.removesuffix("s"), f"{word}s"} & known]


@functools.cache
def _vocabulary() -> frozenset[str]:
    tables = (PITCH, LOUDNESS, COUNTS, DIRECTIONS, TRAIN, TEST, OTHER_NOUNS)
    texts = [text for table in tables for group in table.values() for text in group]  # type: ignore[attr-defined]
    texts += [*KINDS, *NAMES.values(), *ING, *ING.values(), *(noun for noun, _ in SUBJECTS.values()), *PROMPTS]
    plain = re.sub(r"\{\w+\}", " ", " ".join([*texts, *FRAME_TEXTS, "is an"]))
    return frozenset(re.findall(r"[^\W_]+", plain.lower()))


def status(event: Event, state: Appearance) -> str:
    """Name the visible state of an event: a key of `FRAME_TRAIN`."""
    counted = event.kind in COUNTABLE
    if state.hit:
        return "strikes again" if counted else "strikes"
    if state.faint:
        return "is over" if counted and state.marks else "silent"
    return "has sounded" if counted and state.marks else "sounds"


def frame_caption(
    scene: Scene, states: Sequence[Appearance], rng: np.random.Generator, held_out_wording: bool = False
) -> str:
    """Draw a caption of one frame of a scene, given the state of every event in it (`pictures.appearances`)."""
    clauses = {
        name: _clause(event, state, rng, held_out_wording)
        for name, event, state in zip("ab", scene.events, states, strict=False)
    }
    if not scene.relation:
        return clauses["a"]
    return pick(rng, (TEST_PLACES if held_out_wording else PLACES)[scene.relation]).format(**clauses)


def _clause(event: Event, state: Appearance, rng: np.random.Generator, held_out: bool) -> str:
    name, times = status(event, state), min(state.marks, max(COUNTS))
    if name == "strikes again" and rng.uniform() < 0.3:  # the number is not always stated
        name = "strikes"
    words = {"n": NAMES[event.kind], "an": phrase(replace(event, count=0), "ing", rng, 0.5)}
    if times in COUNTS:
        words |= {"times": pick(rng, COUNTS[times]), "th": pick(rng, ORDINALS[times])}
    return pick(rng, (FRAME_TEST if held_out else FRAME_TRAIN)[name]).format(**words)
