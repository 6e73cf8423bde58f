"""What a recipe that rebuilds sounds is scored on: held-out scenes of the miniature world, or its validation clips.

M mel bands, T frames.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.base import MiniworldConfig, PreprocessConfig, RunConfig
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.preprocessors.miniworld import SAMPLE_RATE, WORLD, world
from sonolume.utils import paths
from sonolume.utils.errors import UserError

TEST_SEED = 1  # of the test scenes


@dataclass(frozen=True)
class Clips:
    """N clips, made or read one by one.

    Attributes:
        uids: their names.
        get: index -> ln mel (M, T), and the wave (T * hop,) under it, empty where only mels are known.
        source: where they come from; enters fingerprints.
    """

    uids: list[str]
    get: Callable[[int], tuple[Tensor, Tensor]]
    source: dict[str, Any]

    def first(self, count: int) -> "Clips":
        """Raises a UserError where there are none."""
        if not self.uids:
            raise UserError(f"{self.source['source']}: no validation clips to evaluate on")
        return replace(self, uids=self.uids[:count])


def is_world(config: RunConfig, preprocess: PreprocessConfig, flag: str | None, where: str, shipped: str) -> bool:
    """Whether the miniature world is scored: it is what the config trains on, or what the model knows.

    The latter where the shipped part stands in for one that is not trained yet, which is said on stderr.

    Args:
        flag: --checkpoint.
        where: the model that is scored.
        shipped: the miniature part, in the checkout.
    """
    if preprocess.miniworld.train_scenes:
        return True
    stands_in = flag is None and Path(where) == paths.root() / shipped
    if stands_in:
        print(
            f"it knows the miniature world, not {', '.join(config.dataset)}: scored on that world's held-out scenes "
            f"(on your data: --checkpoint {shipped})",
            file=sys.stderr,
        )
    return stands_in


def of_world(mini: MiniworldConfig, count: int, settings: MelSettings) -> Clips:
    """Test scenes, rendered when they are asked for.

    Raises:
        UserError: an unknown kind of sound, or mels of another sample rate.
    """
    if settings.sample_rate != SAMPLE_RATE:
        raise UserError(f"the miniature world sounds at {SAMPLE_RATE} Hz, this model takes {settings.sample_rate} Hz")
    try:
        scenes = list(world.scenes("test", count, TEST_SEED, list(mini.kinds), mini.pairs))
    except ValueError as error:
        raise UserError(f"preprocess.miniworld: {error}") from error
    mel = MelSpectrogram(settings)

    def get(index: int) -> tuple[Tensor, Tensor]:
        wave = torch.from_numpy(world.render(scenes[index]))
        wave = wave[: len(wave) // settings.hop_size * settings.hop_size]
        return mel(wave[None])[0], wave

    source = {"source": "test scenes of the miniature world", "world": WORLD, "seed": TEST_SEED}
    return Clips([scene.uid for scene in scenes], get, source | {"kinds": list(mini.kinds), "pairs": mini.pairs})


def of_validation(
    config: RunConfig, preprocess: PreprocessConfig, settings: MelSettings, uids: list[str], get: Callable[[int], Any]
) -> Clips:
    """The prepared validation clips of all data sets.

    Raises:
        UserError: they were prepared with other mel settings than the model takes.
    """
    prepared = MelSettings.of(preprocess)
    if prepared != settings:
        raise UserError(f"the data have other mels than the model takes: {prepared}, not {settings}")
    return Clips(uids, get, {"source": f"validation clips of {', '.join(config.dataset)}"})
