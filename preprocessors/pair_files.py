"""One sound with its pictures: read, checked, and kept as a wav and a folder of pictures."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from PIL import Image, UnidentifiedImageError

from sonolume.config.pairs import PairsConfig
from sonolume.preprocessors.refusals import of_wave
from sonolume.utils import audio, files, video
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from sonolume.utils.video import VideoError

if TYPE_CHECKING:
    from sonolume.preprocessors.miniworld.scene import Scene

STILL = "still"  # name of a picture that belongs to every second of its sound
SMALLEST_SIDE = 16  # px; smaller pictures are refused
LOSSLESS_SIDE = 128  # px; JPEG would spoil pictures up to this size
FLAT = 2.0  # standard deviation of 8-bit values below which a picture shows nothing
JPEG_QUALITY = 95
Picture = tuple[float | None, Image.Image]  # second at which it appears, None for a still one


@dataclass(frozen=True)
class Pair:
    """One sound with its pictures, to be read, checked and kept."""

    row: Row
    scene: "Scene | None" = None
    best_frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a pair: its length in seconds, or a reason of refusal."""

    seconds: float = 0.0
    pictures: int = 0
    reason: str = ""
    detail: str = ""
    upsampled: bool = False
    reused: bool = False


def keep(pair: Pair, folder: Path, config: PairsConfig) -> Outcome:
    """Write the sound and the pictures of one pair, unless they are there already. The pictures come last."""
    row = pair.row
    sound, frames = folder / config.audio_dir / f"{row.uid}.wav", folder / config.frames_dir / row.uid
    if frames.is_dir() and sound.is_file():
        seconds = soundfile.info(sound).duration
        return Outcome(seconds, len(list(frames.iterdir())), reused=True)
    try:
        wave = _wave(pair, config)
        reason, detail = of_wave(wave, config.sample_rate, config.min_seconds)
        if reason:
            return Outcome(reason=reason, detail=detail)
        seconds = len(wave) / config.sample_rate
        pictures, reason = _usable(_pictures(pair, seconds, config))
    except (SoundError, VideoError) as error:
        return Outcome(reason=error.reason, detail=str(error))
    if not pictures:
        return Outcome(reason=reason, detail=f"{row.image or row.video}")
    audio.save_wav(sound, wave, config.sample_rate)
    with files.atomic_folder(frames) as temporary:
        for second, picture in pictures:
            _save(temporary / _name(second), picture, config.longest_side)
    return Outcome(seconds, len(pictures), upsampled=_is_low_rate(row.audio, config.sample_rate))


def pictures_of(row: Row) -> list[tuple[float | None, Path]]:
    """(second, file) of the pictures of a prepared row, in time; the second is None for a still one.

    Raises:
        UserError: they are gone.
    """
    found = sorted(row.image.iterdir()) if row.image and row.image.is_dir() else []
    if not found:
        raise UserError(f"{row.image}: the pictures of {row.uid} are not there: run run_preprocess.sh again")
    return [(None if path.stem.startswith(STILL) else float(path.stem), path) for path in found]


def _name(second: float | None) -> str:
    return STILL if second is None else f"{second:07.3f}"


def _save(stem: Path, picture: Image.Image, longest_side: int) -> None:
    picture.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    if max(picture.size) <= LOSSLESS_SIDE:
        picture.save(stem.with_name(f"{stem.name}.png"))
    else:
        picture.save(stem.with_name(f"{stem.name}.jpg"), quality=JPEG_QUALITY)


def _wave(pair: Pair, config: PairsConfig) -> np.ndarray:
    if pair.scene is None:
        assert pair.row.audio is not None
        return audio.load(pair.row.audio, config.sample_rate, seconds=config.seconds)
    from sonolume.preprocessors.miniworld import world  # recordings do not need the synthesiser

    return world.render(pair.scene)


def _pictures(pair: Pair, seconds: float, config: PairsConfig) -> list[Picture]:
    """All pictures of one pair, those of a video from the part that sounds."""
    row = pair.row
    if pair.scene is not None:
        from sonolume.preprocessors.miniworld import world

        return [(None, Image.fromarray(world.picture(pair.scene)))]
    if row.image is not None:
        return [(None, _opened(row.image))]
    assert row.video is not None
    facts = video.probe(row.video)
    length = min(seconds, facts.seconds) if facts.seconds else seconds
    times = [(index + 0.5) * length / config.frames for index in range(config.frames)]
    best = [number / facts.fps for number in pair.best_frames if facts.fps and number / facts.fps < length]
    if best and row.split == "train":
        taken = min(config.frames, len(best))
        times = [best[index * len(best) // taken] for index in range(taken)]
    return [(frame.seconds, frame.picture) for frame in video.frames_at(row.video, times)]


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such picture", "missing picture") from error
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise VideoError(f"{path}: not a readable picture", "unreadable picture") from error


def _usable(pictures: list[Picture]) -> tuple[list[Picture], str]:
    """Those that show something, and the reason where none does."""
    reasons: Counter[str] = Counter()
    kept = []
    for second, picture in pictures:
        if min(picture.size) < SMALLEST_SIDE:
            reasons["tiny picture"] += 1
        elif np.asarray(picture.convert("L").resize((64, 64))).std() < FLAT:
            reasons["blank picture"] += 1
        else:
            kept.append((second, picture))
    return kept, "" if kept else reasons.most_common(1)[0][0]


def _is_low_rate(path: Path | None, sample_rate: int) -> bool:
    """Recorded below the rate of training; False where libsndfile cannot tell."""
    try:
        return path is not None and soundfile.info(path).samplerate < sample_rate
    except soundfile.SoundFileError:
        return False
