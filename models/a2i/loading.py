"""From an exported audio-to-image folder to a pipeline: its encoder, and the Stable Diffusion of its training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers.utils.logging
import torch
import transformers.utils.logging

from sonolume.config.audio_to_image import STABLE_DIFFUSION
from sonolume.config.load import recipes
from sonolume.config.options import TURBO
from sonolume.models import pretrained, runtime
from sonolume.models.a2i import few_steps
from sonolume.models.a2i.pipeline import LORA, SETTINGS_FILE, AudioToImagePipeline
from sonolume.models.a2i.sound_encoder import SoundEncoder
from sonolume.models.recipes import recipe_code
from sonolume.utils import checkpoint, files, paths
from sonolume.utils.errors import UserError, first_line

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

TASKS = ("a2i/", "s2i/")  # whose recipes bring a `SoundEncoder`
CLASSES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")  # the second has the same components
COMPONENTS = {  # component -> files, of which one must exist
    "unet": ("config.json",), "vae": ("config.json",), "text_encoder": ("config.json",),
    "tokenizer": ("tokenizer.json", "vocab.json"), "scheduler": ("scheduler_config.json",),
}  # fmt: skip
WEIGHTS = ("*.safetensors", "*.bin")
TEXT_FILES = ["model_index.json", "tokenizer/*", "text_encoder/*"]  # of a Stable Diffusion on the hub
LEFT_THE_HUB = "stabilityai/stable-diffusion-2"  # beginning of the ids


def load(
    source: str, recipe: str, device: str = "auto", dtype: str = "float32", stable_diffusion: str | None = None,
    safety_checker: bool = True,
) -> tuple[AudioToImagePipeline, dict[str, Any]]:  # fmt: skip
    """Load the pipeline of an exported folder or hub id, and describe its components for sidecars.

    Args:
        recipe: has `encoder.load(folder, settings, device, dtype)`, which returns its `SoundEncoder`.
        stable_diffusion: folder or hub id of --stable_diffusion; by default the one of the training.

    Raises:
        UserError: a component is missing, damaged, or does not fit the others.
    """
    place = runtime.pick_device(device)
    return load_exported(source, recipe, place, runtime.pick_dtype(dtype, place), stable_diffusion, safety_checker)


def load_exported(
    source: str, recipe: str | None, place: torch.device, kind: torch.dtype, stable_diffusion: str | None = None,
    safety_checker: bool = True, key: str = "--checkpoint",
) -> tuple[AudioToImagePipeline, dict[str, Any]]:  # fmt: skip
    """Load a pipeline as `load` does, of any audio-to-image recipe if it is None; `key` is for messages."""
    known = [recipe] if recipe else [name for name in recipes() if name.startswith(TASKS)]
    folder, settings = read_settings(source, known, key)
    sd_source, key = _find_stable_diffusion(folder, settings, stable_diffusion, key)
    encoder: SoundEncoder = recipe_code(settings["recipe"], "encoder").load(folder, settings, place, kind)
    sd = load_stable_diffusion(sd_source, key, kind, safety_checker)
    has_lora = (folder / LORA).is_dir()
    if has_lora:
        from sonolume.models import lora

        lora.load(sd, folder / LORA)
    try:
        pipe = AudioToImagePipeline(encoder, sd.to(place))
    except ValueError as error:
        raise UserError(f"{key} {sd_source}: {error}") from error
    if paths.is_local(sd_source):
        pipe.turbo = few_steps.in_folder(Path(sd_source))
    pipe.prefers_turbo = settings.get("preset") == TURBO
    pipe.guidance_scale = float(settings.get("guidance_scale", pipe.guidance_scale))
    checked = sd.safety_checker is not None
    return pipe, {"model": source, "stable_diffusion": sd_source, "trained_lora": has_lora, "safety_checker": checked}


def load_encoders(source: str, recipe: str, device: str = "auto") -> tuple[AudioToImagePipeline, dict[str, Any]]:
    """Load a pipeline without U-Net and VAE as `load` does: it encodes sounds and texts, and cannot draw."""
    place = runtime.pick_device(device)
    folder, settings = read_settings(source, [recipe], "--checkpoint")
    sd_source, key = _find_stable_diffusion(folder, settings, None, "--checkpoint")
    encoder: SoundEncoder = recipe_code(recipe, "encoder").load(folder, settings, place, torch.float32)
    tokenizer, text_encoder = load_text_encoder(sd_source, key)
    pretrained.use_pil_processors()
    from diffusers import StableDiffusionPipeline

    absent: Any = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    kept: Any = {"text_encoder": text_encoder, "tokenizer": tokenizer, "requires_safety_checker": False}
    sd = StableDiffusionPipeline(**absent, **kept)
    try:
        pipe = AudioToImagePipeline(encoder, sd.to(place))
    except ValueError as error:
        raise UserError(f"{key} {sd_source}: {error}") from error
    return pipe, {"model": source, "stable_diffusion": sd_source}


def _find_stable_diffusion(folder: Path, settings: dict[str, Any], chosen: str | None, key: str) -> tuple[str, str]:
    """Locate the Stable Diffusion of --stable_diffusion, else of the settings; also return its key for messages."""
    if "stable_diffusion" not in settings:
        raise UserError(f"{folder / SETTINGS_FILE}: stable_diffusion missing: choose another {key}")
    if chosen is not None:
        return paths.locate(chosen, "--stable_diffusion", flag=True), "--stable_diffusion"
    key, remedy = f"{folder / SETTINGS_FILE}: stable_diffusion", "choose another one with --stable_diffusion"
    return paths.locate(settings["stable_diffusion"], key, remedy), key


def read_settings(source: str, known: Sequence[str], key: str) -> tuple[Path, dict[str, Any]]:
    """Read the settings of an exported folder as `runtime.read_settings` does.

    A recipe whose published folders have no settings has a function `encoder.published_settings(folder)`, which returns
    them, or None if the folder is of another kind.
    """
    folder = paths.download(source, key)
    if not (folder / SETTINGS_FILE).is_file():
        for recipe in known:
            of_published = getattr(recipe_code(recipe, "encoder"), "published_settings", None)
            if of_published and (settings := of_published(folder)):
                return folder, settings
    return runtime.read_settings(source, SETTINGS_FILE, *known, key=key)


def load_stable_diffusion(
    source: str, key: str, dtype: torch.dtype, safety_checker: bool = True
) -> "StableDiffusionPipeline":
    """Load Stable Diffusion 1.x or 2.x on the CPU.

    Args:
        source: folder or hub id, as `paths.locate` returns it; `key` is its flag or config key, for messages.
        safety_checker: keep the safety checker of the folder, if it has one.

    Raises:
        UserError: a component is missing (the message names it), damaged, or of another kind of model.
    """
    if paths.is_local(source):
        _check_folder(Path(source), key, safety_checker)
    else:
        _check_download(source, key)
    options: dict[str, Any] = {} if safety_checker else {"safety_checker": None, "feature_extractor": None}
    name, logs = f"{key} {source}", (diffusers.utils.logging, transformers.utils.logging)
    levels = [log.get_verbosity() for log in logs]
    pretrained.use_pil_processors()
    for log in logs:  # they warn about an absent safety checker
        log.disable_progress_bar()
        log.set_verbosity_error()
    try:
        from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(source, dtype=dtype, **options)
    except (*checkpoint.DAMAGED, ImportError) as error:
        raise UserError(f"{name}: cannot be loaded: {first_line(error)}") from error
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)
    text, cross = pipe.text_encoder.config.hidden_size, pipe.unet.config.cross_attention_dim
    if text != cross:
        raise UserError(f"{name}: its text encoder has width {text}, its unet needs {cross}: they are of two models")
    latent, needed = pipe.vae.config.latent_channels, pipe.unet.config.in_channels
    if latent != needed:
        raise UserError(f"{name}: its unet takes {needed} channels, a latent has {latent}: is it an inpainting model?")
    return pipe


def load_text_encoder(source: str, key: str) -> tuple[Any, Any]:
    """Load the tokenizer and the text encoder of a Stable Diffusion, and nothing else of it.

    Args:
        source: folder or hub id, as `paths.locate` returns it; `key` is its flag or config key, for messages.

    Raises:
        UserError: no Stable Diffusion, or its text encoder is missing or damaged.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    _check_download(source, key)
    folder, name = paths.download(source, key, TEXT_FILES), f"{key} {source}"
    for part in ("text_encoder", "tokenizer"):
        needed = COMPONENTS[part]
        if not any((folder / part / file).is_file() for file in needed):
            raise UserError(f"{name}: its {part} is missing (no {part}/{needed[0]}): copy or download it again")
    text_encoder = pretrained.load_model(CLIPTextModel, str(folder / "text_encoder"), f"{name}: its text encoder")
    return pretrained.load_processor(CLIPTokenizer, str(folder / "tokenizer"), name), text_encoder


