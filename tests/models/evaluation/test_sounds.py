"""Scored by an embedder of two numbers that can be worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.sounds import Sounds, score
from sonolume.utils import audio
from sonolume.utils.errors import UserError


class Level(Embedder):
    """Embeds a sound as (1, 10 x its level), a text "loud 0.5" likewise; tells quiet from loud."""

    name, takes, dim, sample_rate, labels = "level:0@1", ("sounds", "texts"), 2, 16000, ("Quiet", "Loud")

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        level = torch.tensor([float(np.abs(wave).mean()) for wave in waves])
        rows = torch.stack([torch.ones_like(level), 10 * level], dim=1)
        return Features(rows, torch.stack([torch.zeros_like(level), 100 * (level - 0.25)], dim=1))

    def text_features(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[1, 10 * float(text.split()[1])] for text in texts])


def write(folder: Path, levels: dict[str, float]) -> dict[str, Path]:
    for uid, level in levels.items():
        audio.save_wav(folder / f"{uid}.wav", np.full(8000, level, np.float32), 16000)
    return {uid: folder / f"{uid}.wav" for uid in levels}


LEVELS = {"a": 0.1, "b": 0.2, "c": 0.4, "d": 0.8}


def scores(sounds: Sounds, **more: Any) -> tuple[dict[str, float], Report]:
    report = Report({})
    score(report, sounds, Level(), None, 4, **more)
    return {row.name: row.value for row in report.scores}, report


def test_the_reference_itself_is_perfect(tmp_path: Path) -> None:
    files = write(tmp_path, LEVELS)
    captions = {uid: f"loud {level}" for uid, level in LEVELS.items()}
    labels = {"a": "quiet", "b": "quiet", "c": "loud", "d": "unknown"}
    found, report = scores(Sounds(files, files, captions, labels))
    assert found["FAD level:0"] == pytest.approx(0, abs=1e-5)
    assert found["KL softmax level:0"] == pytest.approx(0, abs=1e-9)
    assert found["cosine to the reference level:0"] == pytest.approx(1)
    assert found["text agreement level:0"] == pytest.approx(1, abs=1e-4)
    assert found["R@1 text to sound level:0"] == found["MRR sound to text level:0"] == 1
    assert found["class accuracy level:0"] == 1
    assert found["IS level:0"] == pytest.approx(2, abs=0.1)  # two sure classes, two sounds each
    assert "below" not in next(row for row in report.scores if row.name.startswith("FAD")).note  # 4 = 2 x 2
    assert next(row for row in report.scores if row.name.startswith("class")).count == 3


def test_pairs_are_made_by_uid_and_a_shift_is_its_square(tmp_path: Path) -> None:
    real = write(tmp_path / "real", LEVELS)
    made = write(tmp_path / "made", {uid: level + 0.1 for uid, level in reversed(LEVELS.items())})
    found, report = scores(Sounds(made, real))
    assert found["FAD level:0"] == pytest.approx(1, rel=1e-3)  # 10 x 0.1
    swapped, _ = scores(Sounds(dict(zip(LEVELS, made.values(), strict=True)), real))
    assert swapped["KL softmax level:0"] > found["KL softmax level:0"] > 0
    assert {uid for name, uid, _ in report.outliers if name.startswith("KL")} == set(LEVELS)


def test_few_sounds_are_flagged(tmp_path: Path) -> None:
    files = write(tmp_path, {"a": 0.1, "b": 0.2, "c": 0.3})
    _, report = scores(Sounds(files, files))
    assert "below 2 x 2" in next(row for row in report.scores if row.name.startswith("FAD")).note


def test_silent_and_clipped_sounds_are_counted_and_bad_ones_listed(tmp_path: Path) -> None:
    real = write(tmp_path / "real", LEVELS | {"quiet": 0.0})
    made = write(tmp_path / "made", LEVELS | {"none": 0.0, "full": 1.0})
    (tmp_path / "made" / "bad.wav").write_text("no sound")
    _, report = scores(Sounds(made | {"bad": tmp_path / "made" / "bad.wav"}, real))
    assert report.counts == {
        "silent generated": 1, "clipped generated": 1, "silent reference": 1, "clipped reference": 0,
    }  # fmt: skip
    assert {Path(name).name for name, _ in report.left_out} == {"bad.wav", "quiet.wav"}


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no sound")
    with pytest.raises(UserError, match="not one usable generated sound"):
        scores(Sounds({"bad": tmp_path / "bad.wav"}))
