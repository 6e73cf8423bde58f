"""Held-out examples to evaluate on: scenes of the miniature world, or prepared recordings. M mel bands, T frames."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sonolume.config.base import MiniworldConfig, PreprocessConfig, RunConfig
from sonolume.config.options import ReportOptions
from sonolume.models.evaluation.samples import MIN_SECONDS, choose, generate_files
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.preprocessors.miniworld import SAMPLE_RATE, TEST_SEED, WORLD, world
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.preprocessors.miniworld.spoken import utterances
from sonolume.preprocessors.sound_pictures import is_complete, pictures_of
from sonolume.preprocessors.sound_text import has_sound
from sonolume.utils import audio, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, read_manifest
from sonolume.utils.text import message

TEST_FILE = "test.json"  # manifest of a data set with a test split
WINDOW = re.compile(r"_w(\d+)$")  # ends the Uid of a window of a long recording

# index -> ln mel (M, T), and its wave (T * hop,), empty where only mels are known
GetClip = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class HeldOut:
    """Captions with the real sounds and pictures that exist for them, by Uid."""

    captions: dict[str, str]
    sounds: dict[str, Path]
    source: dict[str, Any]  # where they come from; part of the conditions
    pictures: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    videos: dict[str, Path] = field(default_factory=dict)  # to generate from; then no picture is needed
    scenes: list[Scene] = field(default_factory=list)  # of the miniature world only
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (Uid, reason)

    def select(self, uids: Collection[str]) -> "HeldOut":
        """Select these Uids, in the present order."""
        names = ("captions", "sounds", "pictures", "labels", "videos")
        kept = {name: {uid: one for uid, one in getattr(self, name).items() if uid in uids} for name in names}
        return replace(self, scenes=[scene for scene in self.scenes if scene.uid in uids], **kept)

    def without_long_captions(self, count_tokens: Callable[[str], int], limit: int, reader: str) -> "HeldOut":
        """Leave out the captions of more than `limit` tokens, which `reader` would truncate; some must be left."""
        long = [uid for uid, text in self.captions.items() if count_tokens(text) > limit]
        if len(long) == len(self.captions):
            raise UserError(f"{self.source['source']}: all captions are longer than {limit} tokens")
        reason = f"its caption has more than {limit} tokens, the maximum of {reader}"
        left_out = self.left_out + [(uid, reason) for uid in long]
        return replace(self.select(self.captions.keys() - set(long)), left_out=left_out)


def uses_miniworld(config: RunConfig, checkpoint: str | None, where: str, shipped: str) -> bool:
    """Decide whether to evaluate in the miniature world: the config trains on it, or the shipped part stands in.

    The latter, that without --checkpoint the model at `where` is the `shipped` folder, is printed to stderr.
    """
    trains_on_it = bool(config.preprocess.miniworld.train_scenes)  # type: ignore[attr-defined]
    stands_in = checkpoint is None and Path(where) == paths.root() / shipped
    if stands_in and not trains_on_it:
        message(f"the shipped model was trained in the miniature world, not on {', '.join(config.dataset)}: evaluated "
                f"on held-out scenes (to use your data: --checkpoint {shipped})")  # fmt: skip
    return trains_on_it or stands_in


def held_out_scenes(mini: MiniworldConfig, count: int, pairs: bool) -> list[Scene]:
    """Draw test scenes of the configured kinds; raises a UserError for an unknown kind."""
    try:
        return list(world.scenes("test", count, TEST_SEED, list(mini.kinds), pairs))
    except ValueError as error:
        raise UserError(f"preprocess.miniworld: {error}") from error


def scenes_with_files(
    mini: MiniworldConfig, count: int, sounds: Path | None, pictures: Path | None = None, pairs: bool | None = None
) -> HeldOut:
    """Render test scenes into folders of sounds and pictures, if named, with captions that mention every attribute.

    Args:
        pairs: also scenes of two events (default: as configured).

    Raises:
        UserError: an unknown kind of sound, or a folder holds other files.
    """
    scenes = {scene.uid: scene for scene in held_out_scenes(mini, count, mini.pairs if pairs is None else pairs)}
    captions = {uid: world.captions(scene, 1, "test", mention=1.0)[0] for uid, scene in scenes.items()}
    render = lambda uids, _: [world.render(scenes[uid]) for uid in uids]  # noqa: E731
    return _scenes_with_files(mini, scenes, captions, render, sounds, pictures)


def spoken_scenes(
    mini: MiniworldConfig, count: int, sounds: Path | None, pictures: Path | None = None, pairs: bool | None = None
) -> HeldOut:
    """As `scenes_with_files`, with a caption of each scene in place of its sound, spoken by a held-out voice."""
    scenes = {scene.uid: scene for scene in held_out_scenes(mini, count, mini.pairs if pairs is None else pairs)}
    spoken = {uid: utterances(scene, 1, "test", mention=1.0)[0] for uid, scene in scenes.items()}
    captions = {uid: one.text for uid, one in spoken.items()}
    speak = lambda uids, _: [spoken[uid].render() for uid in uids]  # noqa: E731
    return _scenes_with_files(mini, scenes, captions, speak, sounds, pictures, speech="held-out voices and wordings")


def _scenes_with_files(
    mini: MiniworldConfig, scenes: dict[str, Scene], captions: dict[str, str], render: Any, sounds: Path | None,
    pictures: Path | None, **more_source: str,
) -> HeldOut:  # fmt: skip
    """Write the sounds of `render(Uids, seeds)` and the pictures of scenes into folders, if named."""
    labels = {uid: scene.events[0].kind for uid, scene in scenes.items() if not scene.relation}
    source = {"source": "miniature world", "world": WORLD, "kinds": list(mini.kinds), "pairs": mini.pairs}
    source |= more_source
    draw = lambda uids, _: [Image.fromarray(world.picture(scenes[uid])) for uid in uids]  # noqa: E731
    more: dict[str, Any] = {"seed": TEST_SEED, "title": "render"}
    waves = generate_files(sounds, captions, source, render, SAMPLE_RATE, **more) if sounds else {}
    drawn = generate_files(pictures, captions, source, draw, **more) if pictures else {}
    return HeldOut(captions, waves, source, drawn, labels, scenes=list(scenes.values()))


def captions_in(manifest: Path, count: int) -> HeldOut:
    """Draw at most `count` rows with a caption from the manifest of --captions, with the pictures that they name."""
    rows = {row.uid: row for row in read_manifest(manifest)}
    chosen = _captioned(rows, f"--captions {manifest}", count)
    pictures = {uid: row.image for uid, row in chosen.items() if row.image and row.image.is_file()}
    return _examples(chosen, {}, {"source": str(manifest)}, pictures)


def recordings(
    config: RunConfig, manifest: Path | None, count: int, folder: Path, sample_rate: int, seconds: float
) -> HeldOut:
    """Draw at most `count` recordings with a caption, and copy them to `folder` as mono wav of one rate and duration.

    They come from `manifest`, else from the test split of all data sets, or the validation split where there is none.
    Raises a UserError if there is no such split, no caption or no readable recording.
    """
    preprocess: Any = config.preprocess  # type: ignore[attr-defined]
    origin = str(manifest or ", ".join(config.dataset))
    rows = {row.uid: row for row in read_manifest(manifest)} if manifest else read_splits(preprocess, config.dataset)
    chosen, left_out = _captioned(rows, origin, count), list[tuple[str, str]]()
    has_windows = preprocess.windows > 1 and manifest is None

    def read(uid: str) -> np.ndarray | None:
        path = chosen[uid].audio
        index = int(found[1]) if has_windows and (found := WINDOW.search(uid)) else 0
        try:
            if path is None:
                raise UserError("its row names no Audio")
            wave = audio.load(path, sample_rate, seconds=(index + 1) * seconds)[index * round(seconds * sample_rate) :]
            audio.check_wave(wave, sample_rate, path, MIN_SECONDS, silent_ok=True)
        except UserError as error:
            left_out.append((uid, str(error)))
            return None
        return wave

    read_all = lambda uids, _: [read(uid) for uid in uids]  # noqa: E731
    source = {"source": origin, "sample_rate": sample_rate, "seconds": seconds}
    inputs = {uid: str(row.audio) for uid, row in chosen.items()}
    sounds = generate_files(folder, inputs, source, read_all, sample_rate, title="read")
    if not sounds:
        raise UserError(f"{origin}: not one of {len(chosen)} recordings can be used: {left_out[0][1]}")
    return replace(_examples({uid: chosen[uid] for uid in sounds}, sounds, source, {}), left_out=left_out)


def recorded_sounds(config: RunConfig, count: int, by_picture: bool = False) -> HeldOut:
    """Draw at most `count` prepared sounds of the test split, or of the validation split where there is none.

    Where the rows name pictures, every sound has one; that of a video is the frame nearest to its middle. With
    `by_picture`, whole pictures are drawn, each with all its sounds. The caption is the row's first, else its label,
    one of which every sound needs. Raises a UserError if there is no such split or sound.
    """
    splits, names = read_splits(config.preprocess, config.dataset), ", ".join(config.dataset)  # type: ignore[attr-defined]
    are_pairs = any(row.image for row in splits.values())
    is_usable, what = (is_complete, "pair") if are_pairs else (has_sound, "sound")
    usable = {uid: row for uid, row in splits.items() if is_usable(row)}
    chosen = _choose_pictures(usable, count) if by_picture and are_pairs else choose(usable, count)
    if not chosen:
        raise UserError(f"{names}: no {what} to test on: see report.json of the data set")
    pictures = dict[str, Path]()
    for uid, row in chosen.items():
        if not row.captions and not row.label:
            raise UserError(f"{uid}: neither Caption nor Label, one of which every test {what} needs")
        if are_pairs:
            middle = (row.duration or 0.0) / 2
            distances = {path: 0.0 if at is None else abs(at - middle) for at, path in pictures_of(row)}
            pictures[uid] = min(distances, key=distances.__getitem__)
    sounds = {uid: row.audio for uid, row in chosen.items() if row.audio}
    return _examples(chosen, sounds, {"source": names}, pictures)


def _choose_pictures(rows: Mapping[str, Row], count: int) -> dict[str, Row]:
    """Draw pictures by a hash of their names, each with all its rows, at most `count` rows; at least one picture."""
    groups: dict[str, dict[str, Row]] = {}
    for uid, row in rows.items():
        groups.setdefault(str(row.image), {})[uid] = row
    by_name = {f"{Path(image).name} {min(group)}": group for image, group in groups.items()}
    chosen: dict[str, Row] = {}
    for group in choose(by_name, len(groups)).values():
        if chosen and len(chosen) + len(group) > count:
            break
        chosen |= group
    return chosen


def _examples(
    rows: Mapping[str, Row], sounds: dict[str, Path], source: dict[str, Any], pictures: dict[str, Path]
) -> HeldOut:
    """Add the first caption of each row, else its label, and the labels that exist."""
    captions = {uid: (row.captions or [row.label or ""])[0] for uid, row in rows.items()}
    return HeldOut(captions, sounds, source, pictures, {uid: row.label for uid, row in rows.items() if row.label})


def _captioned(rows: Mapping[str, Row], source: str, count: int) -> dict[str, Row]:
    found = choose({uid: row for uid, row in rows.items() if row.captions}, count)
    if not found:
        raise UserError(f"{source}: not one of {len(rows)} rows has a caption: there is nothing to generate from")
    return found


def read_splits(preprocess: Any, datasets: list[str]) -> dict[str, Row]:
    """Read the rows to test on of all data sets; Uids begin with the data set if there are several."""
    rows: dict[str, Row] = {}
    for dataset in datasets:
        folder = paths.resolve(preprocess.processed_dir) / dataset
        names = [name for name in (TEST_FILE, preprocess.valid_file) if (folder / name).is_file()]
        if not names:
            hint = "prepare the data first (run_preprocess.sh with the same --config)"
            raise UserError(f"{folder}: neither {TEST_FILE} nor {preprocess.valid_file}: {hint}")
        filled = [name for name in names if (folder / name).read_text(encoding="utf-8").strip() != "[]"]
        if not filled:
            raise UserError(f"{folder}: {' and '.join(names)} without rows: give some clips the Split test or valid")
        for row in read_manifest(folder / filled[0], dataset):
            if row.audio is None and hasattr(preprocess, "wav_dir"):  # where data sets that came ready have them
                row.audio = folder / preprocess.wav_dir / f"{row.uid}.wav"
            rows[row.uid if len(datasets) == 1 else f"{dataset}/{row.uid}"] = row
    return rows


@dataclass(frozen=True)
class Clips:
    """N clips to reconstruct, rendered or read one at a time."""

    uids: list[str]
    get: GetClip
    source: dict[str, Any]  # where they come from; part of the conditions
    scenes: list[Scene] = field(default_factory=list)  # of the miniature world only


def clips(
    config: Any, options: ReportOptions, where: str, shipped: str, settings: MelSettings,
    prepared: Callable[[], tuple[list[str], GetClip]],
) -> Clips:  # fmt: skip
    """Choose the clips to reconstruct: test scenes if `uses_miniworld`, else prepared validation clips.

    Args:
        settings: mels that the model takes.
        prepared: returns the Uids of the validation clips of all data sets, and `Clips.get`.

    Raises:
        UserError: no clips, other mel settings or another sample rate than the model's, or an unknown kind of sound.
    """
    if not uses_miniworld(config, options.checkpoint, where, shipped):
        (uids, read), name = prepared(), f"validation clips of {', '.join(config.dataset)}"
        if isinstance(config.preprocess, PreprocessConfig) and (found := MelSettings.of(config.preprocess)) != settings:
            raise UserError(f"the data have other mels than the model takes: {found}, not {settings}")
        if not uids:
            raise UserError(f"{name}: no validation clips to evaluate on")
        return Clips(uids[: options.num_samples], read, {"source": name})
    check_sample_rate(settings.sample_rate)
    mini, mel = config.preprocess.miniworld, MelSpectrogram(settings)
    scenes = held_out_scenes(mini, options.num_samples, mini.pairs)

    def get(index: int) -> tuple[Tensor, Tensor]:
        wave = torch.from_numpy(world.render(scenes[index]))
        wave = wave[: len(wave) // settings.hop_size * settings.hop_size]
        return mel(wave[None])[0], wave

    source = {"source": "test scenes of the miniature world", "world": WORLD, "seed": TEST_SEED,
              "kinds": list(mini.kinds), "pairs": mini.pairs}  # fmt: skip
    return Clips([scene.uid for scene in scenes], get, source, scenes)


def check_sample_rate(sample_rate: int) -> None:
    """Raise a UserError unless a model takes the sample rate of the miniature world."""
    if sample_rate != SAMPLE_RATE:
        raise UserError(f"the miniature world has {SAMPLE_RATE} Hz, this model takes {sample_rate} Hz")
