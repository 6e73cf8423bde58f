"""Conditions of the tiny Stable Diffusion: text states of scenes from their texts, or from their sounds.

N scenes, L states, D text width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.config.load import recipes
from sonolume.models.a2i import loading
from sonolume.models.evaluation.samples import weights_version
from sonolume.models.mini.clip_text import make_text
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.preprocessors.miniworld.spoken import utterances
from sonolume.utils import paths
from sonolume.utils.errors import UserError

BATCH_SIZE = 32  # texts that are encoded at once
KEY = "model.sound_encoders"
SPEECH = "s2i/"  # recipes whose sounds are spoken captions

Conditions = tuple[Tensor, Tensor]  # states (N, L, D), and those of the empty text (1 or N, L, D) for guidance


def of_texts(pipe: Any, scenes: Sequence[Scene]) -> Conditions:
    """Encode a caption or prompt of each training scene."""
    states = encode_texts(pipe, ["", *(make_text(scene, 0, held_out=False) for scene in scenes)])
    return states[1:], states[:1]


@torch.no_grad()
def encode_texts(pipe: Any, texts: list[str]) -> Tensor:
    """Encode texts -> (N, L, D), padded as Stable Diffusion does."""
    length = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
    return torch.cat([pipe.text_encoder(batch)[0] for batch in ids.split(BATCH_SIZE)])


def of_sounds(source: str, scenes: Sequence[Scene], guidance_scale: float) -> Conditions:
    """Encode the sound of each training scene by an audio-to-image model; one that draws speech gets a spoken caption.

    Args:
        source: exported folder.
        guidance_scale: of the teacher, which must be the model's.

    Raises:
        UserError: no such folder, another guidance scale, or the model's U-Net attends to the sounds themselves.
    """
    folder, settings = _settings(source)
    pipe, _ = loading.load_encoders(folder, settings["recipe"], "cpu")
    if getattr(pipe.encoder, "head", None) is not None:
        raise UserError(f"{KEY} {source}: its U-Net attends to the sounds themselves: leave it out")
    scale = float(settings.get("guidance_scale", pipe.guidance_scale))
    if scale != guidance_scale:
        raise UserError(f"{KEY} {source}: is used with guidance {scale:g}, model.distill.guidance_scale is "
                        f"{guidance_scale:g}: make them equal")  # fmt: skip
    is_speech = settings["recipe"].startswith(SPEECH)
    waves = [torch.as_tensor(utterances(scene, 1, "train")[0].render() if is_speech else world.render(scene))
             for scene in tqdm(scenes, desc=f"sounds for {Path(folder).name}", unit="sound")]  # fmt: skip
    return pipe.encode_prompt([wave.float() for wave in waves])


def versions(source: str) -> list[str]:
    """Hashes of an exported folder and of the other models that its settings name; the teacher's own is not among them.
    """
    folder, settings = _settings(source)
    named = [value for key, value in settings.items() if isinstance(value, str) and key != "stable_diffusion"]
    folders = [folder, *(str(paths.resolve(value)) for value in named if "/" in value)]
    return [weights_version(one) for one in folders if Path(one).is_dir()]


def _settings(source: str) -> tuple[str, dict[str, Any]]:
    """Locate an exported folder, and read its settings."""
    known = [name for name in recipes() if name.startswith(loading.TASKS)]
    folder, settings = loading.read_settings(paths.locate(source, KEY), known, KEY)
    return str(folder), settings
