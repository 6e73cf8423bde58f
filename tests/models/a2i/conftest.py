"""A sound encoder without weights, and the smallest data of audio2img."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

WIDTH = 32  # of the text encoder of `tiny_stable_diffusion`, and of the tokens
WAV2VEC2_BERT: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "conv_depthwise_kernel_size": 3,
}  # fmt: skip
TEXTS = ["rain", "a dog", "rain", "wind", "a bell", "a car", "birds", "rain falls"]  # of the clips to train on


class FormulaEncoder:
    """A `SoundEncoder` whose tokens are loudness, brightness and length; it injects them as AudioToken does."""

    sample_rate, min_seconds, window, prompt = 16000, 0.2, 1.0, "a photo of <*>"

    def __init__(self, width: int = WIDTH, tokens: int = 1, long_sounds: str = "mean") -> None:
        import torch

        from sonolume.models.a2i.sound_encoder import LongSounds

        self.width, self.num_tokens, self.long_sounds = width, tokens, LongSounds(long_sounds)
        self.directions = torch.randn(tokens, 3, width, generator=torch.Generator().manual_seed(0))
        self.lengths: list[list[int]] = []  # of the waves of each call

    def to(self, device: Any) -> None:
        pass

    def use_preset(self, name: str) -> None:
        pass

    def encode_audio(self, waves: Sequence[Any]) -> Any:
        import torch

        self.lengths.append([len(wave) for wave in waves])
        batch = torch.stack(list(waves))                                     # (B, n)
        loud = batch.square().mean(dim=1).sqrt()
        bright = batch.diff(dim=1).square().mean(dim=1).sqrt() / loud
        facts = torch.stack([5 * loud, bright, torch.full_like(loud, batch.shape[1] / 16000)], dim=1)
        return torch.einsum("bf,kfd->bkd", facts, self.directions)

    def encode_prompt(self, audio_tokens: Any, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Any:
        from sonolume.modules.audiotoken import inject, tokenise

        ids = tokenise(tokenizer, prompts, self.num_tokens).to(audio_tokens.device)
        return inject(text_encoder, ids, audio_tokens, self.num_tokens).last_hidden_state


@pytest.fixture
def formula_encoder() -> Callable[..., FormulaEncoder]:
    """formula_encoder(width=32, tokens=1, long_sounds="mean")."""
    return FormulaEncoder


@pytest.fixture(scope="session")
def exported(tiny_stable_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder for the `FormulaEncoder`."""
    folder = tmp_path_factory.mktemp("exported")
    settings = {"recipe": "a2i/audiotoken", "stable_diffusion": str(tiny_stable_diffusion)}
    (folder / "audio_to_image.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def noise_with_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 clips to train on and 3 to validate on, every third of half a second, the others of a second."""
    import numpy as np

    from sonolume.utils import audio

    folder = tmp_path_factory.mktemp("processed") / "noise"
    random = np.random.default_rng(0)
    for split, texts in (("train", TEXTS), ("valid", ["rain", "a cat", "a drum"])):
        rows = []
        for number, text in enumerate(texts):
            uid, seconds = f"{split}{number}", 0.5 if number % 3 == 2 else 1.0
            audio.save_wav(folder / f"audio/{uid}.wav", random.normal(0, 0.1, int(seconds * 16000)), 16000)
            rows.append({"Uid": uid, "Audio": f"audio/{uid}.wav", "Caption": text, "Duration": seconds})
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder.parent


@pytest.fixture
def write_audio2img(noise_with_texts: Path, tiny_stable_diffusion: Path, tmp_path: Path) -> Callable[..., Path]:
    """write_audio2img(name="config", section={key: value}): a config of a2i/audio2img that trains in a second."""

    def make(name: str = "config", **sections: dict[str, Any]) -> Path:
        from tests import runs  # imports torch

        content: dict[str, Any] = {
            "recipe": "a2i/audio2img", "exp_name": "run", "log_dir": str(tmp_path), "dataset": ["noise"],
            "preprocess": {"processed_dir": str(noise_with_texts), "input_length": 1.0},
            "model": {
                "stable_diffusion": str(tiny_stable_diffusion), "wav2vec2_bert": "", "encoder": WAV2VEC2_BERT,
                "gradient_checkpointing": False,
            },
            "train": {**runs.QUICK_TRAIN, "batch_size": 4, "accumulate": 1},
        }  # fmt: skip
        for section, values in sections.items():
            content[section] |= values
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    return make


@pytest.fixture(scope="session")
def make_wav2vec2_bert() -> Callable[..., Path]:
    """make_wav2vec2_bert(folder, **settings): the encoder of `write_audio2img` as a folder, without adapter."""

    def make(folder: Path, **settings: Any) -> Path:
        import torch
        from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

        torch.manual_seed(5)
        Wav2Vec2BertModel(Wav2Vec2BertConfig(**WAV2VEC2_BERT | settings)).save_pretrained(folder)
        return folder

    return make
