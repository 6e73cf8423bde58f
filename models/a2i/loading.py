"""From an exported audio-to-image folder to a pipeline: its encoder, and the Stable Diffusion of its training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from sonolume.models import runtime
from sonolume.models.a2i import stable_diffusion
from sonolume.models.a2i.pipeline import GUIDANCE, AudioToImagePipeline
from sonolume.models.a2i.sound_encoder import LORA, SETTINGS_FILE, SoundEncoder
from sonolume.utils import files, hub
from sonolume.utils.errors import UserError, first_line

LoadEncoder = Callable[[Path, dict[str, Any], torch.device, torch.dtype], SoundEncoder]


def read_settings(source: str, recipe: str) -> tuple[Path, dict[str, Any]]:
    """Locate an exported folder, downloading it if `source` is a hub id, and read its `SETTINGS_FILE`.

    Raises:
        UserError: not an exported folder, damaged, or of another recipe.
    """
    try:
        folder = Path(source) if hub.is_local(source) else Path(snapshot_download(source))
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be downloaded: {first_line(error)}") from error
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise UserError(f"{source}: no {SETTINGS_FILE} in it: not an exported folder of {recipe}{hub.CONVERT}")
    settings = files.read_json(path, f"the settings of {recipe}")
    found = settings.get("recipe")
    if found != recipe or "stable_diffusion" not in settings:
        raise UserError(f"{path}: made by {found or 'no recipe'}, not by {recipe}: choose another --checkpoint")
    return folder, settings


def find_stable_diffusion(flag: str | None, folder: Path, settings: dict[str, Any]) -> tuple[str, str]:
    """Locate Stable Diffusion (a folder or hub id), and return it with the flag or key that names it.

    Raises:
        UserError: there is nothing.
    """
    if flag is None:
        key = f"{folder / SETTINGS_FILE}: stable_diffusion"
        return hub.locate(settings["stable_diffusion"], key, "choose another one with --stable_diffusion"), key
    given, key = Path(flag).expanduser(), "--stable_diffusion"
    return (str(given.resolve()) if given.is_dir() else hub.locate(flag, key)), key


def load(
    source: str,
    recipe: str,
    load_encoder: LoadEncoder,
    device: str = "auto",
    dtype: str = "float32",
    stable_diffusion_flag: str | None = None,
    safety_checker: bool = True,
) -> tuple[AudioToImagePipeline, dict[str, Any]]:
    """Load the pipeline of an exported folder or hub id, and describe its components for sidecars.

    Raises:
        UserError: a component is missing, damaged, or does not fit the others.
    """
    place, kind = runtime.pick_device(device), runtime.DTYPES[dtype]
    if kind == torch.float16 and place.type == "cpu":
        raise UserError("--dtype float16 is for GPUs: on a CPU use bfloat16 or float32")
    folder, settings = read_settings(source, recipe)
    sd_source, key = find_stable_diffusion(stable_diffusion_flag, folder, settings)
    encoder = load_encoder(folder, settings, place, kind)
    sd = stable_diffusion.load(sd_source, key, kind, safety_checker)
    has_lora = (folder / LORA).is_dir()
    if has_lora:
        from sonolume.models import lora

        lora.load(sd, folder / LORA)
    try:
        pipe = AudioToImagePipeline(encoder, sd.to(place))
    except ValueError as error:
        raise UserError(f"{key} {sd_source}: {error}") from error
    pipe.guidance_scale = float(settings.get("guidance_scale", GUIDANCE))
    checked = sd.safety_checker is not None
    return pipe, {"model": source, "stable_diffusion": sd_source, "lora": has_lora, "safety_checker": checked}
