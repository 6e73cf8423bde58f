"""Distances of reconstructed sounds to the originals: for a vocoder, an autoencoder or a codec, here or in a folder.

B sounds, N samples, M mel bands, T frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.models.evaluation.report import Conditions, Report, measurement_conditions
from sonolume.models.evaluation.samples import SOUND, Samples, is_clipped, read_sound
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.modules.metrics import reconstruction as metrics
from sonolume.utils import audio
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError

LENGTH_TOLERANCE = 0.05  # seconds by which the lengths of a pair may differ: both are cut to the shorter

Values = dict[str, Tensor]  # one value per sound, (B,), by key of DISTANCES

DISTANCES = {  # key -> title, unit, better, note
    "mel_l1": ("mel L1", "nats", "down", ""),
    "log_spectral_distance": ("log-spectral distance", "dB", "down", "of the mels"),
    "stft_distance": ("STFT distance", "", "down", "multi-resolution"),
    "si_sdr": ("SI-SDR", "dB", "up", "low wherever phases are free"),
}


def compare_mels(real: Tensor, rebuilt: Tensor) -> Values:
    """Compute the distances of ln mels (B, M, T)."""
    spectral = metrics.log_spectral_distance(real, rebuilt)
    return {"mel_l1": metrics.mel_l1(real, rebuilt), "log_spectral_distance": spectral}


def compare_waves(real: Tensor, rebuilt: Tensor, mel: MelSpectrogram) -> Values:
    """Compute the distances of waves (B, N) and of their mels."""
    waves = {"stft_distance": metrics.stft_distance(real, rebuilt), "si_sdr": metrics.si_sdr(real, rebuilt)}
    return compare_mels(mel(real), mel(rebuilt)) | waves


def concatenate(batches: Sequence[Values]) -> Values:
    """Join the values of several batches."""
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def add_distances(
    report: Report, uids: Sequence[str], values: Values, baselines: Mapping[str, Values], chance: Values | None = None
) -> None:
    """Add the mean of each distance, next to `baselines` by column; mel L1 is the headline.

    `chance` holds the values of a reconstruction that ignores the sound.
    """
    for key in (key for key in DISTANCES if key in values):
        title, unit, better, note = DISTANCES[key]
        finite = chance[key][chance[key].isfinite()] if chance else torch.zeros(0)
        report.add_mean(
            title, values[key], uids, better, note=note, unit=unit, headline=key == "mel_l1",
            baselines={column: others[key] for column, others in baselines.items()},
            chance=float(finite.mean()) if len(finite) else None,
        )  # fmt: skip


def leave_out_broken(report: Report, uids: Sequence[str], rebuilt: Tensor) -> None:
    """List sounds or mels (B, ...) that are not finite, which are excluded from every mean, as left out."""
    finite = rebuilt.flatten(1).isfinite().all(dim=1).tolist()
    report.leave_out((uid, "its reconstruction holds NaN") for uid, ok in zip(uids, finite, strict=True) if not ok)


def conditions(settings: MelSettings, uids: Sequence[str], compared: str, **more: Any) -> Conditions:
    """Conditions of a comparison of "mels" or "waves": which sounds, and the mel settings."""
    facts = {"sample_rate": settings.sample_rate, "compared": compared, "mel": asdict(settings)}
    return measurement_conditions([], uids, len(uids), **facts, **more)


def add_pair_distances(report: Report, samples: Samples, settings: MelSettings) -> None:
    """Add the distances of generated sounds to the references of their Uids, with conditions and counts."""
    if samples.medium is not SOUND:
        raise UserError("--generated: holds no sound files")
    mel, rate = MelSpectrogram(settings), settings.sample_rate
    sides = {"generated": samples.generated, "reference": samples.reference}
    counts = {f"{fault} {side}": 0 for side in sides for fault in ("silent", "clipped")}
    values: dict[str, Values] = {}
    least = max(settings.padding, max(n_fft for n_fft, _, _ in metrics.RESOLUTIONS) // 2)  # samples of a spectrum
    uids = [uid for uid in samples.reference if uid in samples.generated]
    report.leave_out((uid, "nothing generated for it") for uid in samples.reference if uid not in samples.generated)
    for uid in tqdm(uids, desc="compare", unit="pair", disable=len(uids) < 10):
        try:
            read = {side: read_sound(files[uid], rate) for side, files in sides.items()}
            made, real = (wave for wave, _ in read.values())
            size = min(len(made), len(real))
            if abs(len(made) - len(real)) > LENGTH_TOLERANCE * rate:
                raise UserError(f"{len(made) / rate:.2f} s long, its reference {len(real) / rate:.2f} s")
            if size <= least:
                needed = f"too short for a spectrum, which needs {(least + 1) / rate:.2f} s"
                raise UserError(f"{size / rate:.2f} s long: {needed}")
        except UserError as error:
            report.leave_out([(uid, str(error))])
            continue
        for side, (wave, clipped) in read.items():
            counts[f"silent {side}"] += audio.is_silent(wave)
            counts[f"clipped {side}"] += clipped
        cut_real, cut_made = (torch.from_numpy(wave[:size])[None] for wave in (real, made))  # (1, N) each
        values[uid] = compare_waves(cut_real, cut_made, mel)
    if not values:
        reason = f": {report.left_out[-1][1]}" if report.left_out else ""
        raise UserError(f"not one of {len(uids)} pairs of a generated file and a reference can be used{reason}")
    add_distances(report, list(values), concatenate(list(values.values())), {})
    report.counts |= {"pairs": len(values), "left out": len(report.left_out), **counts}
    contents = [content_hash(samples.reference[uid]) for uid in values]
    report.conditions |= conditions(settings, list(values), "waves", contents=content_hash(contents))


def count_faults(report: Report, side: str, waves: Tensor) -> None:
    """Count the silent and clipped waves (B, N) of a side, such as "real" or "generated"."""
    for name, test in (("silent", audio.is_silent), ("clipped", is_clipped)):
        key = f"{name} {side}"
        report.counts[key] = report.counts.get(key, 0) + sum(test(wave) for wave in waves.numpy())
