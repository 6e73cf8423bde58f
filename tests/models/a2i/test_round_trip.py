"""run_eval.sh --text_to_audio: captions become sounds, and those become pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sonolume.bins import evaluate
from sonolume.utils import audio, cli

SHIPPED = "pretrained/mini/text_to_audio"
CONFIG = "egs/a2i/audiotoken/tiny.json"


@pytest.fixture
def score(root: Path, tmp_path: Path) -> Callable[..., int]:
    """score(flags ...) -> exit code; the shipped AudioToken draws, the report goes to tmp_path / "report"."""

    def run(*more: str) -> int:
        given = ["--config", str(root / CONFIG), "--checkpoint", str(root / "pretrained/mini/audiotoken")]
        return cli.run(evaluate.main, [*given, "--device", "cpu", "--output_dir", str(tmp_path / "report"), *more])

    return run


def report_in(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "report.json").read_text())
    return content | {"scores": {row["name"]: row for row in content["scores"]}}


def test_in_the_miniature_world(score: Callable[..., int], tmp_path: Path) -> None:
    """The shipped parts keep the kind far better than chance, even in few steps; the run can be gone on with."""
    few = ["--text_to_audio", SHIPPED, "--num_samples", "6", "--num_steps", "10", "--embedder", "mini:world"]
    assert score(*few) == 0
    folder, report = tmp_path / "report", report_in(tmp_path / "report")
    right = report["scores"]["right kind of picture"]
    assert right["count"] == 6 and right["value"] >= 0.5 > 2 * right["chance"]
    assert list(right["baselines"]) == ["real sound", "caption", "VAE", "real"]
    assert report["scores"]["kind kept, caption to sound"]["value"] >= 0.5
    assert report["scores"]["kind kept, sound to picture"]["baselines"]["real sound"][0] >= 0.5
    assert report["scores"]["CLIP score mini:world"]["chance"] < report["scores"]["CLIP score mini:world"]["value"]
    assert report["conditions"]["start"] == "caption" and report["facts"]["text to audio's num_steps"] == 10
    assert (folder / "samples.png").is_file() and "](samples.png)" in (folder / "report.md").read_text()
    made = sorted((folder / "round_trip").glob("*.png"))
    assert len(made) == len(list((folder / "from_text").glob("*.wav"))) == 6
    before, whole = made[0].read_bytes(), (folder / "report.json").read_bytes()
    assert before != (folder / "generated" / made[0].name).read_bytes()  # of the real sound
    made[0].unlink()
    assert score(*few) == 0
    assert made[0].read_bytes() == before and (folder / "report.json").read_bytes() == whole


def test_from_captions_of_ones_own(
    score: Callable[..., int], tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without real sounds or pictures the only baseline is the picture of the caption."""
    rows = [{"Uid": "a", "Caption": "a bell"}, {"Uid": "b", "Caption": "a dog barking"}]
    rows += [{"Uid": "long", "Caption": "bell " * 90}]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    few = ["--text_to_audio", str(tiny_checkpoint), "--captions", str(tmp_path / "mine.json"), "--num_steps", "1"]
    assert score(*few) == 2
    assert "--embedder is needed" in capsys.readouterr().err
    assert score(*few, "--embedder", "mini:world", "--embedder", "mini:sound_judge") == 0
    report = report_in(tmp_path / "report")
    agreement = report["scores"]["CLIP score mini:world"]
    assert agreement["count"] == 2 and list(agreement["baselines"]) == ["caption"]
    assert agreement["baselines"]["caption"][0] > agreement["value"]
    assert "IS mini:sound_judge" in report["scores"]  # of the sounds on the way
    assert [uid for uid, _ in report["left_out"]] == ["long"]
    assert not (tmp_path / "report" / "generated").exists()


def test_a_silent_sound_becomes_black(score: Callable[..., int], tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps([{"Uid": u, "Caption": "a bell"} for u in ("a", "b")]))
    given = ["--text_to_audio", str(tiny_checkpoint), "--captions", str(tmp_path / "mine.json"), "--num_steps", "1"]
    assert score(*given, "--embedder", "mini:world") == 0
    folder = tmp_path / "report"
    audio.save_wav(folder / "from_text" / "b.wav", np.zeros(8000, np.float32), 16000)
    (folder / "round_trip" / "b.png").unlink()
    assert score(*given, "--embedder", "mini:world") == 0
    with Image.open(folder / "round_trip" / "b.png") as picture:
        assert picture.convert("RGB").getextrema() == ((0, 0),) * 3
    report = report_in(folder)
    assert report["counts"]["of one colour, generated"] == 1 and report["conditions"]["generated"] == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--captions", "FILE"], "--captions needs --text_to_audio"),
        (["--captions", "gone.json", "--text_to_audio", SHIPPED], "--captions gone.json: no such file"),
        (["--captions", "FILE", "--text_to_audio", SHIPPED, "--embedder", "mini:world"], "not one of 1 rows"),
        (["--text_to_audio", "./gone", "--num_samples", "1"], "--text_to_audio ./gone: no such folder"),
        (["--text_to_audio", "pretrained/mini/stable_diffusion", "--num_samples", "1"], "StableDiffusionPipeline"),
    ],
)
def test_bad_input(
    score: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    (tmp_path / "mine.json").write_text(json.dumps([{"Uid": "a", "Audio": "a.wav"}]))
    assert score(*[str(tmp_path / "mine.json") if flag == "FILE" else flag for flag in flags]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
