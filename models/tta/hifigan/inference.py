"""Sound files -> their resynthesis from mels by the vocoder: wav, spectrogram and json."""

import math
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from transformers import SpeechT5HifiGan

from sonolume.config.tta.hifigan import Config, InferenceOptions
from sonolume.models import runtime
from sonolume.models.tta import resynthesis
from sonolume.models.tta.hifigan import model
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.modules.windows import vocode_in_chunks

SHIPPED = "pretrained/mini/text_to_audio"


def run(config: Config, options: InferenceOptions) -> None:
    """Resynthesise every sound file in full length."""
    where = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    vocoder, settings = load(where, config, options.device, runtime.DTYPES[options.dtype])
    spectrogram = MelSpectrogram(settings)

    def rebuild(wave: np.ndarray) -> resynthesis.Rebuilt:
        frames = math.ceil(max(len(wave), settings.padding + 1) / settings.hop_size)  # enough for a mel
        real = spectrogram(torch.from_numpy(np.pad(wave, (0, frames * settings.hop_size - len(wave))))[None])
        result = resynthesise(vocoder, real)
        return real[0], spectrogram(result)[0], result[0]

    resynthesis.run(rebuild, options, where, settings, "vocoded")


def load(where: str, config: Config, device: str, dtype: torch.dtype) -> tuple[SpeechT5HifiGan, MelSettings]:
    """Load a vocoder and its mel settings; those that its folder does not store are the config's."""
    vocoder = model.load(where, "--checkpoint", dtype=dtype)
    facts = asdict(MelSettings.of(config.preprocess)) | model.mel_facts(vocoder, where)
    vocoder.to(runtime.pick_device(device))  # type: ignore[arg-type]
    return vocoder, MelSettings(**{name: facts[name] for name in MelSettings.__dataclass_fields__})


@torch.no_grad()
def resynthesise(vocoder: SpeechT5HifiGan, mel: Tensor) -> Tensor:
    """ln mel (B, M, T) -> waves (B, T * hop), float32 on the CPU."""
    return vocode_in_chunks(mel.to(vocoder.device), vocoder).cpu()
