"""Encoder of the head attention: the states of a trained encoder, to which a frozen U-Net attends.

B sounds, n samples, K states of C values, D width of the text encoder, L text states.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.a2i.audio2img import Head
from sonolume.models.a2i import loading
from sonolume.models.a2i.attention_prompt import attention_prompt
from sonolume.models.a2i.audio2img.encoder import RECIPE, Audio2ImgEncoder
from sonolume.models.a2i.audiotoken.encoder import RECIPE as AUDIOTOKEN
from sonolume.models.a2i.audiotoken.encoder import AudioTokenEncoder, beats_features
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.models.a2i.sound_encoder import SoundEncoder, repeat_to_length
from sonolume.models.recipes import recipe_code
from sonolume.modules.decoupled_attention import AudioAttention
from sonolume.utils import files, paths
from sonolume.utils.checkpoint import load_network
from sonolume.utils.errors import UserError

FOLDER = "attention"  # of the trained network in an exported folder


class SoundStates:
    """States of sounds by a trained encoder: the features of AudioToken's BEATs, or the states of audio2img."""

    def __init__(self, encoder: "Audio2ImgEncoder | AudioTokenEncoder") -> None:
        self.encoder = encoder
        self.network: Any = encoder.beats if isinstance(encoder, AudioTokenEncoder) else encoder.model

    @torch.no_grad()
    def __call__(self, waves: Tensor) -> Tensor:
        """Encode waves (B, n) -> states (B, K, C) float32."""
        if isinstance(self.encoder, AudioTokenEncoder):
            return beats_features(self.encoder.beats, waves.to(self.network.device, torch.float32)).float()
        return self.encoder.encode_audio(list(waves))


class AttentionEncoder:
    """States of sounds and the trained head, as a `SoundEncoder` (models/a2i/sound_encoder.py).

    Args:
        window: seconds of one training item, to which shorter sounds are repeated.
    """

    def __init__(self, sounds: SoundStates, head: AudioAttention, prompt: str, window: float) -> None:
        encoder = sounds.encoder
        self.sounds, self.head, self.prompt, self.window = sounds, head, prompt, window
        self.sample_rate, self.min_seconds, self.long_sounds = (
            encoder.sample_rate, encoder.min_seconds, encoder.long_sounds
        )  # fmt: skip
        self.width: int = head.config["width"]
        self.num_tokens: int = head.config["num_states"]

    def to(self, device: torch.device) -> None:
        """Move the networks."""
        networks: Any = self.sounds.encoder, self.head
        for network in networks:
            network.to(device)

    def use_preset(self, name: str) -> None:
        """Change nothing: there is no published inference."""

    @torch.no_grad()
    def encode_audio(self, waves: Sequence[Tensor]) -> Tensor:
        """Encode waves (n,) of equal length -> states (B, K, D) float32; shorter ones than `window` are repeated."""
        length = round(self.window * self.sample_rate)
        states = self.sounds(torch.stack([repeat_to_length(wave, length) for wave in waves]))     # (B, K, C)
        return self.head(states.to(self.head.device)).float()                                     # (B, K, D)

    def encode_prompt(self, audio_tokens: Tensor, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
        """Encode the words of each prompt, followed by the states of its sounds -> (B, L + m K, D)."""
        return attention_prompt(audio_tokens, prompts, self.num_tokens, tokenizer, text_encoder)


def load_sound_states(
    source: str, key: str = "model.sound_encoder", device: "torch.device | str" = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SoundStates:  # fmt: skip
    """Load the encoder of an exported folder or hub id.

    Raises:
        UserError: no such folder, one of another recipe or of the head attention itself, or a damaged one.
    """
    folder, settings = loading.read_settings(paths.locate(source, key), (RECIPE, AUDIOTOKEN), key)
    if settings.get("head") == Head.attention:
        raise UserError(f"{key} {source}: was trained with the head attention: name its sound_encoder, "
                        f"{settings.get('sound_encoder')}")  # fmt: skip
    encoder: Any = recipe_code(settings["recipe"], "encoder").load(folder, settings, torch.device(device), dtype)
    return SoundStates(encoder)


def save(folder: Path, head: AudioAttention, settings: dict[str, Any]) -> None:
    """Write an exported folder; settings are stable_diffusion, sound_encoder, prompt, window and guidance_scale."""
    head.save_pretrained(folder / FOLDER)
    files.write_json(folder / SETTINGS_FILE, {"recipe": RECIPE, "head": Head.attention.value} | settings)


def load(folder: Path, settings: dict[str, Any], device: torch.device, dtype: torch.dtype) -> SoundEncoder:
    """Load the encoder of an exported folder with the content of its `SETTINGS_FILE`.

    Args:
        dtype: of the sound encoder; the head is small and stays float32.

    Raises:
        UserError: a part is missing, damaged, or does not fit the others.
    """
    missing = [name for name in ("sound_encoder", "prompt", "window") if name not in settings]
    if missing:
        raise UserError(f"{folder / SETTINGS_FILE}: {', '.join(missing)} missing: export the run again")
    head: Any = load_network(AudioAttention, str((folder / FOLDER).absolute()), "the head")
    key = f"{folder / SETTINGS_FILE}: sound_encoder"
    sounds = load_sound_states(settings["sound_encoder"], key, device, dtype)
    return AttentionEncoder(sounds, head.to(device), settings["prompt"], float(settings["window"]))
