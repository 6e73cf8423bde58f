"""AudioToken's encoder: what it hears, where the token goes, and which folders it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sonolume.models.a2i.audiotoken import encoder
from sonolume.models.a2i.audiotoken.encoder import AudioTokenEncoder
from sonolume.modules.audiotoken.embedder import AudioTokenEmbedder
from sonolume.modules.beats.beats import BEATs
from sonolume.utils.errors import UserError

CPU = torch.device("cpu")


def tiny_beats(width: int = 16, layers: int = 6) -> BEATs:
    torch.manual_seed(0)
    return BEATs(
        embed_dim=8, encoder_layers=layers, encoder_embed_dim=width, encoder_ffn_embed_dim=16,
        encoder_attention_heads=2, conv_pos=16, conv_pos_groups=4, num_buckets=32, max_distance=64,
    ).eval()  # fmt: skip


@pytest.fixture
def encoder() -> AudioTokenEncoder:
    beats = tiny_beats()
    return AudioTokenEncoder(beats, AudioTokenEmbedder(48, 32).eval(), window=1.0)


def test_three_layers_are_heard(encoder: AudioTokenEncoder):
    """4, 8 and 12 of the published 12."""
    assert encoder.beats_layers(12) == (4, 8, 12)
    waves = torch.randn(2, 8000)
    found = encoder.beats_features(encoder.beats, waves)
    layers = encoder.beats(waves, layers=(2, 4, 6)).layers
    assert found.equal(torch.cat(layers, dim=-1)) and found.shape[-1] == 48


def test_a_short_sound_is_repeated_as_in_training(encoder: AudioTokenEncoder):
    wave = torch.randn(6000)
    heard = encoder.hear([wave])
    assert heard.shape == (1, 1, 32) and heard.dtype == torch.float32 and encoder.width == 32
    torch.testing.assert_close(encoder.hear([torch.cat([wave, wave, wave[:4000]])]), heard)
    assert encoder.hear([torch.randn(20000)]).shape == (1, 1, 32)


def test_the_official_embedder_is_what_is_run(encoder: AudioTokenEncoder):
    wave = torch.randn(16000)
    wanted = encoder.embedder(encoder.beats_features(encoder.beats, wave[None]))
    torch.testing.assert_close(encoder.hear([wave])[:, 0], wanted)


def test_a_folder_comes_back(encoder: AudioTokenEncoder, tmp_path: Path):
    encoder.beats.save_pretrained(tmp_path / "beats")
    settings = {"beats": str(tmp_path / "beats"), "prompt": "a drawing of <*>", "window": 1.0, "stable_diffusion": "x"}
    encoder.save(tmp_path / "run", encoder.embedder, settings)  # type: ignore[arg-type]
    content = json.loads((tmp_path / "run" / encoder.SETTINGS_FILE).read_text())
    assert content == {"recipe": "a2i/audiotoken", **settings}
    again = encoder.load(tmp_path / "run", content, CPU, torch.float32)
    wave = torch.randn(16000)
    assert again.hear([wave]).equal(encoder.hear([wave]))
    assert (again.prompt, again.window) == ("a drawing of <*>", 1.0)
    half: Any = encoder.load(tmp_path / "run", content, CPU, torch.bfloat16)
    assert half.beats.dtype == torch.bfloat16 and half.embedder.dtype == torch.float32
    torch.testing.assert_close(half.hear([wave]), encoder.hear([wave]), rtol=0.1, atol=0.05)


def test_what_does_not_belong_together_is_refused(encoder: AudioTokenEncoder, tmp_path: Path):
    with pytest.raises(ValueError, match="features of width 72, the embedder takes 48"):
        AudioTokenEncoder(tiny_beats(24), encoder.embedder)
    encoder.beats.save_pretrained(tmp_path / "beats")
    settings = {"beats": str(tmp_path / "beats"), "prompt": "<*>", "window": 1.0}
    encoder.save(tmp_path / "run", encoder.embedder, settings)
    with pytest.raises(UserError, match="says nothing about beats, window"):
        encoder.load(tmp_path / "run", {"prompt": "<*>"}, CPU, torch.float32)
    tiny_beats(24).save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match="features of width 72"):
        encoder.load(tmp_path / "run", settings | {"beats": str(tmp_path / "wide")}, CPU, torch.float32)
    tiny_beats(16, layers=2).save_pretrained(tmp_path / "flat")
    with pytest.raises(UserError, match="has 2 layers, AudioToken hears with three"):
        encoder.load_beats(str(tmp_path / "flat"))
    with pytest.raises(UserError, match="holds a AudioTokenEmbedder, not a BEATs"):
        encoder.load_beats(str(tmp_path / "run/embedder"))
    shutil.rmtree(tmp_path / "run/embedder")
    with pytest.raises(UserError, match="embedder: no such folder"):
        encoder.load(tmp_path / "run", settings, CPU, torch.float32)
