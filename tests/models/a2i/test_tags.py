"""Tags of recordings: any rate and length; what cannot be heard is one clear line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sonolume.models.a2i import tags
from sonolume.modules.beats.beats import BEATs
from sonolume.utils import audio
from sonolume.utils.errors import UserError


def tiny(labels: list[str], classes: int = 3) -> BEATs:
    torch.manual_seed(0)
    return BEATs(embed_dim=8, encoder_layers=1, encoder_embed_dim=8, encoder_ffn_embed_dim=8, encoder_attention_heads=2,
                 conv_pos=4, conv_pos_groups=2, predictor_class=classes, labels=labels).eval()  # fmt: skip


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """1.5 s at 44.1 kHz, stereo."""
    audio.save_wav(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, (2, 66150)), 44100)
    return tmp_path / "noise.wav"


def test_the_likeliest_first(noise: Path):
    beats = tiny(["/m/05tny_", "a hum", "a click"])
    (found,) = tags.listen(beats, [noise], top=2)
    wave = torch.from_numpy(audio.load(noise, 16000))[None]
    best = beats.tags(wave)[0].topk(2)
    assert [name for name, _ in found.tags] == [beats.labels[index] for index in best.indices]
    assert [chance for _, chance in found.tags] == pytest.approx(best.values.tolist(), abs=1e-6)
    assert found.duration == pytest.approx(1.5, abs=0.01)
    assert len(tags.listen(beats, [noise], top=50)[0].tags) == 3


def test_windows_of_a_long_recording_are_averaged(noise: Path):
    beats, wave = tiny([]), torch.from_numpy(audio.load(noise, 16000))
    (found,) = tags.listen(beats, [noise], top=3, window=1.0)
    halves = torch.stack([wave[:16000], wave[-16000:]])
    assert dict(found.tags) == pytest.approx(
        {str(index): chance for index, chance in enumerate(beats.tags(halves).mean(0).tolist())}, abs=1e-6
    )


def test_printed(noise: Path, capsys: Any):
    beats = tiny(["/m/05tny_", "a hum", "a click"])
    tags.print_tags(beats, [noise], top=3)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{noise}  1.50 s" and len(lines) == 3 and any(line.endswith("%  Bark") for line in lines)
    tags.print_tags(beats, [noise, noise], top=1, as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2 and rows[0]["file"] == str(noise) and set(rows[0]["tags"][0]) == {"tag", "probability"}


def test_silence_has_tags(tmp_path: Path):
    audio.save_wav(tmp_path / "silence.wav", np.zeros(16000), 16000)
    assert len(tags.listen(tiny([]), [tmp_path / "silence.wav"])[0].tags) == 3


def test_what_cannot_be_heard_is_one_line(tmp_path: Path):
    def refused(message: str, beats: BEATs, path: Path) -> None:
        with pytest.raises(UserError, match=message) as caught:
            tags.listen(beats, [path])
        assert "\n" not in str(caught.value)

    short, broken = tmp_path / "short.wav", tmp_path / "nan.wav"
    audio.save_wav(short, np.zeros(2799), 16000)
    refused("short.wav: 0.17 s of sound: too short, at least 0.18 s are needed", tiny([]), short)
    soundfile.write(broken, np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    refused("nan.wav: holds samples that are not numbers", tiny([]), broken)
    refused("has no head and tells no tags", tiny([], classes=0), short)
    refused("none.wav: no such sound file", tiny([]), tmp_path / "none.wav")
