"""run_eval.sh of tta/audioldm with a pipeline of random weights: on recordings, and in the miniature world."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sonolume.bins import evaluate
from sonolume.utils import audio, cli

RATE = 16000
CLIPS = 6


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A processed_dir with one data set: gliding tones of 0.8 s with captions in test.json, one for validation."""
    folder = tmp_path_factory.mktemp("processed") / "glides"
    time = np.arange(round(0.8 * RATE)) / RATE
    rows = []
    for number in range(CLIPS):
        wave = 0.4 * np.sin(2 * np.pi * (300 + 200 * number + 400 * time) * time)
        audio.save_wav(folder / f"{number}.wav", wave.astype(np.float32), RATE)
        rows.append({"Uid": f"glide {number}", "Audio": f"{number}.wav", "Caption": f"a tone of height {number}"})
    (folder / "test.json").write_text(json.dumps(rows))
    (folder / "valid.json").write_text(json.dumps(rows[:1]))
    return folder


@pytest.fixture
def copy(recordings: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return Path(shutil.copytree(recordings, tmp_path / "processed" / "glides"))


@pytest.fixture
def score(tiny_config: Callable[..., Path], tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., int]:
    """score(folder of a data set, flags ...) -> exit code; the report goes to tmp_path / "report"."""

    def run(dataset: Path, *more: str) -> int:
        config = tiny_config("tta/audioldm", preprocess={"processed_dir": str(dataset.parent)})
        given = ["--config", str(config), f"dataset=[{dataset.name}]", "--checkpoint", str(tiny_checkpoint)]
        given += ["--num_steps", "2", "--device", "cpu", "--output_dir", str(tmp_path / "report")]
        return cli.run(evaluate.main, [*given, *more])

    return run


def report_in(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "report.json").read_text())
    return content | {"scores": {row["name"]: row for row in content["scores"]}}


def test_on_recordings(
    recordings: Path, score: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(recordings) == 0
    assert "customary, if downloading is possible: --embedder clap:" in capsys.readouterr().err
    report, folder = report_in(tmp_path / "report"), tmp_path / "report"
    agreement = report["scores"]["cosine to the reference mel:"]
    assert agreement["count"] == report["conditions"]["generated"] == CLIPS
    assert set(agreement["baselines"]) == {"VAE"}
    assert agreement["chance"] is not None
    assert set(report["scores"]["FAD mel:"]["baselines"]) == {"VAE"}  # a set's distance to itself is no baseline
    lengths = {name: len(audio.load(folder / name / "glide 3.wav", RATE))
               for name in ("generated", "reference", "reconstructed")}  # fmt: skip
    assert lengths == dict.fromkeys(lengths, 32 * 256)  # one clip of the pipeline
    assert (folder / "samples.png").is_file() and "mel:" in (folder / "report.md").read_text()


def test_an_interrupted_evaluation_resumes(recordings: Path, score: Callable[..., int], tmp_path: Path) -> None:
    assert score(recordings, "--batch_size", "4") == 0
    first = (tmp_path / "report" / "report.json").read_bytes()
    sounds = {path: path.read_bytes() for path in (tmp_path / "report").rglob("glide*.wav")}
    assert len(sounds) == 3 * CLIPS
    for path in list(sounds)[::2]:
        path.unlink()
    assert score(recordings, "--batch_size", "4") == 0
    assert {path: path.read_bytes() for path in sounds} == sounds
    assert (tmp_path / "report" / "report.json").read_bytes() == first


def test_another_sampler_in_the_same_folder_is_refused(
    recordings: Path, score: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(recordings) == 0
    assert score(recordings, "--num_steps", "3", "--seed", "5") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "num_steps 2 / 3; seed 0 / 5: choose another --output_dir" in error


def test_a_folder_named_on_the_command_line(
    recordings: Path, score: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(3):
        shutil.copy(recordings / f"{number}.wav", mine / f"{number}.wav")
        (mine / f"{number}.txt").write_text(f"tone {number}\nsecond wording")
    (mine / "2.txt").unlink()
    assert score(recordings, "--reference", str(mine), "--embedder", "mel:", "--cache_dir", str(tmp_path / "c")) == 0
    assert report_in(tmp_path / "report")["conditions"]["reference"] == 2  # those with a caption
    assert list((tmp_path / "c").rglob("*.safetensors"))


def test_recordings_that_are_gone_are_listed(copy: Path, score: Callable[..., int], tmp_path: Path) -> None:
    (copy / "1.wav").unlink()
    (copy / "2.wav").write_text("no sound")
    assert score(copy) == 0
    report = report_in(tmp_path / "report")
    assert {uid for uid, _ in report["left_out"]} == {"glide 1", "glide 2"}
    assert report["conditions"]["generated"] == CLIPS - 2
    assert not (tmp_path / "report" / "generated" / "glide 1.wav").exists()


def test_one_recording(copy: Path, score: Callable[..., int], tmp_path: Path) -> None:
    (copy / "test.json").unlink()  # the validation split serves, which has one
    assert score(copy) == 0
    report = report_in(tmp_path / "report")
    assert "FAD mel:" not in report["scores"] and "they need 2" in report["facts"]["distances"]
    assert report["scores"]["cosine to the reference mel:"]["count"] == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "test.json and valid.json without rows: give some clips the Split test or valid"),
        ([{"Uid": "a", "Audio": "0.wav"}], "not one of 1 rows has a caption"),
        ([{"Uid": "a", "Caption": "x", "Audio": "gone.wav"}], "not one of 1 recordings can be used: "),
        ([{"Uid": "../a", "Caption": "x", "Audio": "0.wav"}], "Uid '../a' is no file name"),
        ([{"Uid": "a", "Caption": "x" * 600, "Audio": "0.wav"}], "all captions are longer than 512 tokens"),
        (None, "neither test.json nor valid.json: prepare the data first"),
    ],
)
def test_bad_input(
    copy: Path, score: Callable[..., int], capsys: pytest.CaptureFixture[str], rows: Any, message: str
) -> None:
    for name in ("test.json", "valid.json"):
        (copy / name).unlink()
        if rows is not None:
            (copy / name).write_text(json.dumps(rows))
    assert score(copy) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]


def test_in_the_miniature_world(tiny_checkpoint: Path, root: Path, tmp_path: Path) -> None:
    """Noise is no sound of the twelve, real renderings are."""
    config = str(root / "egs" / "tta" / "audioldm" / "tiny.json")
    given = ["--config", config, "--checkpoint", str(tiny_checkpoint), "--output_dir", str(tmp_path)]
    few = ["--num_samples", "10", "--num_steps", "1", "--device", "cpu", "--embedder", "mini:sound_judge"]
    assert cli.run(evaluate.main, [*given, *few]) == 0
    scores = report_in(tmp_path)["scores"]
    assert [name for name, row in scores.items() if row["headline"]] == ["single", "count", "then: both", "over: both"]
    single = scores["single"]
    assert single["value"] <= 0.5 < single["baselines"]["real"][0] and single["chance"] == pytest.approx(1 / 12)
    assert set(single["baselines"]) == {"VAE", "real", "second judge"} and single["unit"] == "%"
    kl = scores["KL sigmoid mini:sound_judge"]
    assert kl["value"] > 0 and kl["chance"] is not None
