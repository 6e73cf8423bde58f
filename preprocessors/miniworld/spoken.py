"""Captions of scenes, spoken by the voices of the miniature world, or by those of espeak-ng that a config names."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sonolume.preprocessors.miniworld.captions import captions
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.preprocessors.miniworld.voice import TEST_VOICES, VOICES, espeak, speak

ESPEAK = "espeak "  # before the names of espeak-ng's voices
TRAIN_VOICES = tuple(name for name in VOICES if name not in TEST_VOICES)


@dataclass(frozen=True)
class Utterance:
    """A caption and its speaker."""

    text: str
    voice: str
    seed: int  # of tempo, melody and noise

    def render(self) -> np.ndarray:
        """Speak the caption: float32 (n,) at 16 kHz; a UserError if its voice needs espeak-ng and that is missing."""
        if self.voice.startswith(ESPEAK):
            random = np.random.default_rng([self.seed, *self.voice.encode()])
            return espeak(self.text, self.voice.removeprefix(ESPEAK), int(random.integers(30, 71)),
                          int(random.integers(140, 191)))  # fmt: skip
        return speak(self.text, self.voice, self.seed)


def utterances(
    scene: Scene, count: int, split: str, mention: float = 0.5, espeak_voices: Sequence[str] = ()
) -> list[Utterance]:
    """Draw a speaker for each of the `count` captions of a scene, always the same ones.

    The test split has voices and wordings of its own.

    Args:
        mention: that of `captions`.
        espeak_voices: of espeak-ng, such as "en-us+f3", which speak besides the world's own in training.
    """
    voices = TEST_VOICES if split == "test" else (*TRAIN_VOICES, *(ESPEAK + name for name in espeak_voices))
    random = np.random.default_rng([scene.seed, 11])
    return [
        Utterance(text, voices[random.integers(len(voices))], scene.seed + number)
        for number, text in enumerate(captions(scene, count, split, mention))
    ]
