"""The classes that BEATs hears in recordings: AudioSet's 527, or the twelve of the miniature world."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sonolume.modules.beats.beats import BEATs
from sonolume.modules.beats.fbank import SAMPLE_RATE
from sonolume.utils import audio
from sonolume.utils.errors import UserError

WINDOW = 10.0  # seconds heard at once, as AudioSet's clips; of a longer recording the windows are averaged
TOP = 5
BATCH = 8  # windows


@dataclass(frozen=True)
class Tags:
    path: Path
    duration: float  # seconds
    tags: tuple[tuple[str, float], ...]  # (name, probability), the likeliest first


def listen(beats: BEATs, paths: Sequence[Path], top: int = TOP, window: float = WINDOW) -> list[Tags]:
    """The likeliest classes of each recording, of any rate, channels and length.

    Args:
        top: how many; all of them if there are fewer. window: seconds.

    Raises:
        UserError: a file that cannot be read, is too short or not finite, or a BEATs without a head.
    """
    if beats.predictor is None:
        raise UserError("this BEATs has no head and tells no tags: take a finetuned checkpoint (bins/convert.py beats)")
    heard = []
    for path in paths:
        wave = _load(path, beats.shortest)
        chances = _chances(beats, wave, round(window * SAMPLE_RATE))           # (C,)
        best = chances.topk(min(top, len(chances)))
        names = beats.labels or tuple(map(str, range(len(chances))))
        tags = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        heard.append(Tags(path, len(wave) / SAMPLE_RATE, tuple((names[index], chance) for index, chance in tags)))
    return heard


def print_tags(
    beats: BEATs, paths: Sequence[Path], top: int = TOP, window: float = WINDOW, as_json: bool = False
) -> None:
    """Print them, a block for each file, or one line of json for each; arguments and errors as `listen`."""
    for path in paths:
        (found,) = listen(beats, [path], top, window)
        if as_json:
            tags = [{"tag": name, "probability": round(chance, 4)} for name, chance in found.tags]
            print(json.dumps({"file": str(path), "duration": round(found.duration, 3), "tags": tags}))
        else:
            print(f"{path}  {found.duration:.2f} s")
            print("\n".join(f"  {chance:6.1%}  {name}" for name, chance in found.tags))


def _load(path: Path, shortest: int) -> Tensor:
    """(n,)"""
    wave = torch.from_numpy(audio.load(path, SAMPLE_RATE))
    if len(wave) < shortest:
        least = math.ceil(100 * shortest / SAMPLE_RATE) / 100
        found = f"{len(wave) / SAMPLE_RATE:.2f} s of sound"
        raise UserError(f"{path}: {found}: too short, at least {least:.2f} s are needed")
    if not wave.isfinite().all():
        raise UserError(f"{path}: holds samples that are not numbers (NaN or infinity): export it again")
    return wave


def _chances(beats: BEATs, wave: Tensor, size: int) -> Tensor:
    """(C,) mean over windows side by side; the last one ends with the recording."""
    size = max(min(size, len(wave)), beats.shortest)
    starts = [*range(0, len(wave) - size, size), len(wave) - size]
    windows = torch.stack([wave[start : start + size] for start in starts])    # (W, n)
    parts = [beats.tags(batch.to(beats.device)) for batch in windows.split(BATCH)]
    return torch.cat(parts).mean(0).cpu()
