"""Samples by Uid: what is compared, files generated for it such that an interrupted run resumes, and sounds read."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from huggingface_hub import snapshot_download
from PIL import Image
from tqdm import tqdm

from sonolume.models.evaluation.report import differences
from sonolume.utils import audio, files, paths
from sonolume.utils.cache import content_hash, locked
from sonolume.utils.errors import UserError
from sonolume.utils.text import message

SETTINGS_FILE = "settings.json"
MIN_SECONDS = 0.1  # shorter sounds are not scored
FULL_SCALE = 1 - 1 / 32768  # the largest value of 16 bits
CLIPPED_RUN = 3  # consecutive samples at full scale; a single one may be a normalised peak
REMEDY = "choose another --output_dir, or remove the folder to generate again"

Files = Mapping[str, Path]  # by Uid
Sample = np.ndarray | Image.Image  # a wave (n,) or a picture


class Medium(NamedTuple):
    """The names of sounds or pictures, and of their scores."""

    name: str
    plural: str  # in `Embedder.takes`
    frechet: str  # customary name of the Frechet distance
    agreement: str  # of a sample with its text
    zero_shot: str  # accuracy of classes by the embeddings of their names
    prompt: str  # text with the name of a class


SOUND = Medium("sound", "sounds", "FAD", "text agreement", "zero-shot accuracy", "the sound of a {label}")
PICTURE = Medium("picture", "pictures", "FID", "CLIP score", "AIC", "a photo of a {label}")


@dataclass(frozen=True)
class Samples:
    """Generated sounds or pictures and what they are compared with, all by Uid."""

    medium: Medium
    generated: Files
    reference: Files = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    inputs: Files = field(default_factory=dict)  # of the other medium, from which the samples were generated
    videos: Files = field(default_factory=dict)  # from which sounds were generated: onsets are compared

    @property
    def other(self) -> Medium:
        """The medium of the inputs."""
        return PICTURE if self.medium is SOUND else SOUND

    def shuffled(self) -> "Samples":
        """Give each Uid the sample of the next one, as a generator that ignores its input would."""
        uids = list(self.generated)
        pairs = zip(uids, uids[1:] + uids[:1], strict=True)
        return replace(self, generated={uid: self.generated[other] for uid, other in pairs})


def seed_of(seed: int, uid: str) -> int:
    """Derive the seed of one sample, 0 to 2**63 - 1, which does not depend on order, batch or selection."""
    return int.from_bytes(hashlib.sha256(f"{seed} {uid}".encode("utf-8", "surrogatepass")).digest()[:8]) >> 1


def choose(rows: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Draw at most `count` entries by a hash of their Uids: always the same ones."""
    return dict(sorted(rows.items(), key=lambda item: seed_of(0, item[0]))[:count])


def weights_version(where: str) -> str:
    """Return the hash of all weights and settings of a folder, or the commit of a hub id that was loaded."""
    if not paths.is_local(where):
        return Path(snapshot_download(where, local_files_only=True)).name
    suffixes = ("json", "safetensors", "bin")
    return content_hash(*sorted(path for suffix in suffixes for path in Path(where).rglob(f"*.{suffix}")))


