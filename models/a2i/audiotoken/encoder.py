"""AudioToken's encoder: from a sound to one token in the space of Stable Diffusion's text embeddings.

B sounds, n samples, T tokens of BEATs, C = three times the width of BEATs, D width of the text encoder, L text tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.models.a2i.sound_encoder import LongSounds, repeat_to_length
from sonolume.modules.audiotoken import AudioTokenEmbedder, inject, tokenise
from sonolume.modules.beats.beats import SAMPLE_RATE, BEATs
from sonolume.utils import files
from sonolume.utils.checkpoint import load_network
from sonolume.utils.errors import UserError

RECIPE = "a2i/audiotoken"
SHIPPED = "pretrained/mini/audiotoken"  # the miniature exported folder, used where the run has none
EMBEDDER = "embedder"  # folder of the trained network in an exported folder
MIN_SECONDS = 0.2


class AudioTokenEncoder:
    """BEATs and the trained embedder, as a `SoundEncoder` (models/a2i/sound_encoder.py).

    Raises:
        ValueError: the embedder was trained on features of another width than this BEATs returns.
    """

    sample_rate, num_tokens, long_sounds = SAMPLE_RATE, 1, LongSounds.mean

    def __init__(
        self, beats: BEATs, embedder: AudioTokenEmbedder, prompt: str = "a photo of <*>", window: float = 5.0
    ) -> None:
        self.beats, self.embedder = beats, embedder
        self.prompt, self.window = prompt, window
        self.width: int = embedder.config.output_size
        self.min_seconds = max(MIN_SECONDS, beats.min_samples / SAMPLE_RATE)
        features, needed = 3 * beats.config.encoder_embed_dim, embedder.config.input_size
        if features != needed:
            raise ValueError(f"the features of this BEATs have width {features}, the embedder needs {needed}")

    def to(self, device: torch.device) -> None:
        """Move both networks."""
        networks: Any = self.beats, self.embedder
        for network in networks:
            network.to(device)

    def use_preset(self, name: str) -> None:
        """Change nothing: the published inference encodes sounds in the same way."""

    @torch.no_grad()
    def encode_audio(self, waves: Sequence[Tensor]) -> Tensor:
        """Encode waves (n,) of equal length at 16 kHz -> audio tokens (B, 1, D) float32.

        Waves shorter than `window` are repeated, as in training.
        """
        length = round(self.window * SAMPLE_RATE)
        batch = torch.stack([repeat_to_length(wave, length) for wave in waves])                   # (B, n)
        features = beats_features(self.beats, batch.to(self.embedder.device, torch.float32))      # (B, T, C)
        return self.embedder(features.to(self.embedder.dtype)).float()[:, None]                   # (B, 1, D)

    def encode_prompt(self, audio_tokens: Tensor, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
        """Encode a prompt for each sound with its audio tokens (B, K, D) -> `prompt_embeds` (B, L, D)."""
        ids = tokenise(tokenizer, prompts, self.num_tokens).to(audio_tokens.device)
        return inject(text_encoder, ids, audio_tokens, self.num_tokens).last_hidden_state


def beats_features(beats: BEATs, waves: Tensor) -> Tensor:
    """Concatenate the outputs of three layers of BEATs, 4, 8 and 12 of the published 12: (B, n) -> (B, T, C)."""
    count = beats.config.encoder_layers
    return torch.cat(beats(waves, layers=(count // 3, 2 * count // 3, count)).layers, dim=-1)


def load_beats(source: str, key: str = "model.beats", dtype: torch.dtype = torch.float32) -> BEATs:
    """Load a frozen BEATs from a folder or hub id.

    Raises:
        UserError: missing, damaged or another model; the message names the command that makes the folder.
    """
    remedy = "make it from the published file: python bins/convert.py beats FILE.pt FOLDER"
    beats: BEATs = load_network(BEATs, source, key, remedy=remedy, dtype=dtype)
    if beats.config.encoder_layers < 3:
        raise UserError(f"{key} {source}: has {beats.config.encoder_layers} layers, AudioToken needs at least 3")
    return beats


def save(folder: Path, embedder: AudioTokenEmbedder, settings: dict[str, Any]) -> None:
    """Write an exported folder; settings are stable_diffusion, beats, prompt, window, and maybe guidance_scale."""
    embedder.save_pretrained(folder / EMBEDDER)
    files.write_json(folder / SETTINGS_FILE, {"recipe": RECIPE} | settings)


def load(folder: Path, settings: dict[str, Any], device: torch.device, dtype: torch.dtype) -> AudioTokenEncoder:
    """Load the encoder of an exported folder with the content of its `SETTINGS_FILE`.

    Args:
        dtype: of BEATs; the embedder is small and stays float32.

    Raises:
        UserError: a part is missing, damaged, or does not fit the others.
    """
    embedder: Any = load_network(AudioTokenEmbedder, str((folder / EMBEDDER).absolute()), "the embedder")
    missing = [name for name in ("beats", "prompt", "window") if name not in settings]
    if missing:
        raise UserError(f"{folder / SETTINGS_FILE}: {', '.join(missing)} missing: export the run again")
    beats: Any = load_beats(settings["beats"], f"{folder / SETTINGS_FILE}: beats", dtype)
    try:
        return AudioTokenEncoder(beats.to(device), embedder.to(device), settings["prompt"], float(settings["window"]))
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
