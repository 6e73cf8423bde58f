"""An exported audio-to-image folder -> a pipeline: its encoder, and the Stable Diffusion it was trained with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from sonolume.models import inference, lora
from sonolume.models.a2i import stable_diffusion
from sonolume.models.a2i.pipeline import GUIDANCE, AudioToImagePipeline
from sonolume.models.a2i.sound_encoder import SoundEncoder
from sonolume.utils import hub
from sonolume.utils.errors import UserError, first_line

SETTINGS_FILE = "audio_to_image.json"  # recipe, stable_diffusion, and what the recipe's encoder needs
LORA = "lora"  # adapters of the U-Net, if they were trained

LoadEncoder = Callable[[Path, dict[str, Any], torch.device, torch.dtype], SoundEncoder]


def read_settings(where: str, recipe: str) -> tuple[Path, dict[str, Any]]:
    """The exported folder (fetched, if `where` is a hub id) and the content of its `SETTINGS_FILE`.

    Raises:
        UserError: not such a folder, damaged, or of another recipe.
    """
    try:
        folder = Path(where) if hub.is_local(where) else Path(snapshot_download(where))
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be fetched: {first_line(error)}") from error
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise UserError(f"{where}: no {SETTINGS_FILE} in it: not an exported folder of {recipe}{hub.CONVERT}")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: broken JSON ({error})") from error
    found = settings.get("recipe") if isinstance(settings, dict) else None
    if found != recipe or "stable_diffusion" not in settings:
        raise UserError(f"{path}: of {found or 'no recipe'}, not of {recipe}: name another --checkpoint")
    return folder, settings


def find_stable_diffusion(flag: str | None, folder: Path, settings: dict[str, Any]) -> tuple[str, str]:
    """Where it is, a folder or hub id, and what said so.

    Raises:
        UserError: nothing is there.
    """
    if flag is None:
        key = f"{folder / SETTINGS_FILE}: stable_diffusion"
        return hub.locate(settings["stable_diffusion"], key, "name another with --stable_diffusion"), key
    given = Path(flag).expanduser()
    key = "--stable_diffusion"
    return (str(given.resolve()) if given.is_dir() else hub.locate(flag, key)), key


def load(
    where: str,
    recipe: str,
    load_encoder: LoadEncoder,
    device: str = "auto",
    dtype: str = "float32",
    stable_diffusion_flag: str | None = None,
    safety_checker: bool = True,
) -> tuple[AudioToImagePipeline, dict[str, Any]]:
    """The pipeline of an exported folder or hub id, and for the json beside a picture where its parts came from.

    Raises:
        UserError: a part that is missing, damaged, or does not belong to the others.
    """
    place, kind = inference.pick_device(device), inference.DTYPES[dtype]
    if kind == torch.float16 and place.type == "cpu":
        raise UserError("--dtype float16 is for GPUs: on a CPU use bfloat16 or float32")
    folder, settings = read_settings(where, recipe)
    source, key = find_stable_diffusion(stable_diffusion_flag, folder, settings)
    encoder = load_encoder(folder, settings, place, kind)
    sd = stable_diffusion.load(source, key, kind, safety_checker)
    has_lora = (folder / LORA).is_dir()
    if has_lora:
        lora.load(sd, folder / LORA)
    try:
        pipe = AudioToImagePipeline(encoder, sd.to(place))
    except ValueError as error:
        raise UserError(f"{key} {source}: {error}") from error
    pipe.guidance_scale = float(settings.get("guidance_scale", GUIDANCE))
    checked = sd.safety_checker is not None
    return pipe, {"model": where, "stable_diffusion": source, "lora": has_lora, "safety_checker": checked}
