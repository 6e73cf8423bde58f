"""The vocoder's report, on a data set and in the miniature world."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sonolume.bins import evaluate
from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.evaluation.held_out import Clips
from sonolume.models.evaluation.report import Report
from sonolume.models.tta.hifigan import evaluate as vocoder_evaluation
from sonolume.models.tta.hifigan import model
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils import cli

HOP = 256


def test_the_report(make_config: Callable[..., Path], vocoder: Path, tmp_path: Path):
    given = ["--config", str(make_config()), "--checkpoint", str(vocoder)]
    assert cli.run(evaluate.main, [*given, "--device", "cpu", "--output_dir", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    rows = {row["name"]: row for row in report["scores"]}
    assert list(rows) == ["mel L1", "log-spectral distance", "STFT distance", "SI-SDR"]
    level, baselines = rows["mel L1"]["value"], rows["mel L1"]["baselines"]
    assert baselines["Griffin-Lim"][0] <= baselines["refined"][0] < level  # this vocoder has learned nothing
    assert rows["mel L1"]["headline"] and rows["mel L1"]["chance"] > 1
    assert report["conditions"]["generated"] == report["facts"]["clips"] > 0 == report["counts"]["clipped real"]
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| refined | Griffin-Lim |" in page and (tmp_path / "report" / "samples.png").is_file()


def test_the_curve_of_validation_agrees_with_the_report(make_config: Callable[..., Path], tmp_path: Path):
    path = make_config()
    folder = training.run(load_config(path), resume=False).parent
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    last = {name: board.Scalars(f"val/{name}")[-1].value for name in ("mel_l1", "log_spectral_distance", "loss")}
    argv = ["--config", str(path), "--checkpoint", str(folder / "pipeline"), "--device", "cpu"]
    assert cli.run(evaluate.main, [*argv, "--output_dir", str(tmp_path / "report")]) == 0
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["scores"]
    values = {row["name"]: row["value"] for row in rows}
    assert last["mel_l1"] == pytest.approx(values["mel L1"], rel=1e-4) == pytest.approx(last["loss"])
    assert last["log_spectral_distance"] == pytest.approx(values["log-spectral distance"], rel=1e-4)


def test_with_nothing_trained_the_shipped_part_is_scored_in_its_world(
    root: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]
):
    config = str(root / "egs" / "tta" / "hifigan" / "exp_config.json")
    argv = ["--config", config, f"log_dir='{in_folder}/runs'", "--num_samples", "2", "--device", "cpu"]
    assert cli.run(evaluate.main, argv) == 0
    assert "evaluated on held-out scenes" in capsys.readouterr().err
    report = json.loads((in_folder / "evaluation" / "tta_hifigan" / "report.json").read_text())
    row = report["scores"][0]
    assert row["baselines"]["refined"][0] < row["value"] < 0.5 < 1 < row["chance"]
    assert report["facts"]["of"] == "test scenes of the miniature world"


def test_broken_clips_are_listed_and_have_no_part_in_the_mean(monkeypatch: pytest.MonkeyPatch, vocoder: Path):
    random = torch.Generator().manual_seed(0)
    waves = 0.1 * torch.randn(3, 8 * HOP, generator=random)
    mels = MelSpectrogram()(waves)
    made = waves * torch.tensor([2.0, torch.nan, 0.0])[:, None]  # twice as loud, broken, silent
    monkeypatch.setattr(vocoder_evaluation, "resynthesise", lambda *_: made)
    clips, report = Clips(list("abc"), lambda index: (mels[index], waves[index]), {}), Report({})
    shown = vocoder_evaluation.score(report, clips, model.load(str(vocoder), "x"), MelSettings())
    assert report.left_out == [("b", "its reconstruction holds NaN")]
    assert (report.counts["silent generated"], report.counts["silent real"]) == (1, 0)
    rows = {row.name: row for row in report.scores}
    assert rows["mel L1"].count == 2 and rows["SI-SDR"].count == 1  # none of silence
    chance = rows["mel L1"].chance
    assert chance is not None and rows["mel L1"].value == pytest.approx((np.log(2) + chance) / 2, rel=0.1)
    assert list(shown) == ["real", "vocoder", "refined", "Griffin-Lim"] and shown["real"].shape == (3, 80, 8)
