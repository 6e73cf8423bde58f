"""The networks of wavy with a few thousand random weights, and a dozen spoken captions of noise."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

CAPTIONS = ["a dog", "rain falls", "a bell rings", "a car"]  # of the pictures of training
HELD_OUT = ["a cat", "a drum", "wind"]
RATE, LENGTH = 16000, 0.8  # Hz, seconds of a training item


@pytest.fixture(scope="session")
def wavy_parts(tiny_stable_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Folders of random networks: `hubert` with layer norms, `base` with a group norm, `clip`, `vit`, and `sd`.

    HuBERT has two layers of width 16, CLIP a common space of width 8, the ViT a width of 12. Tests copy them to damage
    them.
    """
    import torch
    from transformers import (
        HubertConfig,
        HubertModel,
        ViTConfig,
        ViTImageProcessorPil,
        ViTModel,
        Wav2Vec2FeatureExtractor,
    )

    from tests.models.s2i import tiny

    folder = tmp_path_factory.mktemp("wavy")
    tiny.make_hubert(folder / "hubert")
    tiny.make_clip(folder / "clip")
    torch.manual_seed(1)
    base = HubertConfig(
        conv_dim=[4] * 7, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    HubertModel(base).save_pretrained(folder / "base")
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(folder / "base")
    vit = ViTConfig(
        hidden_size=12, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    ViTModel(vit).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "vit")
    names = {name: folder / name for name in ("hubert", "base", "clip", "vit")}
    return SimpleNamespace(**names, sd=tiny_stable_diffusion)


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A processed_dir: 8 recordings of 4 pictures to train on, 4 of 3 pictures to validate on, 0.5 to 1.2 s long."""
    import numpy as np
    from PIL import Image

    from sonolume.utils import audio

    folder = tmp_path_factory.mktemp("processed") / "noise"
    random = np.random.default_rng(0)
    for split, count, captions in (("train", 8, CAPTIONS), ("valid", 4, HELD_OUT)):
        rows = []
        for number in range(count):
            picture = number % len(captions)
            frames, uid, seconds = f"frames/{split}{picture}", f"{split}{number}", (0.8, 1.2, 0.5)[number % 3]
            audio.save_wav(folder / f"audio/{uid}.wav", random.normal(0, 0.1, round(seconds * RATE)), RATE)
            if number == picture:
                (folder / frames).mkdir(parents=True)
                image = Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8))
                image.save(folder / frames / "still.png")
            rows.append({"Uid": uid, "Audio": f"audio/{uid}.wav", "Image": frames, "Duration": seconds,
                         "Caption": captions[picture], "Speaker": f"speaker {number}"})  # fmt: skip
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder.parent


@pytest.fixture
def write_wavy(spoken: Path, wavy_parts: SimpleNamespace, tmp_path: Path) -> Callable[..., Path]:
    """write_wavy(name="config", section={key: value}): a config of s2i/wavy that trains stage 1 in a second."""

    def make(name: str = "config", **sections: dict[str, Any]) -> Path:
        from tests import runs  # imports torch

        content: dict[str, Any] = {
            "recipe": "s2i/wavy", "exp_name": "run", "log_dir": str(tmp_path), "dataset": ["noise"],
            "preprocess": {"processed_dir": str(spoken), "input_length": LENGTH, "starts": 2, "width": 32,
                           "height": 32, "cache_features": "always"},
            "model": {
                "stage": "encoder", "stable_diffusion": str(wavy_parts.sd),
                "speech_encoder": {"hubert": str(wavy_parts.hubert), "num_heads": 2, "dropout": 0.0},
                "image_encoder": {"model": str(wavy_parts.clip)},
                "token": {"num_tokens": 2, "gradient_checkpointing": False},
                "sequence": {"width": 16, "layers": 1, "num_heads": 2, "dropout": 0.0},
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
def wavy_encoder(wavy_parts: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of stage 1 with random weights."""
    from tests.models.s2i import tiny

    return tiny.make_encoder(tmp_path_factory.mktemp("stage 1") / "encoder", wavy_parts.hubert, wavy_parts.clip)


@pytest.fixture
def write_head(write_wavy: Callable[..., Path], wavy_encoder: Path) -> Callable[..., Path]:
    """write_head(head, name="config", section={key: value}): a config of stage 2 on `wavy_encoder`."""

    def make(head: str, name: str = "config", **sections: dict[str, Any]) -> Path:
        model = {"stage": "head", "head": head, "encoder": str(wavy_encoder)} | sections.pop("model", {})
        if head == "sequence":
            model = {"prompt": "<*>"} | model
        return write_wavy(name, model=model, **sections)

    return make


@pytest.fixture(scope="session")
def wavy_heads(
    wavy_parts: SimpleNamespace, wavy_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """Exported folders of stage 2 with random weights: `token` with K = 2, and `sequence`."""
    import torch

    from sonolume.models.s2i.wavy.encoder import save
    from sonolume.modules.speech_clip import SequenceHead, SpeechEncoder, TokenHead

    torch.manual_seed(2)
    speech = SpeechEncoder.from_pretrained(wavy_encoder / "speech_encoder")
    heads: dict[str, Any] = {
        "token": (TokenHead(8, 32, num_tokens=2, norm=0.2), "a photo of <*>"),
        "sequence": (SequenceHead(16, 32, num_states=5, width=16, layers=1, num_heads=2), "<*>"),
    }
    settings = {"stage": "head", "stable_diffusion": str(wavy_parts.sd), "hubert": str(wavy_parts.hubert),
                "image_encoder": str(wavy_parts.clip), "guidance_scale": 3.0}  # fmt: skip
    folders = {}
    for name, (head, prompt) in heads.items():
        folders[name] = tmp_path_factory.mktemp("stage 2") / name
        save(folders[name], speech, settings | {"head": name, "prompt": prompt}, head)  # type: ignore[arg-type]
    return SimpleNamespace(**folders)


@pytest.fixture
def no_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no pictures in training."""
    from sonolume.models import previews

    monkeypatch.setattr(previews, "is_due", lambda task: False)
