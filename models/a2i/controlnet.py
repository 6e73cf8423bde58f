"""ControlNet for the U-Net of Stable Diffusion: a second picture, such as edges or a sketch, decides the layout."""

from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

from sonolume.utils import paths
from sonolume.utils.checkpoint import load_network


def load_controlnet(source: str, key: str = "--controlnet", dtype: torch.dtype = torch.float32) -> ControlNetModel:
    """Load a frozen ControlNet from a folder or hub id; `key` is its flag, for messages.

    Raises:
        UserError: missing, damaged or another model.
    """
    place = paths.locate(source, key, "a folder or a hub id of a ControlNet for Stable Diffusion 1.x or 2.x", flag=True)
    return load_network(ControlNetModel, place, key, dtype=dtype)


def controlled(pipe: Any, controlnet: ControlNetModel) -> StableDiffusionControlNetPipeline:
    """Build diffusers' pipeline on the networks of a `StableDiffusionPipeline`, without loading anything."""
    components = {name: part for name, part in pipe.components.items() if name != "scheduler"}
    same: Any = StableDiffusionControlNetPipeline(
        **components, controlnet=controlnet, scheduler=None, requires_safety_checker=False,  # type: ignore[arg-type]
    )  # fmt: skip
    same.register_modules(scheduler=pipe.scheduler)  # the constructor would change the scheduler's settings
    same.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return same
