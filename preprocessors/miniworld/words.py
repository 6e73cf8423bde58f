"""Find the kinds of sound that a caption names; exact for every caption of the miniature world."""

import re

from sonolume.preprocessors.miniworld.captions import SUBJECTS
from sonolume.preprocessors.miniworld.scene import KINDS

KIND_WORDS = {noun.split()[-1]: kind for kind, (noun, _) in SUBJECTS.items()}  # bell, rain, ... someone, water
KIND_WORDS |= {kind: kind for kind in KINDS}


def kinds_in(text: str) -> list[str]:
    """Kinds named in a text, each once, in the order of `KINDS`; [] for a text about something else."""
    words = re.findall(r"[a-z]+", text.lower())
    found = {KIND_WORDS[form] for word in words for form in (word, word.removesuffix("s")) if form in KIND_WORDS}
    return [kind for kind in KINDS if kind in found]
