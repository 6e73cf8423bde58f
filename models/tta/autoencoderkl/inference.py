"""Sound files -> their reconstructions by the autoencoder: wav, spectrogram and json."""

from dataclasses import asdict

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from sonolume.config.tta.autoencoderkl import Config, InferenceOptions
from sonolume.models import runtime
from sonolume.models.tta import resynthesis
from sonolume.models.tta.autoencoderkl import model
from sonolume.models.tta.features import SILENCE, stored_mel
from sonolume.modules.griffin_lim import mel_to_wave
from sonolume.modules.mel import MelSettings, MelSpectrogram

SHIPPED = "pretrained/mini/text_to_audio"


def run(config: Config, options: InferenceOptions) -> None:
    """Reconstruct the first clip of every sound file, with Griffin-Lim as the vocoder."""
    where = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    vae = model.load(where, "--checkpoint", runtime.DTYPES[options.dtype])
    vae.to(runtime.pick_device(options.device))  # type: ignore[arg-type]
    settings, frames = mel_settings(where, config)
    spectrogram = MelSpectrogram(settings)

    def rebuild(wave: np.ndarray) -> resynthesis.Rebuilt:
        real = first_clip(wave, spectrogram, frames)
        rebuilt = reconstruct(vae, real)
        return real, rebuilt, mel_to_wave(rebuilt[None], settings)[0]

    resynthesis.run(rebuild, options, where, settings, "reconstructed")


def mel_settings(where: str, config: Config) -> tuple[MelSettings, int]:
    """Mel settings and frames of an autoencoder, or those of the config if its folder has none."""
    stored = stored_mel(where) or asdict(MelSettings.of(config.preprocess)) | {"frames": config.preprocess.frames}
    frames = stored.pop("frames")
    return MelSettings(**stored), frames


def first_clip(wave: np.ndarray, spectrogram: MelSpectrogram, frames: int) -> Tensor:
    """Log-mel (M, frames) of the beginning of a wave (n,), padded with silence."""
    settings = spectrogram.settings
    wave = wave[: frames * settings.hop_size]
    wave = np.pad(wave, (0, max(0, settings.padding + 1 - len(wave))))
    mel = spectrogram(torch.from_numpy(wave)[None])[0, :, :frames]
    return F.pad(mel, (0, frames - mel.shape[1]), value=SILENCE)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, mel: Tensor) -> Tensor:
    """Encode a log-mel (M, T) to the mode of its posterior and decode it -> (M, T), float32 on the CPU."""
    x = mel[None, None].to(vae.device, vae.dtype)
    return vae.decode(vae.encode(x).latent_dist.mode()).sample[0, 0].float().cpu()
