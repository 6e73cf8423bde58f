"""How well the autoencoder rebuilds the validation clips: mean absolute error and log-spectral distance of log-mels."""

import argparse

import torch
from tqdm import tqdm

from sonolume.config.tta.autoencoderkl import Config
from sonolume.models import inference
from sonolume.models.tta.autoencoderkl import pipeline
from sonolume.models.tta.autoencoderkl.inference import SHIPPED, reconstruct
from sonolume.models.tta.features import MelDataset
from sonolume.modules.metrics import reconstruction
from sonolume.utils import files
from sonolume.utils.errors import UserError
from sonolume.utils.spectrogram import spectrogram_grid

SHOWN = 8  # pairs in samples.png


def run(config: Config, args: argparse.Namespace) -> None:
    """Write report.json and samples.png (real beside reconstructed)."""
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    vae = pipeline.load(where, "--checkpoint").to(inference.pick_device(args.device))  # type: ignore[arg-type]
    clips = MelDataset(config.preprocess, config.dataset, "valid")
    count = min(len(clips), args.num_samples)
    if not count:
        raise UserError(f"{config.dataset}: no validation clips to evaluate on")
    real = torch.stack([clips[0, index][0] for index in range(count)])
    recon = torch.stack([reconstruct(vae, mel) for mel in tqdm(real, desc="reconstruct", unit="clip")])
    l1, distance = reconstruction.mel_l1(real, recon), reconstruction.log_spectral_distance(real, recon)
    folder = inference.make_folder(args.output_dir)
    facts = inference.describe(
        model=where, clips=count, mel_l1=float(l1.mean()), log_spectral_distance_db=float(distance.mean())
    )
    files.write_json(folder / "report.json", facts)
    pairs = [real[:SHOWN].numpy(), recon[:SHOWN].numpy()]
    spectrogram_grid(folder / "samples.png", pairs, [row.uid for row in clips.rows[:SHOWN]])
    print(f"{count} clips: mel L1 {l1.mean():.3f}, log-spectral distance {distance.mean():.2f} dB")
    print(folder / "report.json")
