"""Shipping a trained part: the same folder with its weights in half precision."""

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sonolume.utils.files import atomic_folder


def ship(source: Path, target: Path) -> Path:
    """Copy a model folder, float tensors of every safetensors file as float16; returns `target`."""
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for path in folder.rglob("*.safetensors"):
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            tensors = {name: _half(tensor) for name, tensor in load_file(path).items()}
            save_file(tensors, path, metadata=metadata)
    return target


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor
