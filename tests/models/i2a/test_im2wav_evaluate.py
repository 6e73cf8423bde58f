"""Evaluation of the VQ-VAE on recordings, whose lengths differ."""

import json
from pathlib import Path

import numpy as np
import pytest

from sonolume.bins import evaluate, preprocess
from sonolume.utils import audio, cli


@pytest.fixture
def recordings(tmp_path: Path) -> list[str]:
    """The arguments that choose a data set of four noises, one of which is for training."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(4):
        audio.save_wav(tmp_path / f"{number}.wav", 0.2 * random.standard_normal(16000 + 3000 * number), 16000)
        rows.append({"Uid": str(number), "Audio": f"{number}.wav", "Split": "valid" if number else "train"})
    (tmp_path / "sounds.json").write_text(json.dumps(rows))
    chosen = ["dataset=[mine]", f"preprocess.processed_dir={tmp_path / 'data'}"]
    return [*chosen, "preprocess.miniworld.train_scenes=0", "preprocess.miniworld.valid_scenes=0"]


def test_the_vqvae_is_scored_on_recordings(
    root: Path, tiny_im2wav: Path, recordings: list[str], tmp_path: Path
) -> None:
    config = ["--config", str(root / "egs/i2a/im2wav/tiny_vqvae.json"), *recordings]
    manifest = str(tmp_path / "sounds.json")
    given = ["--input", manifest, "--dataset", "mine", "preprocess.num_workers=0"]
    assert cli.run(preprocess.main, [*config, *given]) == 0
    out, checkpoint = tmp_path / "report", str(tiny_im2wav)
    assert cli.run(evaluate.main, [*config, "--checkpoint", checkpoint, "--output_dir", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["facts"]["clips"] == 3 and (out / "samples.png").is_file()
    assert report["facts"]["of"] == "validation clips of mine"
    assert any("mel L1" in json.dumps(score) for score in report["scores"])


def test_another_sample_rate_is_refused(
    root: Path, tiny_im2wav: Path, recordings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(root / "egs/i2a/im2wav/tiny_vqvae.json"), *recordings, "preprocess.sample_rate=22050"]
    assert cli.run(evaluate.main, [*config, "--checkpoint", str(tiny_im2wav), "--output_dir", str(tmp_path / "r")]) == 2
    assert "preprocess.sample_rate" in capsys.readouterr().err
