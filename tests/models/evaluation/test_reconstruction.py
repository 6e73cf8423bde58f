"""Folders of rebuilt sounds against their originals; `bins/evaluate.py` of the two recipes that take them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sonolume.bins import compare, evaluate
from sonolume.models.evaluation import reconstruction
from sonolume.models.evaluation.folders import collect
from sonolume.models.evaluation.report import Report
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.modules.metrics.reconstruction import log_spectral_distance, mel_l1, si_sdr, stft_distance
from sonolume.utils import audio, cli
from sonolume.utils.errors import UserError

RATE = 16000
SETTINGS = MelSettings()
TITLES = [title for title, *_ in reconstruction.DISTANCES.values()]


def tone(number: int, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * 220 * (number + 1) * time)).astype(np.float32)


def noise(number: int, size: int = RATE // 2) -> np.ndarray:
    return np.random.default_rng(number).normal(0, 0.05, size).astype(np.float32)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """real: 3 tones, one deeper inside; near and far: the same with little and with much noise."""
    for number, uid in enumerate(("a", "b", "deep/c")):
        audio.save_wav(tmp_path / "real" / f"{uid}.wav", tone(number), RATE)
        for name, level in (("near", 0.1), ("far", 3.0)):
            audio.save_wav(tmp_path / name / f"{uid}.wav", tone(number) + level * noise(number), RATE)
    return tmp_path


def scored(generated: Path, reference: Path) -> Report:
    report = Report({})
    reconstruction.add_pair_distances(report, collect(generated, reference, report), SETTINGS)
    return report


def value(report: Report, name: str) -> float:
    return next(score.value for score in report.scores if score.name == name)


def test_the_scores_are_the_metrics_of_each_pair(folders: Path) -> None:
    report = scored(folders / "far", folders / "real")
    mel, found = MelSpectrogram(), []
    for uid in ("a", "b", "deep/c"):
        waves = (audio.load(folders / side / f"{uid}.wav", RATE) for side in ("real", "far"))
        real, made = (torch.from_numpy(wave)[None] for wave in waves)
        mels = mel(real), mel(made)
        found.append([mel_l1(*mels), log_spectral_distance(*mels), stft_distance(real, made), si_sdr(real, made)])
    for position, name in enumerate(TITLES):
        mean = float(np.mean([float(values[position]) for values in found]))
        assert value(report, name) == pytest.approx(mean, rel=1e-5), name
    assert [score.name for score in report.scores if score.headline] == ["mel L1"]
    assert {score.name: (score.unit, score.better) for score in report.scores} == {
        "mel L1": ("nats", "down"), "log-spectral distance": ("dB", "down"), "STFT distance": ("", "down"),
        "SI-SDR": ("dB", "up"),
    }  # fmt: skip


def test_the_original_itself_is_perfect(folders: Path) -> None:
    report = scored(folders / "real", folders / "real")
    assert [value(report, name) for name in TITLES[:3]] == [0, 0, 0]
    assert value(report, "SI-SDR") > 60


def test_conditions_hold_the_settings(folders: Path) -> None:
    near, far = (scored(folders / name, folders / "real").conditions for name in ("near", "far"))
    assert near == far and near["sample_rate"] == RATE and near["mel"]["hop_size"] == 256 and near["generated"] == 3
    (folders / "far" / "b.wav").unlink()
    assert scored(folders / "far", folders / "real").conditions["reference_hash"] != near["reference_hash"]


def test_originals_of_the_same_names_but_other_sounds_are_other_conditions(folders: Path) -> None:
    before = scored(folders / "near", folders / "real").conditions
    audio.save_wav(folders / "real" / "a.wav", 0.5 * tone(0), RATE)
    after = scored(folders / "near", folders / "real").conditions
    assert {field for field in before if before[field] != after[field]} == {"contents"}


def test_other_rates_are_resampled_and_small_differences_of_length_cut(folders: Path) -> None:
    for number, uid in enumerate(("a", "b")):
        audio.save_wav(folders / "copy" / f"{uid}.wav", tone(number, 0.53, 44100), 44100)
    report = scored(folders / "copy", folders / "real")
    assert report.counts["pairs"] == 2 and value(report, "SI-SDR") > 20


def test_what_cannot_be_compared_is_listed(folders: Path) -> None:
    made = folders / "near"
    audio.save_wav(made / "b.wav", tone(1, 0.6), RATE)
    (made / "deep" / "c.wav").write_text("no sound")
    audio.save_wav(made / "d.wav", tone(1), RATE)
    for uid in ("nan", "gone", "short"):
        audio.save_wav(folders / "real" / f"{uid}.wav", tone(1), RATE)
    soundfile.write(made / "nan.wav", np.full(8000, np.nan, np.float32), RATE, subtype="FLOAT")
    audio.save_wav(made / "short.wav", tone(1, 0.05), RATE)
    report = scored(made, folders / "real")
    reasons = dict(report.left_out)
    assert report.counts["pairs"] == 1 and report.counts["left out"] == len(reasons) == 6
    assert "0.60 s long, its reference 0.50 s" in reasons["b"]
    assert "nothing generated" in reasons["gone"] and "no such Uid" in reasons["d"]
    assert "NaN" in reasons["nan"] and "at least" in reasons["short"] and "c.wav" in reasons["deep/c"]
    assert report.scores[0].low is None  # one pair has no interval


def test_silent_and_clipped_sounds_are_counted(folders: Path) -> None:
    audio.save_wav(folders / "near" / "a.wav", np.zeros(8000, np.float32), RATE)
    audio.save_wav(folders / "near" / "b.wav", np.ones(8000, np.float32), RATE)
    report = scored(folders / "near", folders / "real")
    assert (report.counts["silent generated"], report.counts["clipped generated"]) == (1, 1)
    assert (report.counts["silent reference"], report.counts["clipped reference"]) == (0, 0)
    score = next(score for score in report.scores if score.name == "SI-SDR")
    assert score.count == 2 and "1 of 3 undefined" in score.note  # a ratio with silence


def test_results_of_run_inference_belong_to_what_they_were_made_from(folders: Path) -> None:
    for uid in ("a", "c"):
        source = folders / "real" / ("deep/c.wav" if uid == "c" else "a.wav")
        audio.save_wav(folders / "made" / f"{uid}_vocoded.wav", audio.load(source, RATE), RATE)
        (folders / "made" / f"{uid}_vocoded.json").write_text(json.dumps({"audio": str(source)}))
    report = scored(folders / "made", folders / "real")
    assert report.counts["pairs"] == 2 and value(report, "mel L1") < 0.01
    assert dict(report.left_out) == {"b": "nothing generated for it"}
    audio.save_wav(folders / "made" / "again.wav", tone(0), RATE)
    (folders / "made" / "again.json").write_text(json.dumps({"audio": str(folders / "real" / "a.wav")}))
    report = Report({})
    samples = collect(folders / "made", folders / "real", report)
    assert report.counts["further samples of the same input"] == 1
    assert samples.generated["a"].name == "a_vocoded.wav"  # each reference has one sample


@pytest.fixture
def run(root: Path, folders: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(recipe: str, generated: str, *more: str) -> tuple[int, str]:
        config = str(root / "egs" / "tta" / recipe / "exp_config.json")
        argv = ["--generated", str(folders / generated), "--output_dir", str(folders / "out" / generated)]
        code = cli.run(evaluate.main, ["--config", config, *argv, *more])
        printed = capsys.readouterr().err.strip()
        return code, printed.splitlines()[-1] if code else ""

    return run


@pytest.mark.parametrize("recipe", ["hifigan", "autoencoderkl"])
def test_folders_are_scored_and_ranked(
    folders: Path, run: Callable[..., tuple[int, str]], recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("near", "far"):
        assert run(recipe, name, "--reference", str(folders / "real")) == (0, "")
    out = folders / "out"
    assert (out / "near" / "samples.png").is_file()
    page = (out / "near" / "report.md").read_text()
    assert "| mel L1 |" in page and " nats" in page and "3 pairs" in page and "![](samples.png)" in page
    assert cli.run(compare.main, [str(out / "near"), str(out / "far")]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 4 and all("**" in row[2] and "**" not in row[3] for row in rows)


def test_bad_input_is_one_line(folders: Path, run: Callable[..., tuple[int, str]]) -> None:
    real = ("--reference", str(folders / "real"))
    assert "--generated needs --reference" in run("hifigan", "near")[1]
    (folders / "empty").mkdir()
    assert "holds neither" in run("hifigan", "empty", *real)[1]
    assert "holds no sounds" in run("hifigan", "near", "--reference", str(folders / "empty"))[1]
    audio.save_wav(folders / "other" / "x.wav", tone(0), RATE)
    assert "not one of 0 pairs" in run("hifigan", "other", *real)[1]
    (folders / "broken").mkdir()
    (folders / "broken" / "a.wav").write_text("no sound")
    assert "not one of 1 pairs" in run("hifigan", "broken", *real)[1]
    assert not (folders / "out").exists()


def test_flags_of_a_folder_without_one(root: Path, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(root / "egs" / "tta" / "hifigan" / "exp_config.json")
    for flag, value in (("--reference", str(folders / "real")), ("--embedder", "mel:")):
        assert cli.run(evaluate.main, ["--config", config, flag, value]) == 2
        assert f"{flag} needs --generated" in capsys.readouterr().err


def test_two_references_of_one_name(folders: Path) -> None:
    audio.save_wav(folders / "real" / "a.flac", tone(0), RATE)
    with pytest.raises(UserError, match="same Uid 'a'"):
        scored(folders / "near", folders / "real")


def test_embedders_score_reconstructions_too(folders: Path, run: Callable[..., tuple[int, str]]) -> None:
    assert run("hifigan", "near", "--reference", str(folders / "real"), "--embedder", "mel:") == (0, "")
    report = json.loads((folders / "out" / "near" / "report.json").read_text())
    names = {score["name"] for score in report["scores"]}
    assert {"mel L1", "FAD mel:", "cosine to the reference mel:"} <= names
    assert report["conditions"]["contents"] and report["conditions"]["embedders"][0]["embedder"] == "mel:"


def test_an_output_folder_that_is_a_file(folders: Path, run: Callable[..., tuple[int, str]]) -> None:
    (folders / "out").mkdir()
    (folders / "out" / "near").write_text("")
    code, message = run("hifigan", "near", "--reference", str(folders / "real"))
    assert code == 2 and "--output_dir" in message
