"""AudioToken's encoder: its features, its tokens, and the exported folders that it accepts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sonolume.models.a2i.audiotoken.encoder import AudioTokenEncoder, beats_features, load, load_beats, save
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.modules.audiotoken import AudioTokenEmbedder
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


def test_features_are_three_layers(encoder: AudioTokenEncoder):
    """2, 4 and 6 of 6; 4, 8 and 12 of the published 12."""
    waves = torch.randn(2, 8000)
    found = beats_features(encoder.beats, waves)
    layers = encoder.beats(waves, layers=(2, 4, 6)).layers
    assert found.equal(torch.cat(layers, dim=-1)) and found.shape[-1] == 48


def test_a_short_sound_is_repeated_as_in_training(encoder: AudioTokenEncoder):
    wave = torch.randn(6000)
    tokens = encoder.encode_audio([wave])
    assert tokens.shape == (1, 1, 32) and tokens.dtype == torch.float32 and encoder.width == 32
    torch.testing.assert_close(encoder.encode_audio([torch.cat([wave, wave, wave[:4000]])]), tokens)
    assert encoder.encode_audio([torch.randn(20000)]).shape == (1, 1, 32)
    wave = torch.randn(16000)
    wanted = encoder.embedder(beats_features(encoder.beats, wave[None]))
    torch.testing.assert_close(encoder.encode_audio([wave])[:, 0], wanted)


def test_a_folder_comes_back(encoder: AudioTokenEncoder, tmp_path: Path):
    encoder.beats.save_pretrained(tmp_path / "beats")
    settings = {"beats": str(tmp_path / "beats"), "prompt": "a drawing of <*>", "window": 1.0, "stable_diffusion": "x"}
    save(tmp_path / "run", encoder.embedder, settings)
    content = json.loads((tmp_path / "run" / SETTINGS_FILE).read_text())
    assert content == {"recipe": "a2i/audiotoken", **settings}
    again = load(tmp_path / "run", content, CPU, torch.float32)
    wave = torch.randn(16000)
    assert again.encode_audio([wave]).equal(encoder.encode_audio([wave]))
    assert (again.prompt, again.window) == ("a drawing of <*>", 1.0)
    half: Any = load(tmp_path / "run", content, CPU, torch.bfloat16)
    assert half.beats.dtype == torch.bfloat16 and half.embedder.dtype == torch.float32
    torch.testing.assert_close(half.encode_audio([wave]), encoder.encode_audio([wave]), rtol=0.1, atol=0.05)


def test_parts_that_do_not_fit_are_refused(encoder: AudioTokenEncoder, tmp_path: Path):
    with pytest.raises(ValueError, match="width 72.*needs 48"):
        AudioTokenEncoder(tiny_beats(24), encoder.embedder)
    encoder.beats.save_pretrained(tmp_path / "beats")
    settings = {"beats": str(tmp_path / "beats"), "prompt": "<*>", "window": 1.0}
    save(tmp_path / "run", encoder.embedder, settings)
    with pytest.raises(UserError, match="beats, window missing"):
        load(tmp_path / "run", {"prompt": "<*>"}, CPU, torch.float32)
    tiny_beats(24).save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match="width 72"):
        load(tmp_path / "run", settings | {"beats": str(tmp_path / "wide")}, CPU, torch.float32)
    tiny_beats(16, layers=2).save_pretrained(tmp_path / "flat")
    with pytest.raises(UserError, match="has 2 layers"):
        load_beats(str(tmp_path / "flat"))
    with pytest.raises(UserError, match="AudioTokenEmbedder"):
        load_beats(str(tmp_path / "run/embedder"))
    shutil.rmtree(tmp_path / "run/embedder")
    with pytest.raises(UserError, match="embedder"):
        load(tmp_path / "run", settings, CPU, torch.float32)