def generate_files(
    folder: Path, inputs: Mapping[str, str], settings: Mapping[str, Any],
    generate: Callable[[list[str], list[int]], Sequence[Sample | None]], sample_rate: int | None = None,
    *, batch_size: int = 16, seed: int = 0, title: str = "generate",
) -> dict[str, Path]:  # fmt: skip
    """Generate the files that do not exist yet, and return the files of all Uids, in their order.

    Batches are cut from all Uids, done or not, so that an interrupted run ends with the same bytes as another one.

    Args:
        folder: gets {uid}.wav or {uid}.png, each of which appears whole or not at all, and `SETTINGS_FILE`.
        inputs: Uid -> what its file is generated from, such as the caption.
        settings: all else that determines the files, as plain JSON values; `seed` is added.
        generate: Uids and their seeds of a batch -> one sample each, None for one that gets no file.
        sample_rate: of waves, in Hz; None for pictures.
        title: of the progress bar.

    Raises a UserError if the folder holds files of other settings or inputs, or a Uid is no file name.
    """
    unsafe = next((uid for uid in inputs if not files.is_safe_uid(uid)), None)
    if unsafe is not None:
        raise UserError(f"Uid {unsafe!r} is no file name inside {folder}: rename it")
    suffix = ".wav" if sample_rate else ".png"
    paths = {uid: folder / f"{uid}{suffix}" for uid in inputs}
    with locked(folder / ".lock", f"generating files in {folder}"):
        _check_settings(folder, inputs, {"seed": seed, **settings}, suffix)
        for path in files.unfinished(folder):  # left by a run that was killed
            files.remove(path)
        missing, uids = {uid for uid, path in paths.items() if not _is_done(path)}, list(paths)
        done = len(uids) - len(missing)
        if done and missing:
            message(f"{folder}: {done} of {len(uids)} files are there: continuing with the others")
        with tqdm(desc=title, total=len(uids), initial=done, leave=None, disable=not missing) as bar:
            for start in range(0, len(uids), batch_size):
                batch = uids[start : start + batch_size]
                if not (todo := missing.intersection(batch)):
                    continue
                samples = generate(batch, [seed_of(seed, uid) for uid in batch])
                for uid, sample in zip(batch, samples, strict=True):
                    if uid in todo and sample is not None:
                        with files.atomic_path(paths[uid]) as path:
                            _save(path, sample, sample_rate)
                bar.update(len(todo))
    return {uid: path for uid, path in paths.items() if _is_done(path)}


def _save(path: Path, sample: Sample, sample_rate: int | None) -> None:
    """Write a picture, or a wave, scaled down where it exceeds full scale."""
    if isinstance(sample, Image.Image):
        sample.save(path, format="PNG")
    else:
        assert sample_rate
        audio.save_wav(path, audio.limit_peak(sample)[0], sample_rate)


def _is_done(path: Path) -> bool:
    """Test for a file that is not empty, which a crash of the machine can leave."""
    return path.is_file() and path.stat().st_size > 0


def _check_settings(folder: Path, inputs: Mapping[str, str], settings: Mapping[str, Any], suffix: str) -> None:
    """Check that a folder's files were generated with the same settings and inputs, and record new inputs."""
    path, new = folder / SETTINGS_FILE, json.loads(json.dumps(settings))
    known: dict[str, str] = {}
    if path.is_file():
        content = files.read_json(path, "the settings of the generated files")
        if not all(isinstance(content.get(key), dict) for key in ("settings", "inputs")):
            raise UserError(f"{path}: holds no settings of generated files: {REMEDY}")
        known = content["inputs"]
        if found := differences(content["settings"], new):
            raise UserError(f"{folder} holds files of other settings (then / now): {'; '.join(found)}: {REMEDY}")
        if other := next((uid for uid, text in inputs.items() if known.get(uid, text) != text), None):
            raise UserError(f"{folder}: {other} was generated from {known[other]!r}, not {inputs[other]!r}: {REMEDY}")
    elif any(folder.rglob(f"*{suffix}")):
        raise UserError(f"{folder} holds files, but no {SETTINGS_FILE} that describes them: {REMEDY}")
    if not path.is_file() or inputs.keys() - known.keys():
        files.write_json(path, {"settings": new, "inputs": {**known, **inputs}})


def read_sound(path: Path, sample_rate: int) -> tuple[np.ndarray, bool]:
    """Read a sound as mono float32 (n,) at `sample_rate`, and detect whether its file has flat tops.

    Raises:
        UserError: unreadable, shorter than 0.1 s, or not finite.
    """
    wave = audio.load(path, sample_rate)
    audio.check_wave(wave, sample_rate, path, MIN_SECONDS, silent_ok=True)
    try:  # the file's own samples: mixing and resampling round off flat tops
        blocks = soundfile.blocks(audio.encoded(path), 65536, overlap=CLIPPED_RUN - 1, dtype="float32", always_2d=True)
        return wave, any(is_clipped(block.T) for block in blocks)
    except soundfile.SoundFileError:  # a format that only PyAV reads
        return wave, is_clipped(wave)


def is_clipped(wave: np.ndarray) -> bool:
    """Test whether a channel of (n,) or (channels, n) stays at full scale for three samples or more."""
    top = np.abs(np.atleast_2d(wave)) >= FULL_SCALE
    starts = top.shape[1] - CLIPPED_RUN + 1
    return starts > 0 and bool(np.all([top[:, shift : starts + shift] for shift in range(CLIPPED_RUN)], axis=0).any())
