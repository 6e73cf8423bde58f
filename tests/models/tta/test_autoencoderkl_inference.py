from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sonolume.bins import inference
from sonolume.models.tta.autoencoderkl import inference as autoencoderkl
from sonolume.utils import audio, cli


def _reconstruct(root: Path, sounds: Path, out: Path) -> int:
    config = str(root / "egs" / "tta" / "autoencoderkl" / "tiny.json")
    shipped = str(root / "pretrained" / "mini" / "text_to_audio")
    argv = ["--config", config, "--checkpoint", shipped, "--device", "cpu", "--audio", str(sounds)]
    return cli.run(inference.main, [*argv, "--output_dir", str(out)])


def test_one_bad_file_among_many_is_left_out(root: Path, in_folder: Path, capsys: Any):
    sounds = in_folder / "sounds"
    sounds.mkdir()
    (sounds / "a text.wav").write_text("not a sound")
    audio.save_wav(sounds / "tone.wav", 0.3 * np.sin(np.arange(8000, dtype=np.float32) / 5), 16000)
    assert _reconstruct(root, sounds, in_folder / "out") == 0
    assert {path.name for path in (in_folder / "out").glob("*.wav")} == {"tone_reconstructed.wav"}
    assert "left out" in capsys.readouterr().err


def test_nothing_but_bad_files_is_an_error(root: Path, in_folder: Path, capsys: Any):
    (in_folder / "a.wav").write_text("not a sound")
    assert _reconstruct(root, in_folder / "a.wav", in_folder / "out") == 2
    assert "not readable as sound" in capsys.readouterr().err


def test_what_is_not_finite_is_left_out(root: Path, in_folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    sounds, tone = in_folder / "sounds", 0.3 * np.sin(np.arange(8000, dtype=np.float32) / 5)
    sounds.mkdir()
    for name, factor in (("nan", np.nan), ("huge", 1e30), ("ok", 1.0)):
        soundfile.write(sounds / f"{name}.wav", factor * tone, 16000, subtype="FLOAT")
    assert _reconstruct(root, sounds, in_folder / "out") == 0
    assert {path.name for path in (in_folder / "out").glob("*.wav")} == {"ok_reconstructed.wav"}
    assert "1 out of range" in (errors := capsys.readouterr().err) and "1 NaN" in errors
    monkeypatch.setattr(autoencoderkl, "reconstruct", lambda vae, mel: mel * torch.nan)
    assert _reconstruct(root, sounds / "ok.wav", in_folder / "out") == 2
    assert "ok.wav: its result is NaN" in capsys.readouterr().err
    assert len(list((in_folder / "out").iterdir())) == 3
