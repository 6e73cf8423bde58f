"""`bins/evaluate.py --generated` on small folders, and the comparison of two such results."""

import json
from pathlib import Path

import numpy as np
import pytest

from sonolume.bins import compare, evaluate
from sonolume.utils import audio, cli

RATE = 16000


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """real: 8 tones; near: the same, quieter; far: noise. near tells its texts."""
    time, random = np.arange(RATE) / RATE, np.random.default_rng(0)
    for number in range(8):
        tone = 0.5 * np.sin(2 * np.pi * 300 * (number + 1) * time)
        for name, wave in (("real", tone), ("near", 0.9 * tone), ("far", 0.3 * random.standard_normal(RATE))):
            audio.save_wav(tmp_path / name / f"{number}.wav", wave.astype(np.float32), RATE)
        (tmp_path / "near" / f"{number}.json").write_text(json.dumps({"text": f"tone {number}"}))
    return tmp_path


def score(root: Path, generated: str, *more: str) -> int:
    config = str(Path(__file__).parents[3] / "egs/tta/audioldm/tiny.json")
    argv = ["--config", config, "--generated", str(root / generated), "--output_dir", str(root / f"{generated}_scored")]
    return cli.run(evaluate.main, [*argv, "--device", "cpu", *more])


def test_the_nearer_folder_wins_and_the_comparison_says_so(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listening = ["--reference", str(folders / "real"), "--embedder", "mel:"]
    for name in ("near", "far"):
        assert score(folders, name, *listening, "--cache_dir", str(folders / "cache")) == 0
    report = json.loads((folders / "near_scored" / "report.json").read_text())
    assert {"FAD mel:", "KID mel:", "cosine to the reference mel:"} <= {row["name"] for row in report["scores"]}
    assert report["conditions"]["generated"] == report["conditions"]["reference"] == 8
    capsys.readouterr()
    assert cli.run(compare.main, [str(folders / "far_scored"), str(folders / "near_scored")]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| FAD mel:"))
    assert row.split("|")[3].strip().startswith("**")


def test_results_of_other_embedders_are_not_ranked(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, embedder in (("near", "mel:"), ("far", "mini:sound_judge")):
        assert score(folders, name, "--reference", str(folders / "real"), "--embedder", embedder) == 0
    assert cli.run(compare.main, [str(folders / "near_scored"), str(folders / "far_scored")]) == 2
    assert "measured differently" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--generated needs --embedder"),
        (["--embedder", "ears:x"], "there is no such kind"),
        (["--embedder", "mel:", "--reference", "nowhere"], "--reference nowhere: no such file or folder"),
    ],
)
def test_bad_input(folders: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    assert score(folders, "near", *more) == 2
    assert message in capsys.readouterr().err
    assert not (folders / "near_scored").exists()


def test_an_embedder_without_sounds_to_hear(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(Path(__file__).parents[3] / "egs/tta/audioldm/tiny.json")
    assert cli.run(evaluate.main, ["--config", config, "--embedder", "mel:"]) == 2
    assert "--embedder needs --generated" in capsys.readouterr().err
