"""Captions of scenes spoken by the voices of the miniature world."""

from dataclasses import dataclass

import numpy as np

from sonolume.preprocessors.miniworld.captions import captions
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.preprocessors.miniworld.voice import TEST_VOICES, VOICES, speak

TRAIN_VOICES = tuple(name for name in VOICES if name not in TEST_VOICES)


@dataclass(frozen=True)
class Utterance:
    """A caption and its speaker."""

    text: str
    voice: str
    seed: int  # of tempo, melody and noise

    def render(self) -> np.ndarray:
        """Speak the caption: float32 (n,) at 16 kHz."""
        return speak(self.text, self.voice, self.seed)


def utterances(scene: Scene, count: int, split: str, mention: float = 0.5) -> list[Utterance]:
    """Draw a speaker for each of the `count` captions of a scene, always the same ones.

    The test split has voices and wordings of its own. `mention` is that of `captions`.
    """
    voices = TEST_VOICES if split == "test" else TRAIN_VOICES
    random = np.random.default_rng([scene.seed, 11])
    return [
        Utterance(text, voices[random.integers(len(voices))], scene.seed + number)
        for number, text in enumerate(captions(scene, count, split, mention))
    ]
