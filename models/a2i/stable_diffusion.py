"""Stable Diffusion 1.x or 2.x from a folder or the hub: loaded, checked, and with a sampler by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers.utils.logging
import torch
import transformers.utils.logging

from sonolume.modules import schedulers
from sonolume.utils import checkpoint, files, hub
from sonolume.utils.errors import UserError, first_line

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

CLASSES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")  # the second has the same components
COMPONENTS = {  # component -> files, of which one must exist
    "unet": ("config.json",), "vae": ("config.json",), "text_encoder": ("config.json",),
    "tokenizer": ("tokenizer.json", "vocab.json"), "scheduler": ("scheduler_config.json",),
}  # fmt: skip
WEIGHTS = ("*.safetensors", "*.bin")
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
REFERENCE_STEPS = 50  # of PNDM, as Stable Diffusion 1 was published


def load(source: str, key: str, dtype: torch.dtype, safety_checker: bool = True) -> "StableDiffusionPipeline":
    """Load a pipeline on the CPU, from a folder or a hub id.

    Args:
        source: folder or hub id, as `hub.locate` returns it.
        key: flag or config key of the source, for messages.
        safety_checker: keep the safety checker of the folder, if it has one.

    Raises:
        UserError: a component is missing (the message names it), damaged, or of another kind of model.
    """
    if hub.is_local(source):
        _check_folder(Path(source), key, safety_checker)
    options: dict[str, Any] = {} if safety_checker else {"safety_checker": None, "feature_extractor": None}
    with quiet_libraries():
        from diffusers import StableDiffusionPipeline

        try:
            pipe = StableDiffusionPipeline.from_pretrained(source, dtype=dtype, **options)
        except (*checkpoint.DAMAGED, ImportError) as error:
            raise UserError(f"{key} {source}: cannot be loaded: {first_line(error)}") from error
    _check_sizes(pipe, f"{key} {source}")
    return pipe


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress the log and the progress bars of diffusers and transformers.

    They would warn about an absent torchvision, for each of the image processors, and about an absent safety checker.
    """
    libraries = diffusers.utils.logging, transformers.utils.logging
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)


def _check_folder(folder: Path, key: str, safety_checker: bool) -> None:
    checkpoint.check_folder(folder, *CLASSES)
    index = files.read_json(folder / "model_index.json", "the index of a Stable Diffusion pipeline")
    for name, needed in COMPONENTS.items():
        place = folder / name
        if not any((place / file).is_file() for file in needed):
            raise UserError(f"{key} {folder}: its {name} is missing (no {name}/{needed[0]}): copy or download it again")
        has_weights = needed == ("config.json",)
        if has_weights and not any(next(place.glob(pattern), None) for pattern in WEIGHTS):
            wanted = f"{name}/*.safetensors"
            raise UserError(f"{key} {folder}: its {name} has no weights ({wanted}): copy or download it again")
    listed = (index.get("safety_checker") or [None])[0] is not None
    if safety_checker and listed and not (folder / "safety_checker" / "config.json").is_file():
        raise UserError(f"{key} {folder}: its safety_checker is missing: download it, or --no_safety_checker")


def _check_sizes(pipe: "StableDiffusionPipeline", name: str) -> None:
    """Check that the components fit each other."""
    text, cross = pipe.text_encoder.config.hidden_size, pipe.unet.config.cross_attention_dim
    if text != cross:
        raise UserError(f"{name}: its text encoder has width {text}, its unet needs {cross}: they are of two models")
    latent, needed = pipe.vae.config.latent_channels, pipe.unet.config.in_channels
    if latent != needed:
        raise UserError(f"{name}: its unet takes {needed} channels, a latent has {latent}: is it an inpainting model?")


def use_preset(pipe: Any, name: str) -> int:
    """Replace the sampler by that of a preset, and return its number of steps.

    "reference" is the published PNDM with 50 steps; the others are those of `modules/schedulers.py`.

    Raises:
        ValueError: no such preset.
    """
    objective, noise = schedulers.objective_of(pipe.scheduler), _noise_schedule(pipe)
    if name == "reference":
        kind, settings, _ = schedulers.PRESETS["epsilon"]["reference"]
        pipe.scheduler = schedulers.make_scheduler(kind, settings, objective, noise)
        return REFERENCE_STEPS
    if name not in ("balanced", "fast"):
        raise ValueError(f"no preset {name!r}: reference, balanced, fast")
    pipe.scheduler, steps = schedulers.preset(name, objective, noise)
    return steps


def use_scheduler(pipe: Any, name: str) -> None:
    """Replace the sampler by its short name.

    Raises:
        ValueError: no such sampler for this network's objective.
    """
    pipe.scheduler = schedulers.scheduler(name, schedulers.objective_of(pipe.scheduler), _noise_schedule(pipe))


def _noise_schedule(pipe: Any) -> dict[str, Any]:
    """The noise schedule of training; latents are never clipped, although DDIM's default is to clip."""
    config = pipe.scheduler.config
    return {name: config[name] for name in NOISE if config.get(name) is not None} | {"clip_sample": False}
