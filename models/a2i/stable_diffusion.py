"""A Stable Diffusion 1.x or 2.x pipeline from a folder or the hub: checked, quiet, and with a sampler of our choice."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers.utils.logging
from diffusers.utils import logging
from torch import Tensor

from sonolume.modules import schedulers
from sonolume.modules.inpainting import begin
from sonolume.utils import checkpoint, hub
from sonolume.utils.errors import UserError, first_line

_loud = transformers.utils.logging.get_verbosity()
transformers.utils.logging.set_verbosity_error()  # it would say for every class of pictures that torchvision is absent
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline  # noqa: E402

transformers.utils.logging.set_verbosity(_loud)

KINDS = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")  # the second has the same parts
PARTS = {  # part -> files of which one must be there
    "unet": ("config.json",), "vae": ("config.json",), "text_encoder": ("config.json",),
    "tokenizer": ("tokenizer.json", "vocab.json"), "scheduler": ("scheduler_config.json",),
}  # fmt: skip
WEIGHTS = ("*.safetensors", "*.bin")
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
REFERENCE_STEPS = 50  # of PNDM, as Stable Diffusion 1 was published


def load(source: str, key: str, dtype: torch.dtype, safety_checker: bool = True) -> StableDiffusionPipeline:
    """A pipeline on the CPU, from a folder or a hub id.

    Args:
        source: as `hub.locate` gives it. key: the flag or config key that it came from, for messages.
        safety_checker: keep the one of the folder, if it has one.

    Raises:
        UserError: a part is missing (which is named), damaged, or of another kind of model.
    """
    if hub.is_local(source):
        _check_folder(Path(source), key, safety_checker)
    logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {} if safety_checker else {"safety_checker": None, "feature_extractor": None}
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # a folder without a safety checker is no news
    try:
        pipe = StableDiffusionPipeline.from_pretrained(source, dtype=dtype, **options)
    except (*checkpoint.DAMAGED, ImportError) as error:
        raise UserError(f"{key} {source}: cannot be loaded: {first_line(error)}") from error
    finally:
        logging.set_verbosity(before)
    _check_sizes(pipe, f"{key} {source}")
    return pipe


def _check_folder(folder: Path, key: str, safety_checker: bool) -> None:
    checkpoint.check_folder(folder, *KINDS)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    for part, files in PARTS.items():
        place = folder / part
        if not any((place / name).is_file() for name in files):
            raise UserError(f"{key} {folder}: its {part} is missing (no {part}/{files[0]}): copy or download it again")
        wants_weights = files == ("config.json",)
        if wants_weights and not any(next(place.glob(pattern), None) for pattern in WEIGHTS):
            wanted = f"{part}/*.safetensors"
            raise UserError(f"{key} {folder}: its {part} has no weights ({wanted}): copy or download it again")
    listed = (index.get("safety_checker") or [None])[0] is not None
    if safety_checker and listed and not (folder / "safety_checker" / "config.json").is_file():
        raise UserError(f"{key} {folder}: its safety_checker is missing: download it, or --no_safety_checker")


def _check_sizes(pipe: StableDiffusionPipeline, name: str) -> None:
    """Parts that belong together."""
    text, cross = pipe.text_encoder.config.hidden_size, pipe.unet.config.cross_attention_dim
    if text != cross:
        raise UserError(f"{name}: its text encoder is {text} wide, but its unet takes {cross}: parts of two models")
    latent, taken = pipe.vae.config.latent_channels, pipe.unet.config.in_channels
    if latent != taken:
        raise UserError(f"{name}: its unet takes {taken} channels, not the {latent} of a latent: for inpainting?")


def use_preset(pipe: Any, name: str) -> int:
    """Switch the sampler to a preset's and return its number of steps.

    "reference" is the published PNDM with 50 steps; the others are those of `modules/schedulers.py`.

    Raises:
        ValueError: no such preset.
    """
    objective, noise = schedulers.objective_of(pipe.scheduler), _noise(pipe)
    if name == "reference":
        kind, settings, _ = schedulers.PRESETS["epsilon"]["reference"]
        pipe.scheduler = schedulers.make_scheduler(kind, settings, objective, noise)
        return REFERENCE_STEPS
    if name not in ("balanced", "fast"):
        raise ValueError(f"no preset {name!r}: reference, balanced, fast")
    pipe.scheduler, steps = schedulers.preset(name, objective, noise)
    return steps


def use_scheduler(pipe: Any, name: str) -> None:
    """Switch the sampler by its short name.

    Raises:
        ValueError: no such sampler for this network's objective.
    """
    pipe.scheduler = schedulers.scheduler(name, schedulers.objective_of(pipe.scheduler), _noise(pipe))


def _noise(pipe: Any) -> dict[str, Any]:
    """The noise schedule that the network was trained on; latents are never clipped, though DDIM's default is to."""
    config = pipe.scheduler.config
    return {name: config[name] for name in NOISE if config.get(name) is not None} | {"clip_sample": False}


class FromPicture(StableDiffusionImg2ImgPipeline):
    """The stock pipeline, but it makes at least one step, rounds their number, and PNDM ends at the clean picture."""

    def get_timesteps(self, num_inference_steps: int, strength: float, device: Any) -> tuple[Tensor, int]:
        first = begin(self.scheduler, num_inference_steps, strength, device)
        timesteps = self.scheduler.timesteps[first:]
        return timesteps, len(timesteps)

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline) -> "FromPicture":
        """On the same networks; nothing is loaded."""
        others = {name: part for name, part in pipe.components.items() if name != "scheduler"}
        same = cls(**others, scheduler=None, requires_safety_checker=False)  # type: ignore[arg-type]
        same.register_modules(scheduler=pipe.scheduler)  # given at once, the constructor would change its settings
        same._progress_bar_config = getattr(pipe, "_progress_bar_config", {})  # type: ignore[assignment]
        return same
