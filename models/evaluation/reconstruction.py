"""How close rebuilt sounds are to the originals, as scores: of a vocoder, an autoencoder, a codec; here or in a folder.

B sounds, N samples, M mel bands, T frames.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.models import inference
from sonolume.models.evaluation import results
from sonolume.models.evaluation.embedders import clips
from sonolume.models.evaluation.embedders.base import hash_of
from sonolume.models.evaluation.pairing import by_uid, claimed, paired
from sonolume.models.evaluation.protocol import Fingerprint, digest, fingerprint
from sonolume.models.evaluation.results import Result
from sonolume.modules.mel import MEL_FLOOR, MelSettings, MelSpectrogram
from sonolume.modules.metrics import reconstruction as metrics
from sonolume.utils import manifest
from sonolume.utils.errors import UserError
from sonolume.utils.spectrogram import spectrogram_grid

SHOWN = 8  # clips in samples.png
SLACK = 0.05  # seconds that the lengths of a pair may differ by: both are cut to the shorter
LONGEST_SHOWN = 10.0  # seconds of a clip in samples.png

Values = dict[str, Tensor]  # one value a sound, (B,), by the name of the score


class _Kind(NamedTuple):
    unit: str
    better: str
    note: str = ""


KINDS = {
    "mel L1": _Kind("nats", "down"),
    "log-spectral distance": _Kind("dB", "down", "of the mels"),
    "STFT distance": _Kind("", "down", "multi-resolution"),
    "SI-SDR": _Kind("dB", "up", "low wherever phases are free"),
}
HEADLINE = "mel L1"


def compare_mels(real: Tensor, rebuilt: Tensor) -> Values:
    """Of ln mels (B, M, T)."""
    return {
        "mel L1": metrics.mel_l1(real, rebuilt),
        "log-spectral distance": metrics.log_spectral_distance(real, rebuilt),
    }


def compare_waves(real: Tensor, rebuilt: Tensor, mel: MelSpectrogram) -> Values:
    """Of waves (B, N)."""
    return compare_mels(mel(real), mel(rebuilt)) | {
        "STFT distance": metrics.stft_distance(real, rebuilt),
        "SI-SDR": metrics.si_sdr(real, rebuilt),
    }


def joined(batches: Sequence[Values]) -> Values:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def add(
    result: Result, uids: Sequence[str], values: Values, beside: Mapping[str, Values], chance: Values | None = None
) -> None:
    """All scores, the headline first.

    Args:
        beside: the values of other ways to rebuild the same sounds, by the name of their column.
        chance: those of one that knows nothing of the sound.
    """
    for name, kind in KINDS.items():
        if name not in values:
            continue
        known = chance[name][chance[name].isfinite()] if chance else torch.zeros(0)
        result.add_mean(
            name, values[name], uids, kind.better, note=kind.note, unit=kind.unit, headline=name == HEADLINE,
            beside={column: others[name] for column, others in beside.items()},
            chance=float(known.mean()) if len(known) else None,
        )  # fmt: skip


def list_broken(result: Result, uids: Sequence[str], rebuilt: Tensor) -> None:
    """Sounds or mels (B, ...) that are not finite have no part in any mean: left out, and said."""
    broken = ~rebuilt.flatten(1).isfinite().all(dim=1)
    result.left_out += [(uids[index], "its reconstruction holds NaN") for index in broken.nonzero().flatten().tolist()]


def conditions(settings: MelSettings, uids: Sequence[str], compared: str, **more: Any) -> Fingerprint:
    """The fingerprint of a reconstruction: which sounds, and how the mels that are compared are made.

    Args:
        compared: "mels" or "waves".
    """
    return fingerprint(
        [], uids, len(uids), sample_rate=settings.sample_rate, compared=compared, mel=asdict(settings), **more
    )


def run(args: argparse.Namespace, settings: MelSettings) -> None:
    """Score the sounds of --generated against those of --reference; write report.json, report.md and samples.png.

    Raises:
        UserError: one of the two is not given, not one pair, or not one pair that can be used.
    """
    if args.generated is None:
        raise UserError("--reference needs --generated FOLDER: what was rebuilt from it (by run_inference.sh, say)")
    if args.reference is None:
        raise UserError("--generated needs --reference FOLDER_OR_MANIFEST: the sounds that were rebuilt")
    pairs = find_pairs(args.generated, args.reference)
    result = Result({}, facts={"generated": str(args.generated), "reference": str(args.reference)})
    result.left_out += pairs.alone
    result.counts |= {"unpaired": len(pairs.alone), "further samples of a reference": pairs.further}
    shown = score(result, pairs.files, settings)
    folder = inference.make_folder(args.output_dir)
    spectrogram_grid(folder / "samples.png", _stacked(list(shown.values())), list(shown), ["reference", "generated"])
    path = results.write(result, folder, ["samples.png"])
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(path)


class Pairs(NamedTuple):
    """Which files belong together."""

    files: dict[str, tuple[Path, Path]]  # Uid -> (generated, reference)
    alone: list[tuple[str, str]]  # (Uid, reason)
    further: int  # generated files of a reference that has one already


def find_pairs(generated: Path, reference: Path) -> Pairs:
    """A generated file belongs to the reference of its own name, or to the one that the json beside it names.

    Raises:
        UserError: a folder or manifest that cannot be read or holds no sounds; two files of one Uid; not one pair.
    """
    rows = [row for row in manifest.read_manifest(reference) if row.audio]
    if not rows:
        raise UserError(f"--reference {reference}: names no sounds")
    real: dict[str, Path] = {}
    for row in rows:
        assert row.audio is not None
        if row.uid in real:
            raise UserError(f"--reference {reference}: {row.audio} and {real[row.uid]} have the same Uid {row.uid!r}")
        real[row.uid] = row.audio
    root = generated if generated.is_dir() else generated.parent
    made, further = claimed(by_uid(manifest.find_sounds(generated), root), rows)
    both, alone = paired(made, rows)
    return Pairs({row.uid: (made[row.uid], real[row.uid]) for row in both}, alone, further)


def score(result: Result, pairs: Mapping[str, tuple[Path, Path]], settings: MelSettings) -> dict[str, list[np.ndarray]]:
    """Fill in scores, conditions, counts and what was left out; returns mels [reference, generated] of the first pairs.

    Raises:
        UserError: not one pair can be used.
    """
    mel, rate = MelSpectrogram(settings), settings.sample_rate
    counts = {f"{fault} {side}": 0 for side in ("generated", "reference") for fault in ("silent", "clipped")}
    values: dict[str, Values] = {}
    shown: dict[str, list[np.ndarray]] = {}
    for uid, (made_path, real_path) in tqdm(pairs.items(), desc="compare", unit="pair", disable=len(pairs) < 10):
        try:
            read = [clips.read(path, rate) for path in (made_path, real_path)]
            made, real = common_length(read[0][0], read[1][0], settings)
        except UserError as error:
            result.left_out.append((uid, str(error)))
            continue
        for side, (wave, clipped) in zip(("generated", "reference"), read, strict=True):
            counts[f"silent {side}"] += clips.is_silent(wave)
            counts[f"clipped {side}"] += clipped
        waves = [torch.from_numpy(wave)[None] for wave in (real, made)]
        values[uid] = compare_waves(waves[0], waves[1], mel)
        if len(shown) < SHOWN:
            shown[uid] = [mel(wave[:, : round(LONGEST_SHOWN * rate)])[0].numpy() for wave in waves]
    if not values:
        raise UserError(f"not one of {len(pairs)} pairs can be used: {result.left_out[-1][1]}")
    add(result, list(values), joined(list(values.values())), {})
    result.counts |= {"pairs": len(values), "left out": len(result.left_out), **counts}
    contents = [hash_of(pairs[uid][1]) for uid in values]
    result.conditions |= conditions(settings, list(values), "waves", contents=digest(contents))
    return shown


def common_length(made: np.ndarray, real: np.ndarray, settings: MelSettings) -> tuple[np.ndarray, np.ndarray]:
    """Both cut to the shorter, if that changes little.

    Raises:
        UserError: they differ by more than `SLACK`, or are too short for a spectrum.
    """
    rate, size = settings.sample_rate, min(len(made), len(real))
    if abs(len(made) - len(real)) > SLACK * rate:
        raise UserError(f"{len(made) / rate:.2f} s long, its reference {len(real) / rate:.2f} s")
    least = max(settings.padding, max(n_fft for n_fft, _, _ in metrics.RESOLUTIONS) // 2)
    if size <= least:
        raise UserError(f"{size / rate:.2f} s long: too short for a spectrum, which needs {(least + 1) / rate:.2f} s")
    return made[:size], real[:size]


def _stacked(shown: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Columns (clips, M, T) of mels of several lengths: silence behind those that are shorter."""
    longest = max(mel.shape[1] for pair in shown for mel in pair)

    def padded(mel: np.ndarray) -> np.ndarray:
        return np.pad(mel, ((0, 0), (0, longest - mel.shape[1])), constant_values=float(np.log(MEL_FLOOR)))

    return [np.stack([padded(pair[column]) for pair in shown]) for column in range(2)]
