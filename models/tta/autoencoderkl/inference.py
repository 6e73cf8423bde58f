"""Sound files -> their reconstructions by the autoencoder: wav, spectrogram and json."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from sonolume.config.tta.autoencoderkl import Config
from sonolume.models import inference
from sonolume.models.tta.autoencoderkl import model
from sonolume.models.tta.features import SILENCE
from sonolume.modules.griffin_lim import mel_to_wave
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils import audio, files, hub, manifest
from sonolume.utils.errors import UserError
from sonolume.utils.spectrogram import spectrogram_grid

SHIPPED = "pretrained/mini/text_to_audio"


def run(config: Config, args: argparse.Namespace) -> None:
    """Reconstruct every sound file (its first clip) and print the path of each wav."""
    if not args.audio:
        raise UserError("tta/autoencoderkl needs --audio FILE_OR_FOLDER")
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    vae = model.load(where, "--checkpoint", inference.DTYPES[args.dtype])
    vae.to(inference.pick_device(args.device))  # type: ignore[arg-type]
    settings, frames = mel_settings(where, config)
    mel = MelSpectrogram(settings)
    sounds = [path for given in args.audio for path in manifest.find_sounds(given)]
    folder = inference.make_folder(args.output_dir)
    made = 0
    for path in tqdm(sounds, unit="clip", disable=len(sounds) < 2):
        try:
            real = read_mel(path, mel, frames)
        except UserError as error:  # one bad file among many is reported and passed over
            print(f"left out: {error}", file=sys.stderr)
            continue
        recon = reconstruct(vae, real)
        distance = float((real - recon).abs().mean())
        result = files.free_path(folder, f"{files.safe_name(path.stem)}_reconstructed", ".wav")
        level = inference.save_sound(result, mel_to_wave(recon[None], settings)[0].numpy(), settings.sample_rate)
        spectrogram_grid(result.with_suffix(".png"), [real[None].numpy(), recon[None].numpy()], [path.name])
        facts = inference.describe(audio=str(path), model=where, mel_l1=distance, **level)
        files.write_json(result.with_suffix(".json"), facts)
        print(result)
        made += 1
    if not made:
        raise UserError("not one readable sound was given")


def mel_settings(where: str, config: Config) -> tuple[MelSettings, int]:
    """The mel settings and frames the autoencoder was trained with, or the config's if its folder does not say."""
    folder = Path(where)
    for name, key in ((model.MEL_FILE, None), ("model_index.json", "mel")):
        if hub.is_local(where) and (folder / name).is_file():
            stored: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            fields = stored[key] if key else {name: value for name, value in stored.items() if name != "frames"}
            return MelSettings(**fields), stored["frames"]
    return MelSettings.of(config.preprocess), config.preprocess.frames


def read_mel(path: Path, mel: MelSpectrogram, frames: int) -> torch.Tensor:
    """The first clip of a sound file as log-mel (M, frames), padded with silence."""
    settings = mel.settings
    wave = audio.load(path, settings.sample_rate)[: frames * settings.hop_size]
    wave = np.pad(wave, (0, max(0, settings.padding + 1 - len(wave))))
    found = mel(torch.from_numpy(wave)[None])[0, :, :frames]
    return torch.nn.functional.pad(found, (0, frames - found.shape[1]), value=SILENCE)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, mel: torch.Tensor) -> torch.Tensor:
    """(M, T) -> (M, T) float32 on the CPU, through the mode of the posterior."""
    x = mel[None, None].to(vae.device, vae.dtype)
    return vae.decode(vae.encode(x).latent_dist.mode()).sample[0, 0].float().cpu()
