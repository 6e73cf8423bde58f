"""Inputs and weights of Im2Wav's golden files, made from names so that they need not be stored."""

import json
import runpy
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent
COMMON = runpy.run_path(str(FOLDER.parent / "inputs.py"))
input_for, value_for, assert_close = COMMON["input_for"], COMMON["value_for"], COMMON["assert_close"]

SCALES = {"l1": 0.1, "l2": 0.02, "spectral": 40.0}  # of the losses


def golden(name: str) -> dict[str, Tensor]:
    """The arrays of {name}.npz; tokens as int64, arrays of names left out."""
    arrays = np.load(FOLDER / f"{name}.npz")
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items() if array.dtype.kind != "U"}
    return {key: tensor.long() if tensor.dtype == torch.int16 else tensor for key, tensor in tensors.items()}


def norms(name: str, names: str, values: str) -> dict[str, float]:
    """Two parallel arrays of {name}.npz, such as names of weights and the norms of their gradients."""
    arrays = np.load(FOLDER / f"{name}.npz")
    return dict(zip(arrays[names].tolist(), arrays[values].tolist(), strict=True))


def hyperparameters(model: str) -> dict[str, Any]:
    """The official hyperparameters of "real.vqvae", "small.low" ..."""
    return json.loads((FOLDER / "hps.json").read_text())[model]


def shapes(model: str) -> dict[str, list[int]]:
    """The official names of weights -> shapes of "real.vqvae", "small.low" ..."""
    return json.loads((FOLDER / "keys.json").read_text())[model]


def weights_for(model: str) -> dict[str, Tensor]:
    """The official state dict of "small.vqvae", "small.low" or "small.up"."""
    tied = {"prior.x_out.weight": "prior.x_emb.weight"}
    return {name: value_for(f"{model}.{tied.get(name, name)}", tuple(shape)) for name, shape in shapes(model).items()}


def waves(name: str, count: int, length: int) -> Tensor:
    """(count, length)."""
    return input_for(name, (count, length, 1), 0.3)[..., 0]


def loss_pair() -> tuple[Tensor, Tensor]:
    """Target and output of losses.npz, (2, 16384) each."""
    target = waves("im2wav.loss.target", 2, 16384)
    return target, 0.7 * target + 0.3 * waves("im2wav.loss.output", 2, 16384)


def scale_clips() -> list[Tensor]:
    """The clips (2, 65536) behind bandwidth_* of losses.npz."""
    return [input_for(f"im2wav.bandwidth{i}", (65536, 2), 0.2).T for i in (0, 16, 32)]


def permutation(count: int) -> Tensor:
    """The stand-in for every random permutation of the codebook."""
    return torch.from_numpy(np.random.default_rng(zlib.crc32(f"perm:{count}".encode())).permutation(count))


def draw_rows(rows: Tensor, count: int) -> Tensor:
    return rows[permutation(len(rows))][:count]


def unit_vectors(name: str, shape: tuple[int, ...]) -> Tensor:
    """Stand-ins for CLIP vectors, of length 1."""
    x = input_for(name, shape)
    return x / x.norm(dim=-1, keepdim=True)


def tokens_for(name: str, shape: tuple[int, ...]) -> Tensor:
    """Tokens below 64."""
    return torch.from_numpy(np.random.default_rng(zlib.crc32(f"tokens:{name}".encode())).integers(0, 64, shape))


def video() -> tuple[Tensor, Tensor]:
    """Frames (2, 16, 512) and times (2, 3) of the reduced Low prior."""
    return unit_vectors("im2wav.small.video", (2, 16, 512)), torch.tensor([[160000.0, 4096.0, 8192.0]] * 2)


def picture() -> tuple[Tensor, Tensor]:
    """One frame (1, 1, 512) and times (1, 3)."""
    return unit_vectors("im2wav.small.image", (1, 1, 512)), torch.tensor([[160000.0, 0.0, 8192.0]])


def low_tokens() -> Tensor:
    """(2, 256)."""
    return tokens_for("im2wav.small.low", (2, 256))


def up_tokens(count: int = 1) -> Tensor:
    """(count, 1024)."""
    return tokens_for("im2wav.small.up", (count, 1024))
