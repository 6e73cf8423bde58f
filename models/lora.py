"""LoRA of the U-Net (Hu et al. 2021): small trained matrices next to frozen weights, saved in a file of their own.

Training needs peft; using a file (`modules/lora.py`) does not.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sonolume.config.base import LoraConfig
from sonolume.modules import lora, lora_formats
from sonolume.modules.lora import FILE, PREFIX, SETTINGS
from sonolume.utils import cache, files
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.paths import download, is_local, locate_weights
from sonolume.utils.text import message

LAYERS = {  # ends of the names of diffusers' layers
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "feedforward": ["ff.net.0.proj", "ff.net.2"],
    "convolution": ["conv1", "conv2", "conv_shortcut"],
    "projection": ["proj_in", "proj_out", "conv_in", "conv_out", "conv"],
    "time": ["time_emb_proj", "linear_1", "linear_2"],
}


def add(unet: UNet2DConditionModel, config: LoraConfig) -> nn.ModuleDict:
    """Freeze `unet`, insert adapters that change nothing yet, and return them (with shared weights).

    Raises:
        UserError: the U-Net has no layer of `config.targets`.
    """
    import peft  # an extra

    wanted = [name for target in config.targets for name in LAYERS[str(target)]]
    unet.requires_grad_(False)
    try:
        unet.add_adapter(peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=wanted))  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"model.lora.targets: {first_line(error)}") from error
    adapters, layers = nn.ModuleDict(), [(name, one) for name, one in unet.named_modules() if hasattr(one, "lora_A")]
    for name, layer in layers:
        adapters[name.replace(".", "/")] = nn.ModuleDict({"lora_A": layer.lora_A, "lora_B": layer.lora_B})
    return adapters


def save(
    unet: UNet2DConditionModel, path: Path, config: LoraConfig, base: str, dtype: torch.dtype = torch.float32,
    **facts: str,
) -> None:  # fmt: skip
    """Write the adapters of `unet`, whole or not at all; the file's header has `base`, which was trained, and `facts`.
    """
    from peft.utils import get_peft_model_state_dict

    found = get_peft_model_state_dict(unet)
    weights = {name: weight.to("cpu", dtype).contiguous() for name, weight in found.items()}
    targets = sorted({name.rpartition(".lora_")[0] for name in weights})
    settings = {"r": config.rank, "lora_alpha": config.alpha, "target_modules": targets}
    header = {
        "format": "pt", "rank": str(config.rank), "alpha": str(config.alpha), "base_model": base,
        "sonolume_version": importlib.metadata.version("sonolume"),
        SETTINGS: json.dumps({PREFIX + name: value for name, value in settings.items()}), **facts,
    }  # fmt: skip
    with files.atomic_path(path) as unfinished:
        save_file({PREFIX + name: weight for name, weight in weights.items()}, unfinished, header)


def restore(unet: UNet2DConditionModel, path: Path) -> None:
    """Give the adapters of `unet` the weights that `save` wrote for the same layers and rank; `path` as for `load`."""
    from peft.utils import set_peft_model_state_dict

    path = _file_in(path)
    weights = {name.removeprefix(PREFIX): weight for name, weight in load_file(path).items()}
    found = set_peft_model_state_dict(unet, weights)
    if found.unexpected_keys:
        raise UserError(f"{path}: {found.unexpected_keys[0]}: of another network, or of other model.lora.targets")


def base_hash(unet: UNet2DConditionModel) -> str:
    """Content hash of the frozen weights that the adapters were trained with."""
    return cache.content_hash(*(weight for name, weight in unet.named_parameters() if ".lora_" not in name))


def find(source: str, key: str) -> Path:
    """Locate the file or folder of a LoRA for `load`; of a hub id, `FILE` is downloaded.

    Args:
        source: file, folder or hub id, relative to the working directory; `key` is its flag, for messages.

    Raises:
        UserError: no such file or folder, or the hub has or sends nothing of this name.
    """
    located = locate_weights(source, key)
    if is_local(located):
        return Path(located)
    folder = download(located, key, FILE)
    if not (folder / FILE).is_file():
        raise UserError(f"{key} {source}: the hub has no {FILE} there: download the file that you need, and name it")
    return folder


def load(pipe: Any, path: Path, scale: float = 1.0) -> dict[str, str]:
    """Merge a LoRA file into the U-Net of a pipeline; the merged weights are saved by `save_pretrained`.

    Args:
        path: a safetensors file, also of another tool (modules/lora_formats.py), a folder that holds `FILE`, or the
            folder of a run of `run_finetune.sh`.
        scale: see `modules.lora.merge`.

    Returns:
        The header of the file.

    Raises:
        UserError: as its ValueError.
    """
    path = _file_in(path)
    try:
        return lora.merge(pipe.unet, path, scale, _to_peft)
    except ValueError as error:
        raise UserError(str(error)) from error


def _file_in(path: Path) -> Path:
    """Find the file in the folder of a LoRA or of a run; a file stays as it is."""
    return next((one for one in (path / FILE, path / "lora" / FILE) if one.is_file()), path)


def _to_peft(weights: dict[str, Tensor], layers: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """As `lora_formats.to_peft`; notes on stderr what is left out."""
    found = lora_formats.to_peft(weights, layers)
    if left_out := len(weights) - len(found[0]) - len(found[1]):
        message(f"{left_out} weights of the LoRA are left out: those of the text encoder")
    return found


def pair_up(weights: dict[str, Tensor], path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """As `modules.lora.pair_up`; raises a UserError."""
    try:
        return lora.pair_up(weights, path)
    except ValueError as error:
        raise UserError(str(error)) from error
