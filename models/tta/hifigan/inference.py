"""Sound files -> their mels made sound again by the vocoder: wav, spectrogram and json."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import SpeechT5HifiGan

from sonolume.config.tta.hifigan import Config
from sonolume.models import inference
from sonolume.models.tta.hifigan import model
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.modules.vocoder_chunks import vocode_in_chunks
from sonolume.utils import audio, files, manifest
from sonolume.utils.errors import UserError
from sonolume.utils.spectrogram import spectrogram_grid

SHIPPED = "pretrained/mini/text_to_audio"


def run(config: Config, args: argparse.Namespace) -> None:
    """Resynthesise every sound file, at its whole length, and print the path of each wav."""
    if not args.audio:
        raise UserError("tta/hifigan needs --audio FILE_OR_FOLDER")
    where = inference.find_checkpoint(args.checkpoint, config, SHIPPED)
    vocoder, settings = load(where, config, args.device, inference.DTYPES[args.dtype])
    mel = MelSpectrogram(settings)
    sounds = [path for given in args.audio for path in manifest.find_sounds(given)]
    folder = inference.make_folder(args.output_dir)
    made = 0
    for path in tqdm(sounds, unit="clip", disable=len(sounds) < 2):
        try:
            wave = read_wave(path, settings)
        except UserError as error:  # one bad file among many is reported and passed over
            print(f"left out: {error}", file=sys.stderr)
            continue
        again = resynthesise(vocoder, mel(wave[None]))
        real, found = (mel(sound).numpy() for sound in (wave[None], again))
        result = files.free_path(folder, f"{files.safe_name(path.stem)}_vocoded", ".wav")
        audio.save_wav(result, again[0].numpy(), settings.sample_rate)
        spectrogram_grid(result.with_suffix(".png"), [real, found], [path.name])
        distance = float(np.abs(real - found).mean())
        files.write_json(result.with_suffix(".json"), inference.describe(audio=str(path), model=where, mel_l1=distance))
        print(result)
        made += 1
    if not made:
        raise UserError("not one readable sound was given")


def load(where: str, config: Config, device: str, dtype: torch.dtype) -> tuple[SpeechT5HifiGan, MelSettings]:
    """A vocoder and the mels it takes; what its folder does not say of them is taken from the config."""
    vocoder = model.load(where, "--checkpoint", dtype=dtype)
    facts = asdict(MelSettings.of(config.preprocess)) | model.mel_facts(vocoder, where)
    vocoder.to(inference.pick_device(device))  # type: ignore[arg-type]
    return vocoder, MelSettings(**{name: facts[name] for name in MelSettings.__dataclass_fields__})


def read_wave(path: Path, settings: MelSettings) -> torch.Tensor:
    """(N,) with N a multiple of the hop and long enough for a mel; completed by zeros.

    Raises:
        UserError: not readable as sound, or holding NaN.
    """
    wave = audio.load(path, settings.sample_rate)
    if not np.isfinite(wave).all():
        raise UserError(f"{path}: holds NaN or infinite values")
    least = max(len(wave), settings.padding + 1)
    size = -(-least // settings.hop_size) * settings.hop_size
    return torch.from_numpy(np.pad(wave, (0, size - len(wave))))


@torch.no_grad()
def resynthesise(vocoder: SpeechT5HifiGan, mel: torch.Tensor) -> torch.Tensor:
    """(B, M, T) -> waves (B, T * hop), float32 on the CPU."""
    return vocode_in_chunks(mel.to(vocoder.device), vocoder).cpu()
