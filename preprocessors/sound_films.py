"""Videos of sounds that stay files: matched with sounds by their stem, checked, or drawn by the miniature world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonolume.preprocessors.prepared import LeftOut, load_wave
from sonolume.utils import audio, files, pickles, video
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from sonolume.utils.video import VideoError

VECTORS_SUFFIX = ".pickle"  # of files with image vectors in place of a video
FOLDER = "films"  # of the miniature world's videos, inside a data set
CHECKED = 10.0  # seconds of a video in which there must be a picture
STEREO = 2  # channels


@dataclass(frozen=True)
class Films:
    """Settings of the preparation of a data set with videos."""

    stereo: bool = False  # keep two channels
    sounds_only: bool = False  # accept sounds that have neither video nor picture
    video_dir: Path | None = None  # videos with the stems of the sounds
    vectors_dir: Path | None = None  # files of image vectors with the stems of the sounds

    def settings(self) -> dict[str, Any]:
        """Settings that all examples of a data set have in common."""
        videos = str(self.video_dir.resolve()) if self.video_dir else ""
        return {"films": True, "stereo": self.stereo, "video_dir": videos}

    def match(self, rows: Sequence[Row]) -> list[LeftOut]:
        """Fill in the video of each row without one, in place; return the rows that several videos would fit.

        A video has the same path inside its folder as the sound, or else the same stem. A file of image vectors stands
        for a missing video.
        """
        by_stem: dict[str, list[Path]] = {}
        for path in video.films_in(self.video_dir) if self.video_dir else ():
            by_stem.setdefault(path.stem, []).append(path)
        if self.video_dir and not by_stem:
            raise UserError(f"{self.video_dir}: contains no videos")
        left_out = []
        for row in rows:
            found = [] if row.video else by_stem.get(Path(row.uid).name, [])
            same = [path for path in found if path.relative_to(self.video_dir or "").with_suffix("") == Path(row.uid)]
            if len(same or found) > 1:
                left_out.append(LeftOut.of(row, "ambiguous video", f"{found[0]} and {found[1]} fit"))
            row.video = row.video or next(iter(same or found), None) or self.vectors_of(row)
        return left_out

    def vectors_of(self, row: Row) -> Path | None:
        """The file of image vectors of a row, if it exists."""
        path = self.vectors_dir / f"{Path(row.uid).name}{VECTORS_SUFFIX}" if self.vectors_dir else None
        return path if path and path.is_file() else None

    def load_wave(self, row: Row, sample_rate: int, seconds: float) -> np.ndarray:
        """Load a sound as `prepared.load_wave` does; with `stereo`, two channels as (2, n); a scene as in its film."""
        if row.audio is None:
            from sonolume.preprocessors.miniworld import films, world  # recordings do not need the synthesiser

            return films.delayed_wave(world.Scene.from_dict(row.scene or {}))
        if not self.stereo:
            return load_wave(row, sample_rate, seconds)
        wave = audio.load(row.audio, sample_rate, mono=False, seconds=seconds)
        return wave if len(wave) == STEREO else wave.mean(axis=0)


def draw(row: Row, folder: Path) -> Path:
    """Draw the film of a scene into the folder of a data set, unless it is there."""
    path = folder / FOLDER / f"{row.uid}.webp"
    if not path.is_file():
        from sonolume.preprocessors.miniworld import films, world

        content = films.encode(films.film(world.Scene.from_dict(row.scene or {})))
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return path


def check_vectors(path: Path) -> None:
    """Raise a VideoError unless a file holds arrays, and nothing that would have to be executed."""
    try:
        content = pickles.read_arrays(path)
    except UserError as error:
        raise VideoError(str(error), "unreadable image vectors") from error
    arrays = content.values() if isinstance(content, dict) else ()
    if not any(isinstance(array, np.ndarray) and array.size for array in arrays):
        raise VideoError(f"{path}: no image vectors in it", "unreadable image vectors")


def sample_frames(path: Path, count: int) -> list[video.Frame]:
    """Read `count` frames of the beginning of a video, to check it.

    Raises:
        VideoError: an unusable video, or one that is cut.
    """
    length = video.probe(path).seconds
    video.frames_at(path, [length])  # reads on to the end
    length = min(length or CHECKED, CHECKED)
    return video.frames_at(path, [(index + 0.5) * length / count for index in range(count)])
