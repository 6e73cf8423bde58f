"""Which kinds a caption names, read from its words: exact for every caption of the miniature world."""

import re

from sonolume.preprocessors.miniworld.captions import SUBJECTS
from sonolume.preprocessors.miniworld.scene import KINDS

TELLING = {noun.split()[-1]: kind for kind, (noun, _) in SUBJECTS.items()}  # bell, rain, ... someone, water
TELLING |= {kind: kind for kind in KINDS}


def kinds_in(text: str) -> list[str]:
    """The kinds that a text names, each once, in the order of `KINDS`; none of a text about something else."""
    words = re.findall(r"[a-z]+", text.lower())
    found = {TELLING[form] for word in words for form in (word, word.removesuffix("s")) if form in TELLING}
    return [kind for kind in KINDS if kind in found]