def _check_download(source: str, key: str) -> None:
    """Check the kind of a folder or hub id; for the repositories that left the hub, the error names the mirror."""
    try:
        checkpoint.check_download(source, key, *CLASSES)
    except UserError as error:
        if source.startswith(LEFT_THE_HUB):
            raise UserError(f"{error}; it left the hub, its mirror is {STABLE_DIFFUSION[1024]}") from error
        raise


def _check_folder(folder: Path, key: str, safety_checker: bool) -> None:
    """Check that a folder holds all components of Stable Diffusion, so that a missing one is named."""
    checkpoint.check_folder(folder, *CLASSES)
    name, again = f"{key} {folder}", "copy or download it again"
    for part, needed in COMPONENTS.items():
        if not any((folder / part / file).is_file() for file in needed):
            raise UserError(f"{name}: its {part} is missing (no {part}/{needed[0]}): {again}")
        if needed == ("config.json",) and not any(next((folder / part).glob(pattern), None) for pattern in WEIGHTS):
            raise UserError(f"{name}: its {part} has no weights ({part}/{WEIGHTS[0]}): {again}")
    index = files.read_json(folder / "model_index.json", "the index of a Stable Diffusion pipeline")
    listed = (index.get("safety_checker") or [None])[0] is not None
    if safety_checker and listed and not (folder / "safety_checker" / "config.json").is_file():
        raise UserError(f"{name}: its safety_checker is missing: download it, or --no_safety_checker")
