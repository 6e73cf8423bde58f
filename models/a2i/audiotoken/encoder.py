"""AudioToken's encoder: a sound -> one token in the space of Stable Diffusion's text encoder.

B sounds, n samples, T tokens of BEATs, C = three times its width, D width of the text encoder, L text tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.modules.audiotoken.embedder import AudioTokenEmbedder
from sonolume.modules.audiotoken.injection import inject, tokenise
from sonolume.modules.beats.beats import BEATs
from sonolume.utils import checkpoint, files, hub
from sonolume.utils.errors import UserError, first_line

SETTINGS_FILE = "audio_to_image.json"
EMBEDDER = "embedder"  # folder of the trained network in an exported pipeline
LORA = "lora"  # folder of the U-Net's adapters, if they were trained
RECIPE = "a2i/audiotoken"
SAMPLE_RATE = 16000  # Hz, of BEATs


class AudioTokenEncoder:
    """What `AudioToImagePipeline` asks of an encoder (models/a2i/sound_encoder.py).

    Args:
        prompt: used where none is given; window: seconds that the token was trained on.

    Raises:
        ValueError: the embedder was trained on features of another width than this BEATs gives.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self, beats: BEATs, embedder: AudioTokenEmbedder, prompt: str = "a photo of <*>", window: float = 5.0
    ) -> None:
        self.beats, self.embedder = beats, embedder
        self.prompt, self.window = prompt, window
        self.width: int = embedder.config.output_size
        self.shortest = max(0.2, beats.shortest / SAMPLE_RATE)
        given, taken = 3 * beats.config.encoder_embed_dim, embedder.config.input_size
        if given != taken:
            raise ValueError(f"this BEATs gives features of width {given}, the embedder takes {taken}")

    @torch.no_grad()
    def hear(self, waves: Sequence[Tensor]) -> Tensor:
        """Waves (n,) of equal length at 16 kHz -> tokens (B, 1, D) float32. Below `window`, a wave is repeated."""
        device = self.embedder.device
        stack = torch.stack([repeat(wave, round(self.window * SAMPLE_RATE)) for wave in waves])   # (B, n)
        features = beats_features(self.beats, stack.to(device, torch.float32))                    # (B, T, C)
        return self.embedder(features.to(self.embedder.dtype)).float()[:, None]                   # (B, 1, D)

    def condition(self, heard: Tensor, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
        """Tokens (B, 1, D) and a prompt for each -> `prompt_embeds` (B, L, D).

        Raises:
            ValueError: a prompt without `<*>`, too long, or tokens of another width than the text encoder's.
        """
        ids = tokenise(tokenizer, prompts).to(text_encoder.device)
        return inject(text_encoder, ids, heard.to(text_encoder.device)).last_hidden_state


def repeat(wave: Tensor, least: int) -> Tensor:
    """(n,) -> (least,) by saying it again and again, if it is shorter; as training does."""
    times = -(-least // max(1, len(wave)))
    return wave if len(wave) >= least else wave.repeat(times)[:least]


def beats_layers(count: int) -> tuple[int, int, int]:
    """Which layers of `count`, from 1, AudioToken hears with: 4, 8 and 12 of the published 12."""
    return count // 3, 2 * count // 3, count


def beats_features(beats: BEATs, waves: Tensor) -> Tensor:
    """(B, n) -> (B, T, C): the outputs of three layers, side by side."""
    return torch.cat(beats(waves, layers=beats_layers(beats.config.encoder_layers)).layers, dim=-1)


def load_beats(source: str, key: str = "model.beats", dtype: torch.dtype = torch.float32) -> BEATs:
    """BEATs from its folder or hub id.

    Raises:
        UserError: absent, damaged or another model; says how to make the folder.
    """
    remedy = "make it from the published file: python bins/convert.py beats FILE.pt FOLDER"
    where = hub.locate(source, key, remedy)
    if hub.is_local(where):
        checkpoint.check_folder(Path(where), BEATs.__name__)
    try:
        beats: Any = BEATs.from_pretrained(where, dtype=dtype)
    except checkpoint.DAMAGED as error:
        raise UserError(f"{key} {source}: cannot be loaded: {first_line(error)}; {remedy}") from error
    if beats.config.encoder_layers < 3:
        raise UserError(f"{key} {source}: has {beats.config.encoder_layers} layers, AudioToken hears with three")
    return beats.eval().requires_grad_(False)


def save(folder: Path, embedder: AudioTokenEmbedder, settings: dict[str, Any]) -> None:
    """Write what `load` reads, beside the settings: stable_diffusion, beats, prompt, window."""
    embedder.save_pretrained(folder / EMBEDDER)
    files.write_json(folder / SETTINGS_FILE, {"recipe": RECIPE} | settings)


def load(folder: Path, config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> AudioTokenEncoder:
    """The encoder of an exported folder.

    Args:
        config: the content of its `SETTINGS_FILE`.
        dtype: of BEATs; the embedder is small and stays float32.

    Raises:
        UserError: a part is absent, damaged, or does not belong to the others.
    """
    checkpoint.check_folder(folder / EMBEDDER, AudioTokenEmbedder.__name__)
    try:
        embedder: Any = AudioTokenEmbedder.from_pretrained(folder / EMBEDDER, dtype=torch.float32)
    except checkpoint.DAMAGED as error:
        raise UserError(f"{folder / EMBEDDER}: cannot be loaded: {first_line(error)}") from error
    missing = [name for name in ("beats", "prompt", "window") if name not in config]
    if missing:
        raise UserError(f"{folder / SETTINGS_FILE}: says nothing about {', '.join(missing)}: export the run again")
    beats: Any = load_beats(config["beats"], f"{folder / SETTINGS_FILE}: beats", dtype)
    try:
        embedder = embedder.eval().requires_grad_(False).to(device)
        return AudioTokenEncoder(beats.to(device), embedder, config["prompt"], float(config["window"]))
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
