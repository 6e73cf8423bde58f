"""How close vocoded validation clips are to the real ones, polished by Griffin-Lim or not, beside Griffin-Lim alone."""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.config.tta.hifigan import Config
from sonolume.models import inference
from sonolume.models.tta.hifigan.data import WaveDataset
from sonolume.models.tta.hifigan.inference import SHIPPED, load, resynthesise
from sonolume.modules.griffin_lim import mel_to_wave
from sonolume.modules.mel import MelSpectrogram
from sonolume.modules.metrics import reconstruction
from sonolume.utils import files
from sonolume.utils.errors import UserError
from sonolume.utils.spectrogram import spectrogram_grid

SHOWN = 8  # clips in samples.png
BATCH = 16  # clips vocoded at once
POLISH = 16  # rounds of Griffin-Lim from the vocoder's phases


def run(config: Config, args: argparse.Namespace) -> None:
    """Write report.json and samples.png (real, vocoder, polished, Griffin-Lim)."""
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    vocoder, settings = load(where, config, args.device, torch.float32)
    clips = WaveDataset(config, "valid")
    count = min(len(clips), args.num_samples)
    if not count:
        raise UserError(f"{config.dataset}: no validation clips to evaluate on")
    mels, real = (torch.stack(column) for column in zip(*(clips[0, index] for index in range(count)), strict=True))
    mel = MelSpectrogram(settings)
    made = {
        "vocoder": _all(lambda batch: resynthesise(vocoder, batch), mels, "vocoder"),
        "polished": _all(
            lambda batch: mel_to_wave(batch, settings, POLISH, start=resynthesise(vocoder, batch)), mels, "polished"
        ),
        "griffin_lim": _all(lambda batch: mel_to_wave(batch, settings).clamp(-1, 1), mels, "Griffin-Lim"),
    }
    scores = {name: compare(real, waves, mel) for name, waves in made.items()}
    folder = inference.make_folder(args.output_dir)
    files.write_json(folder / "report.json", inference.describe(model=where, clips=count, **scores))
    columns = [mel(waves[:SHOWN]).numpy() for waves in (real, *made.values())]
    spectrogram_grid(folder / "samples.png", columns, [row.uid for row in clips.rows[:SHOWN]])
    for name, score in scores.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in score.items()) + f" ({count} clips)")
    print(folder / "report.json")


def compare(real: Tensor, made: Tensor, mel: MelSpectrogram) -> dict[str, float]:
    """Means over clips of mel L1 (nats), log-spectral distance of mels (dB), multi-resolution STFT distance."""
    before, after = mel(real), mel(made)
    return {
        "mel_l1": float(reconstruction.mel_l1(before, after).mean()),
        "log_spectral_distance_db": float(reconstruction.log_spectral_distance(before, after).mean()),
        "stft_distance": float(reconstruction.stft_distance(real, made).mean()),
    }


def _all(vocode: Callable[[Tensor], Tensor], mels: Tensor, name: str) -> Tensor:
    return torch.cat([vocode(batch) for batch in tqdm(mels.split(BATCH), desc=name, unit="batch")])
