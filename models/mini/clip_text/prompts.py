"""Prompts as one writes them for pictures: "a photo of a dog". They say the kind and nothing else."""

import numpy as np

from sonolume.preprocessors.miniworld.captions import NAMES

TEMPLATES = (
    "a photo of {n}", "a photo of {n}", "a picture of {n}", "an image of {n}", "a drawing of {n}", "a painting of {n}",
    "photo of {n}", "{n}",
)  # fmt: skip
OTHER_NOUNS: dict[str, tuple[str, ...]] = {  # beside `NAMES`, and these without their article
    "footsteps": ("footprints", "steps", "someone walking"),
    "drops": ("a tap", "water drops", "dripping water"),
    "engine": ("a car",),
    "rain": ("a rain cloud",),
    "thunder": ("a thunderstorm", "lightning"),
    "phone": ("a telephone",),
    "dog": ("a dog barking",),
}


def nouns(kind: str) -> tuple[str, ...]:
    """How a kind may be named in a prompt."""
    name = NAMES[kind]
    bare = name.removeprefix("a ").removeprefix("an ")
    return tuple(dict.fromkeys((name, bare, *OTHER_NOUNS.get(kind, ()))))


def prompt(kind: str, rng: np.random.Generator) -> str:
    """One prompt; half of them use the plain name."""
    choice = nouns(kind)
    noun = choice[0] if rng.uniform() < 0.5 else choice[rng.integers(len(choice))]
    text = TEMPLATES[rng.integers(len(TEMPLATES))].format(n=noun)
    return text[0].upper() + text[1:] if rng.uniform() < 0.3 else text
