"""Captions and short prompts: several wordings of one scene, some of them held out for tests.

A held-out wording consists of words that occur in training, in a template that does not.
"""

import re

import numpy as np

from sonolume.preprocessors.miniworld.scene import KINDS, PITCHED, Event, Scene, band

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
ING = {
    "rings": "ringing", "tolls": "tolling", "chimes": "chiming", "falls": "falling", "pours": "pouring",
    "patters": "pattering", "wails": "wailing", "howls": "howling", "sounds": "sounding", "ticks": "ticking",
    "clicks": "clicking", "ticktocks": "ticktocking", "runs": "running", "hums": "humming", "idles": "idling",
    "chirps": "chirping", "sings": "singing", "tweets": "tweeting", "rumbles": "rumbling", "rolls": "rolling",
    "booms": "booming", "buzzes": "buzzing", "rattles": "rattling", "walks": "walking", "strides": "striding",
    "steps": "stepping", "blows": "blowing", "shrills": "shrilling", "barks": "barking", "woofs": "woofing",
    "yaps": "yapping", "drips": "dripping", "drops": "dropping", "dribbles": "dribbling",
}  # fmt: skip
PITCH = {"low": ("low", "deep"), "high": ("high", "high-pitched")}
LOUDNESS = {"low": ("quietly", "softly", "faintly"), "high": ("loudly", "noisily")}
COUNTS = {1: ("once", "one time"), 2: ("twice", "two times"), 3: ("three times", "thrice")}
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
