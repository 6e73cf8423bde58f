"""Stable Diffusion from a picture instead of from noise, with few steps and every sampler."""

from typing import Any

from diffusers import StableDiffusionImg2ImgPipeline
from torch import Tensor

from sonolume.modules.sampling import begin


class ImageToImagePipeline(StableDiffusionImg2ImgPipeline):
    """The stock pipeline, but it makes at least one step, rounds their number, and lets PNDM end at clean latents."""

    def get_timesteps(self, num_inference_steps: int, strength: float, device: Any) -> tuple[Tensor, int]:
        first = begin(self.scheduler, num_inference_steps, strength, device)
        timesteps = self.scheduler.timesteps[first:]
        return timesteps, len(timesteps)


def image_to_image(pipe: Any) -> ImageToImagePipeline:
    """Build the pipeline on the networks of a `StableDiffusionPipeline`, without loading anything."""
    components = {name: part for name, part in pipe.components.items() if name != "scheduler"}
    same: Any = ImageToImagePipeline(**components, scheduler=None, requires_safety_checker=False)  # type: ignore[arg-type]
    same.register_modules(scheduler=pipe.scheduler)  # the constructor would change the scheduler's settings
    same.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return same
