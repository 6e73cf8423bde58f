"""Do generated sounds begin when those of the reference do? For sounds that were made from video.

Onsets are librosa's: peaks of the spectral flux of 16 kHz sound, every 10 ms, that stand 0.2 above the mean around them
(its own 0.07 hears onsets in steady noise). In the miniature world, whose onsets are known, they are found with an F1
of about 0.84.
"""

from collections.abc import Mapping
from pathlib import Path

import librosa
import numpy as np
import torch
from tqdm import tqdm

from sonolume.models.evaluation.embedders import clips
from sonolume.models.evaluation.results import Result
from sonolume.models.evaluation.scoring import leave_out
from sonolume.modules.metrics.onsets import onset_agreement, shuffled_agreement
from sonolume.utils.errors import UserError

SAMPLE_RATE, HOP, DELTA = 16000, 160, 0.2
TOLERANCE = 0.1  # seconds


def onsets_of(wave: np.ndarray) -> list[float]:
    """Times in seconds at which a sound (n,) of 16 kHz begins anew; none in silence."""
    if clips.is_silent(wave):
        return []
    return librosa.onset.onset_detect(y=wave, sr=SAMPLE_RATE, hop_length=HOP, delta=DELTA, units="time").tolist()


def score(
    result: Result, generated: Mapping[str, Path], reference: Mapping[str, Path], tolerance: float = TOLERANCE
) -> None:
    """Add onset F1, precision and recall of sounds against the sound (or sound track) of the same Uid.

    The settings go into the fingerprint; files that cannot be read are listed as left out.
    """
    result.conditions["onsets"] = {"tolerance": tolerance, "hop": HOP / SAMPLE_RATE, "delta": DELTA}
    heard, seen, uids = list[list[float]](), list[list[float]](), list[str]()
    for uid in tqdm([uid for uid in generated if uid in reference], desc="onsets", unit="sound"):
        try:
            found = [onsets_of(clips.read(side[uid], SAMPLE_RATE)[0]) for side in (generated, reference)]
        except UserError as error:
            leave_out(result, [(uid, str(error))])
            continue
        uids.append(uid)
        heard.append(found[0])
        seen.append(found[1])
    if not uids:
        return
    agreed = torch.tensor([onset_agreement(a, b, tolerance) for a, b in zip(heard, seen, strict=True)])  # (N, 3)
    chance = shuffled_agreement(heard, seen, tolerance) if len(uids) > 1 else None
    note = f"within {tolerance:g} s; chance: against the onsets of other references"
    result.add_mean("onset F1", agreed[:, 2], uids, chance=chance, note=note)
    for column, name in enumerate(("onset precision", "onset recall")):
        result.add_mean(name, agreed[:, column], uids, list_worst=False, note=f"within {tolerance:g} s")
