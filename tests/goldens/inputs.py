"""Inputs and weights of the golden files, made from names so that they need not be stored."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

AMPHION = Path(__file__).parent / "amphion_tta"  # outputs of the official text-to-audio code
AUDIOTOKEN = Path(__file__).parent / "audiotoken"  # outputs of the official audio-to-image code
AUDIO2IMG = Path(__file__).parent / "audio2img"  # the formulas and settings that audio2img's training notebook prints
SPEECH2IMG = Path(__file__).parent / "speech2img"  # outputs of SpeechCLIP's official code


def input_for(name: str, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """float32 standard-normal values times `scale`, from a generator seeded by `name`."""
    generator = np.random.default_rng(zlib.crc32(f"input:{name}".encode()))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32) * scale)


def mel_signal(length: int, sample_rate: int = 16000) -> Tensor:
    """(length,) float32: a 440 Hz tone, a chirp from 100 Hz that reaches 7 kHz after 10 s, and noise."""
    seconds = np.arange(length) / sample_rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * seconds)
    chirp = 0.2 * np.sin(2 * np.pi * (100 + 345 * seconds) * seconds)
    noise = 0.05 * input_for("mel.noise", (length,)).numpy().astype(np.float64)
    return torch.from_numpy((tone + chirp + noise).astype(np.float32))


def log_mel_like(name: str, shape: tuple[int, ...]) -> Tensor:
    """Values in the range of a log-mel spectrogram."""
    return input_for(name, shape, 2.0) - 4.0


def value_for(name: str, shape: tuple[int, ...]) -> Tensor:
    """float32 value of the weight or buffer with this official name."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    kind = name.split(".")[-1]
    if kind == "running_var" or (kind == "weight_g" and len(shape) > 1):
        values = np.abs(values) * 0.2 + 0.8
    elif kind == "running_mean" or len(shape) <= 1:
        is_gain = kind in ("weight", "weight_g", "gamma")
        values = values * 0.1 + (1.0 if is_gain else 0.0)
    else:
        values = values / np.sqrt(int(np.prod(shape[1:])))  # divided in float64, rounded once
    return torch.from_numpy(np.asarray(values, np.float32).reshape(shape))


def weights_for(table: str, same_as: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The state dict {official name: value} of a table of names and shapes, amphion_tta/keys_{table}.json.

    Args:
        same_as: tied tensors, by the name whose value they take.
    """
    shapes: dict[str, list[int]] = json.loads((AMPHION / f"keys_{table}.json").read_text())
    other = same_as or {}
    counters = [name for name in shapes if name.endswith("num_batches_tracked")]
    weights = {name: value_for(other.get(name, name), tuple(shape)) for name, shape in shapes.items()}
    return weights | {name: torch.zeros((), dtype=torch.long) for name in counters}


def golden(name: str, folder: Path = AMPHION) -> Any:
    """The arrays of {folder}/{name}.npz, or the content of its .json."""
    if (folder / f"{name}.json").exists():
        return json.loads((folder / f"{name}.json").read_text())
    return {key: torch.from_numpy(array) for key, array in np.load(folder / f"{name}.npz").items()}


def assert_close(got: Tensor, wanted: Tensor, atol: float) -> None:
    """Equal to an absolute tolerance, and of the same shape."""
    torch.testing.assert_close(got, wanted, rtol=0.0, atol=atol)


def _chirp(length: int, span: float) -> np.ndarray:
    """(length,) float64 at 16 kHz: a chirp of amplitude 0.5 that rises from 50 Hz to 7 kHz within `span` seconds."""
    seconds = np.arange(length, dtype=np.float64) / 16000
    return 0.5 * np.sin(2 * np.pi * (50 * seconds + 0.5 * (7000 - 50) / span * seconds * seconds))


def audiotoken_waves() -> Tensor:
    """(2, 16000): noise, and a chirp that stops after 12000 samples."""
    chirp = _chirp(16000, 1.0)
    chirp[12000:] = 0
    return torch.stack([input_for("audiotoken.wave", (16000,), 0.1), torch.from_numpy(chirp.astype(np.float32))])


def audiotoken_wave10() -> Tensor:
    """(1, 160000): ten seconds of noise."""
    return input_for("audiotoken.wave10", (1, 160000), 0.1)


def audiotoken_padding_mask() -> Tensor:
    """(2, 16000) bool, True is padding: the second sound ends after 9000 samples."""
    mask = torch.zeros(2, 16000, dtype=torch.bool)
    mask[1, 9000:] = True
    return mask


def audio2img_waves() -> dict[str, np.ndarray]:
    """The clips of audio2img/frontend.npz by name, (n,) float32 at 16 kHz."""
    length = 60320
    return {
        "noise_1s": input_for("audio2img.wave1", (16000,), 0.1).numpy(),
        "chirp_3.77s": _chirp(length, (length - 1) / 16000).astype(np.float32),
        "noise_10s": input_for("audio2img.wave2", (160000,), 0.1).numpy(),
        "silence_0.5s": np.zeros(8000, np.float32),
    }


def beats_checkpoint(size: str) -> dict[str, Any]:
    """A checkpoint {"cfg", "model"} with the official names, of audiotoken/keys_beats_{size}.json: "small" or "full".

    The table of relative places is one tensor, listed in every layer.
    """
    table = json.loads((AUDIOTOKEN / f"keys_beats_{size}.json").read_text())
    tail = ".self_attn.relative_attention_bias.weight"
    shared = {name: "encoder.layers.0" + tail for name in table["keys"] if name.endswith(tail)}
    weights = {name: value_for(shared.get(name, name), tuple(shape)) for name, shape in table["keys"].items()}
    return {"cfg": table["config"], "model": weights}
