"""The autoencoder's report: in the miniature world with nothing trained or prepared, and on a data set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sonolume.bins import evaluate
from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.evaluation.held_out import Clips
from sonolume.models.tta.autoencoderkl.evaluate import score
from sonolume.modules.mel import MelSettings
from sonolume.modules.metrics.reconstruction import mel_l1
from sonolume.utils import cli


def report_of(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    return report | {"values": {row["name"]: row["value"] for row in report["scores"]}}


def test_with_nothing_trained_the_shipped_part_is_scored_in_its_world(
    root: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(root / "egs" / "tta" / "autoencoderkl" / "exp_config.json")
    argv = ["--config", config, f"log_dir='{in_folder}/runs'", "--num_samples", "3", "--device", "cpu"]
    assert cli.run(evaluate.main, argv) == 0
    assert "evaluated on held-out scenes" in capsys.readouterr().err
    report = report_of(in_folder / "evaluation" / "tta_autoencoderkl")
    row = report["scores"][0]
    assert row["name"] == "mel L1" and row["headline"] and row["unit"] == "nats"
    assert row["low"] < row["value"] < 0.4 < 1 < row["chance"]  # the shipped part is trained
    assert report["conditions"]["data"]["seed"] == 1 and report["conditions"]["window"] == 2.56
    assert (in_folder / "evaluation" / "tta_autoencoderkl" / "samples.png").is_file()


def test_the_curve_of_validation_agrees_with_the_report(tiny_config: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_config("tta/autoencoderkl")
    config = load_config(path)
    task, data = training.build(config)
    run = training.fit(task, data, config, config.train, resume=False)
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    last = {name: board.Scalars(f"val/{name}")[-1].value for name in ("mel_l1", "log_spectral_distance", "loss")}
    argv = ["--config", str(path), "--checkpoint", str(run / "pipeline"), "--device", "cpu"]
    assert cli.run(evaluate.main, [*argv, "--output_dir", str(tmp_path / "report")]) == 0
    values = report_of(tmp_path / "report")["values"]
    assert last["mel_l1"] == pytest.approx(values["mel L1"], rel=1e-5) == pytest.approx(last["loss"])
    assert last["log_spectral_distance"] == pytest.approx(values["log-spectral distance"], rel=1e-5)


def test_broken_reconstructions_are_listed_and_silent_ones_counted() -> None:
    real = torch.randn(4, 80, 16, generator=torch.Generator().manual_seed(0))
    rebuilt = real + 0.5
    rebuilt[1, 3, 2], rebuilt[2] = np.nan, -11.5129
    report = score(Clips(list("abcd"), lambda index: (real[index], torch.zeros(0)), {}), real, rebuilt, MelSettings())
    kept = torch.stack([mel_l1(real, rebuilt)[index] for index in (0, 2, 3)])
    assert report.scores[0].value == pytest.approx(float(kept.mean())) and report.scores[0].count == 3
    assert report.left_out == [("b", "its reconstruction holds NaN")]
    assert report.counts == {"silent real": 0, "silent reconstructed": 1}
    others = torch.stack([real[[other for other in range(4) if other != index]].mean(dim=0) for index in range(4)])
    assert report.scores[0].chance == pytest.approx(float(mel_l1(real, others).mean()), rel=1e-5)


def test_data_of_other_mels_are_refused(tiny_config: Callable[..., Path], tiny_checkpoint: Path, capsys: Any) -> None:
    path = tiny_config("tta/autoencoderkl", preprocess={"fmax": 7000})
    assert cli.run(evaluate.main, ["--config", str(path), "--checkpoint", str(tiny_checkpoint), "--device", "cpu"]) == 2
    assert "the data have other mels than the model takes" in capsys.readouterr().err
