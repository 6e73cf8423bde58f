"""Sounds with pictures -> {processed_dir}/{Dataset}: 16 kHz wavs, pictures, train.json, valid.json, and report.json.

The source is VGGSound, a folder of videos, a manifest of pairs (Audio or Video, and Image or Video), or the miniature
world. A second run continues where an interrupted one stopped. With `films`, videos stay files, and no pictures are
taken from them.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from sonolume.config.audio_to_image import PairsConfig
from sonolume.preprocessors import parallel, prepared, vggsound
from sonolume.preprocessors.miniworld import pictures as miniworld
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.preprocessors.prepared import LeftOut, Outcome, load_wave, screen, world_rows
from sonolume.utils import audio, files, manifest, pickles, video
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image
from sonolume.utils.manifest import Row
from sonolume.utils.video import VideoError

SETTINGS_FILE = "pairs.json"
SETTINGS = ("sample_rate", "seconds", "frames", "longest_side", "filter_frames")  # that all pairs of a folder share
UID_SUFFIXES = ("", ".wav", ".webp")  # of the folder of pictures, the sound and the film that a Uid names
STILL = "still"  # name of a picture without a time
SMALLEST_SIDE = 16  # px; smaller pictures are left out
LOSSLESS_SIDE = 128  # px; pictures up to this size are stored as PNG, because JPEG would spoil them
BLANK_DEVIATION = 2.0  # standard deviation of 8-bit values below which a picture is blank
JPEG_QUALITY = 95
VECTORS_SUFFIX = ".pickle"  # of files with image vectors in place of a video
FILMS_FOLDER = "films"  # of the miniature world's videos, inside a data set
CHECKED = 10.0  # seconds of a video in which there must be a picture
STEREO = 2  # channels
Picture = tuple[float | None, Image.Image]  # second at which it appears, None for a still one
Pair = tuple[Row, list[int]]  # a sound, and numbers of the frames to take from its video; [] for frames all over it


@dataclass(frozen=True)
class Films:
    """Settings of the preparation of a data set with videos."""

    stereo: bool = False  # keep two channels
    sounds_only: bool = False  # accept sounds that have neither video nor picture
    video_dir: Path | None = None  # videos with the stems of the sounds
    vectors_dir: Path | None = None  # files of image vectors with the stems of the sounds

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
            row.video = row.video or next(iter(same or found), None)
            if self.vectors_dir and not row.video:
                vectors = self.vectors_dir / f"{Path(row.uid).name}{VECTORS_SUFFIX}"
                row.video = vectors if vectors.is_file() else None
        return left_out

    def load_wave(self, row: Row, sample_rate: int, seconds: float) -> np.ndarray:
        """Load a sound as `prepared.load_wave` does; with `stereo`, two channels as (2, n); a scene as in its film."""
        if row.audio is None:
            return miniworld.delayed_wave(Scene.from_dict(row.scene or {}))
        if not self.stereo:
            return load_wave(row, sample_rate, seconds)
        wave = audio.load(row.audio, sample_rate, mono=False, seconds=seconds)
        return wave if len(wave) == STEREO else wave.mean(axis=0)


def prepare(
    config: PairsConfig, dataset: str, source: Path | None = None, media_dir: Path | None = None,
    films: Films | None = None,
) -> dict[str, int]:  # fmt: skip
    """Prepare a data set of pairs for training, as `text_audio.prepare`.

    Args:
        source: see the module. By default the miniature world if `config.miniworld` has scenes, else the data set that
            an earlier run prepared.
        media_dir: folder of the files of a table or manifest (default: that of the table).
        films: keep videos instead of pictures of their frames.
    """
    folder = prepared.dataset_folder(config, dataset)
    if source is None and not config.miniworld.train_scenes:
        is_usable = _is_complete_film if films else is_complete
        return prepared.count_examples(config, dataset, is_usable, "a sound or pictures")
    if source is None:
        pairs, left_out = [(row, []) for row in world_rows(config, dataset, labels=True)], []
    else:
        prepared.check_input(config, dataset, source)
        pairs, left_out = _recordings(config, dataset, source, media_dir, films)
    rows = [row for row, _ in pairs]
    renamed = prepared.rename_colliding(rows, UID_SUFFIXES)
    manifest.assign_splits(rows, config.valid_fraction)
    with prepared.cleanup(folder):
        if pairs:
            settings = {name: getattr(config, name) for name in SETTINGS}
            if films:
                videos = str(films.video_dir.resolve()) if films.video_dir else ""
                settings |= {"films": True, "stereo": films.stereo, "video_dir": videos}
            settings["input"] = str(source.resolve()) if source else asdict(config.miniworld)
            path = folder / SETTINGS_FILE
            prepared.store_settings(path, settings, f"remove {folder}, or choose another --dataset")
        work = functools.partial(_write_pair, folder=folder, config=config, films=films)
        outcomes = parallel.run(work, pairs, config.num_workers, f"{dataset}: pairs")
        facts = {name: sum(outcome.counts.get(name, 0) for outcome in outcomes) for name in ("pictures", "low_rate")}
        counts = prepared.write(config, dataset, outcomes, left_out, renamed, **facts)
    low = f"; {facts['low_rate']} sounds were recorded below {config.sample_rate} Hz" if facts["low_rate"] else ""
    print(f"{folder}: {facts['pictures']} pictures{low}")
    return counts


def read_split(
    config: PairsConfig, datasets: Sequence[str], split: str, is_complete: Callable[[Row], bool], missing: str
) -> list[Row]:
    """As `prepared.read_split`; raises a UserError also if a data set was prepared with other settings."""
    settings = {name: getattr(config, name) for name in SETTINGS}
    for dataset in datasets:
        prepared.check_stored(config, prepared.dataset_folder(config, dataset) / SETTINGS_FILE, settings)
    return prepared.read_split(config, datasets, split, is_complete, missing)


def pictures_of(row: Row) -> list[tuple[float | None, Path]]:
    """List (second, file) of the pictures of a prepared row, in order of time; the second is None for a still one."""
    found = sorted(row.image.iterdir()) if row.image and row.image.is_dir() else []
    if not found:
        raise UserError(f"{row.image}: the pictures of {row.uid} are missing: run run_preprocess.sh again")
    return [(None if path.stem.startswith(STILL) else float(path.stem), path) for path in found]


def is_complete(row: Row) -> bool:
    """Whether the sound of a row, and the folder of its pictures, exist."""
    return bool(row.audio and row.audio.is_file() and row.image and row.image.is_dir())


def _is_complete_film(row: Row) -> bool:
    """Whether the sound of a row, and its video or picture if it names them, exist."""
    images = (not row.image or row.image.is_dir()) and (not row.video or row.video.is_file())
    return bool(row.audio and row.audio.is_file() and images)


def still_picture(row: Row) -> Image.Image:
    """Open the picture of a row, or draw that of its scene; raises a VideoError if it is missing or unreadable."""
    if row.image is None:
        return Image.fromarray(miniworld.picture(Scene.from_dict(row.scene or {})))
    try:
        return open_image(row.image)
    except UserError as error:
        kind = "unreadable" if row.image.is_file() else "missing"
        raise VideoError(str(error), f"{kind} picture") from error


def usable(pictures: list[Picture], source: str) -> list[Picture]:
    """Drop tiny and blank pictures; raise a VideoError with the more frequent reason if none is left."""
    kept, reasons = [], Counter()
    for second, picture in pictures:
        if min(picture.size) < SMALLEST_SIDE:
            reasons["tiny picture"] += 1
        elif np.asarray(picture.convert("L").resize((64, 64))).std() < BLANK_DEVIATION:
            reasons["blank picture"] += 1
        else:
            kept.append((second, picture))
    if not kept:
        raise VideoError(source, reasons.most_common(1)[0][0])
    return kept


def save_pictures(pictures: list[Picture], folder: Path, longest_side: int) -> None:
    """Write pictures into a folder of their own: still ones as still.png or .jpg, others named by their second."""
    with files.atomic_folder(folder) as temporary:
        for second, picture in pictures:
            picture.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
            suffix = ".png" if max(picture.size) <= LOSSLESS_SIDE else ".jpg"
            name = STILL if second is None else f"{second:07.3f}"
            picture.save(temporary / (name + suffix), quality=JPEG_QUALITY)  # PNG ignores the quality


def _recordings(
    config: PairsConfig, dataset: str, source: Path, media_dir: Path | None, films: Films | None
) -> tuple[list[Pair], list[LeftOut]]:
    if not source.exists():
        raise UserError(f"{source}: no such folder or manifest of videos, or of sounds with pictures")
    if vggsound.table_of(source):
        found, left_out, best_frames = vggsound.read(source, dataset, config, media_dir)
    else:
        found, left_out, best_frames = manifest.read_manifest(source, dataset, ("Audio|Video",), media_dir), [], {}
        for row in found:  # a video is its sound track, too, and labelled by its folder
            row.video = row.video or (row.audio if row.audio and files.is_video(row.audio) else None)
            row.audio = row.audio or row.video
            row.label = row.label or Path(row.uid).parent.name.replace("_", " ") or None
    ambiguous = films.match(found) if films else []
    unclear = {one.uid for one in ambiguous}
    given = [row for row in found if row.uid not in unclear]
    rows, screened_out = screen(given, images=not (films and films.sounds_only))
    return [(row, best_frames.get(row.uid, [])) for row in rows], left_out + ambiguous + screened_out


def _write_pair(pair: Pair, folder: Path, config: PairsConfig, films: Films | None = None) -> Outcome:
    """Write the sound, then the pictures or the film of one pair, unless an earlier run did."""
    row, best_frames = pair
    sound, frames = folder / config.audio_dir / f"{row.uid}.wav", folder / config.frames_dir / row.uid
    is_scene = row.audio is None
    has_pictures = films is None or row.image is not None or is_scene
    if films and films.sounds_only and is_scene:
        has_pictures = frames.is_dir()  # drawn for another stage, which still needs them
    example = replace(row, audio=sound, image=frames if has_pictures else None)
    try:
        if films and is_scene and has_pictures:
            example.video = _draw_film(row, folder)
        if sound.is_file() and (frames.is_dir() or not has_pictures):
            example.duration = prepared.stored_seconds(sound)
            count = len(list(frames.iterdir())) if has_pictures else 0
            return Outcome((example,), reused=True, counts={"pictures": count})
        wave = (films.load_wave if films else load_wave)(row, config.sample_rate, config.seconds)
        audio.check_wave(wave, config.sample_rate, str(row.audio or ""), config.min_seconds)
        seconds = wave.shape[-1] / config.sample_rate
        if films and row.video:
            _check_video(row.video, config.frames)
        found = _load_pictures(row, best_frames, seconds, config) if has_pictures else []
        pictures = usable(found, f"{row.image or row.video}") if has_pictures else []
    except (SoundError, VideoError) as error:
        return Outcome(left_out=LeftOut.of(row, error.reason, str(error)))
    audio.save_wav(sound, wave, config.sample_rate)
    if has_pictures:
        save_pictures(pictures, frames, config.longest_side)
    example.duration = round(seconds, 3)
    low_rate = prepared.is_low_rate(row, config.sample_rate)
    return Outcome((example,), counts={"pictures": len(pictures), "low_rate": low_rate})


def _draw_film(row: Row, folder: Path) -> Path:
    """Draw the film of a scene into the folder of a data set, unless it is there."""
    path = folder / FILMS_FOLDER / f"{row.uid}.webp"
    if not path.is_file():
        content = miniworld.encode_film(miniworld.film(Scene.from_dict(row.scene or {})))
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return path


def _check_video(path: Path, count: int) -> None:
    """Raise a VideoError unless a video is whole and has pictures, or a file of image vectors holds arrays."""
    if path.suffix == VECTORS_SUFFIX:
        try:
            content = pickles.read_arrays(path)
        except UserError as error:
            raise VideoError(str(error), "unreadable image vectors") from error
        arrays = content.values() if isinstance(content, dict) else ()
        if not any(isinstance(array, np.ndarray) and array.size for array in arrays):
            raise VideoError(f"{path}: no image vectors in it", "unreadable image vectors")
        return
    length = video.probe(path).seconds
    video.frames_at(path, [length])  # reads on to the end
    usable(_frames(path, _even_times(min(length or CHECKED, CHECKED), count)), f"{path}")


def _even_times(length: float, count: int) -> list[float]:
    """The middles of `count` equal parts of a video, in seconds."""
    return [(index + 0.5) * length / count for index in range(count)]


def _frames(path: Path, times: list[float]) -> list[Picture]:
    return [(frame.seconds, frame.picture) for frame in video.frames_at(path, times)]


def _load_pictures(row: Row, best_frames: list[int], seconds: float, config: PairsConfig) -> list[Picture]:
    """Load all pictures of a row; of a video, frames from the first `seconds`."""
    if row.image is not None or row.video is None:
        return [(None, still_picture(row))]
    facts = video.probe(row.video)
    length = min(seconds, facts.seconds) if facts.seconds else seconds
    times = _even_times(length, config.frames)
    best = [number / facts.fps for number in best_frames if facts.fps and number / facts.fps < length]
    if best and row.split == "train":
        count = min(config.frames, len(best))
        times = [best[index * len(best) // count] for index in range(count)]
    return _frames(row.video, times)
