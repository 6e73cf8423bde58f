"""Samples scored while a model trains: the same numbers as a report's, and no trace in the training."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from sonolume.bins import train as bin_train
from sonolume.config.base import EvaluationConfig
from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.callbacks import Position
from sonolume.models.evaluation.embedders import cache
from sonolume.models.evaluation.embedders.load import load
from sonolume.models.evaluation.metrics import add_scores
from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.samples import SOUND, Samples, seed_of
from sonolume.models.evaluation.validation import Evaluation, choose_recordings, label_of
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.models.tta.audioldm.task import Task
from sonolume.preprocessors.miniworld import world
from sonolume.utils import audio
from sonolume.utils.errors import ConfigError, UserError
from sonolume.utils.manifest import Row, read_manifest

RATE = 16000
Steps = dict[int, dict[str, float]]


class PowerCut(Exception):
    pass


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """A processed_dir whose clips to validate on have sounds."""
    folder = Path(shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns("cache")))
    noise = np.random.default_rng(0)
    rows = json.loads((folder / "noise" / "valid.json").read_text())
    for row in rows:
        row["Audio"] = f"wav/{row['Uid']}.wav"
        audio.save_wav(folder / "noise" / row["Audio"], noise.normal(0, 0.1, 8000), RATE)
    (folder / "noise" / "valid.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def config(data: Path, tiny_config: Callable[..., Path]) -> Path:
    path = tiny_config("tta/audioldm", preprocess={"processed_dir": str(data)})
    evaluation = {"num_samples": 3, "embedders": ["mel:"], "num_steps": 2, "batch_size": 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"evaluation": evaluation}))
    return path


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The logged metrics eval/... by step; a run that was killed at a validation repeats it with the same values."""
    found: Steps = {}

    def remember(logger: Any, metrics: dict[str, float], step: int) -> None:
        if scores := {name: value for name, value in metrics.items() if name.startswith("eval/")}:
            assert found.setdefault(step, scores) == scores

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", remember)
    return found


def train(path: Path, name: str, *overrides: str, resume: bool = False, cut_at: int | None = None) -> tuple[Path, str]:
    """The run's folder and its weights in one number."""
    settings = load_config(path, [f"exp_name={name}", *overrides])
    task: Any
    task, data = training.build(settings)
    task._preview = lambda: None

    def begin(_: Any, index: int) -> None:
        if index == cut_at:
            raise PowerCut

    task.on_train_batch_start = begin
    folder = training.fit(task, data, settings, settings.train, resume)
    return folder, str(torch.cat([weight.detach().flatten() for weight in task.parameters()]).double().sum().item())


def test_the_curve_is_the_report(config: Path, data: Path, logged: Steps, tmp_path: Path) -> None:
    """Of the averaged weights, which the exported pipeline has."""
    folder, _ = train(config, "run", "model.attention=sdpa")  # as exported: Griffin-Lim amplifies 1e-6
    pipe = TextToAudioPipeline.from_pretrained(folder / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    rows = choose_recordings(read_manifest(data / "noise" / "valid.json"), 3)
    for start in (0, 2):
        few = rows[start : start + 2]
        seeds = [torch.Generator().manual_seed(seed_of(0, row.uid)) for row in few]
        waves = pipe([row.captions[0] for row in few], num_inference_steps=2, generator=seeds).audios
        for row, wave in zip(few, waves, strict=True):
            audio.save_wav(tmp_path / "made" / f"{row.uid}.wav", wave / max(1, np.abs(wave).max()), RATE)
    report, valid = Report({}), read_manifest(data / "noise" / "valid.json")
    files = {row.uid: tmp_path / "made" / f"{row.uid}.wav" for row in rows}
    samples = Samples(SOUND, files, {row.uid: row.audio for row in valid if row.audio})
    add_scores(report, samples, [load("mel:")], None, 2)
    expected = {f"eval/{row.name}": row.value for row in report.scores}
    assert set(logged) == {4, 8} and logged[4] != logged[8]
    names = {name for name in logged[8] if name not in ("eval/silent", "eval/broken")}
    assert {"eval/FAD mel:", "eval/cosine to the reference mel:"} <= names <= set(expected)
    assert {name: logged[8][name] for name in names} == {
        name: pytest.approx(expected[name], rel=1e-6) for name in names
    }


def test_training_is_unchanged(config: Path, logged: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a resumed run: the same weights with it and without, the same curve, the reference embedded once."""
    generate, embed, embedded = Task.generate, cache.embed, []

    def counted(items: Any, medium: str, *more: Any, **named: Any) -> Any:
        if not named and len(more) == 3:  # of reference_moments
            embedded.append(len(items))
        return embed(items, medium, *more, **named)

    def careless(task: Task, *arguments: Any) -> Any:
        torch.rand(3), np.random.rand(3), random.random()
        return generate(task, *arguments)

    def state() -> tuple[Any, ...]:
        return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]

    hook = Evaluation.on_validation_epoch_end

    def watched(*arguments: Any) -> None:
        before = state()
        hook(*arguments)
        assert state() == before

    monkeypatch.setattr(Task, "generate", careless)
    monkeypatch.setattr(Evaluation, "on_validation_epoch_end", watched)
    monkeypatch.setattr(cache, "embed", counted)
    _, straight = train(config, "straight")
    curve = dict(logged)
    assert set(curve) == {4, 8} and embedded == [3]
    logged.clear()
    _, without = train(config, "without", "evaluation.num_samples=0")
    assert without == straight and not logged
    with pytest.raises(PowerCut):
        train(config, "killed", cut_at=11)
    _, resumed = train(config, "killed", resume=True)
    assert resumed == straight and logged == curve and embedded == [3]


class Fake:
    """Generates noise as loud as its caption is long; `broken` of it is NaN."""

    device = torch.device("cpu")

    def __init__(self, broken: int = 0) -> None:
        self.broken, self.asked = broken, list[tuple[str, int]]()

    def generate(self, captions: list[str], seeds: list[int], num_steps: int, guidance: float) -> tuple[Tensor, int]:
        self.asked += zip(captions, seeds, strict=True)
        waves = [torch.rand(8000, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        waves = [wave * len(text) / 10 for wave, text in zip(waves, captions, strict=True)]
        return torch.stack([wave * (float("nan") if i < self.broken else 1) for i, wave in enumerate(waves)]), RATE


def evaluation(rows: list[Row], folder: Path, **settings: Any) -> tuple[Evaluation, Any]:
    """One that waits for its first validation, and its trainer."""
    callback = Evaluation(EvaluationConfig(num_samples=4, **settings), rows, folder, Position(), every=10)
    logger = SimpleNamespace(log_metrics=lambda scores, step: curves.append(scores))
    strategy = SimpleNamespace(barrier=lambda name: None)
    curves: list[dict[str, float]] = []
    trainer = SimpleNamespace(is_global_zero=True, strategy=strategy, loggers=[logger], global_step=0, curves=curves)
    return callback, trainer


def scenes(count: int = 6) -> list[Row]:
    return [
        Row("world", scene.uid, captions=world.captions(scene, 1, "valid"), scene=scene.to_dict())
        for scene in world.scenes("valid", count)
    ]


def test_scenes_are_rendered_and_their_kinds_are_asked_for(tmp_path: Path) -> None:
    """With the judge: the class accuracy of single events is the share that it calls "single"."""
    rows = scenes()
    callback, trainer = evaluation(rows, tmp_path, embedders=["mini:sound_judge"])
    task: Any = Fake()
    callback.on_fit_start(trainer, task)
    callback.position.batches = 10
    callback.on_validation_epoch_end(trainer, task)
    (found,) = trainer.curves
    assert {"eval/FAD mini:sound_judge", "eval/KL softmax mini:sound_judge", "eval/silent"} <= set(found)
    single = any(label_of(row) for row in callback.prompts)
    assert ("eval/class accuracy mini:sound_judge" in found) == single
    assert task.asked == [(row.captions[0], seed_of(0, row.uid)) for row in callback.prompts]
    assert label_of(rows[0]) == (rows[0].scene or {})["events"][0]["kind"] or (rows[0].scene or {})["relation"]


def test_every_other_validation(tmp_path: Path) -> None:
    callback, trainer = evaluation(scenes(), tmp_path, interval=2)
    task: Any = Fake()
    callback.on_fit_start(trainer, task)
    for batches in (0, 10, 20, 30, 40):
        callback.position.batches = batches
        callback.on_validation_epoch_end(trainer, task)
        assert len(trainer.curves) == batches // 20


def test_broken_samples_do_not_end_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback, trainer = evaluation(scenes(), tmp_path)
    callback.position.batches = 10
    for broken in (1, 4):
        task: Any = Fake(broken)
        callback.on_fit_start(trainer, task)
        callback.on_validation_epoch_end(trainer, task)
    assert [found["eval/broken"] for found in trainer.curves] == [1]
    assert "evaluation at step 0 left out: not one usable generated sound" in capsys.readouterr().err


def test_without_sounds_only_what_needs_none_is_scored(tmp_path: Path) -> None:
    rows = [Row("noise", str(index), captions=["rain"], label="rain") for index in range(4)]
    task: Any = Fake()
    callback, trainer = evaluation(rows, tmp_path)
    with pytest.raises(UserError, match="mel:: the 0 validation clips have no sound files to compare with"):
        callback.on_fit_start(trainer, task)
    callback, trainer = evaluation(rows, tmp_path, embedders=["mini:sound_judge"])
    callback.on_fit_start(trainer, task)
    callback.position.batches = 10
    callback.on_validation_epoch_end(trainer, task)
    assert "eval/class accuracy mini:sound_judge" in trainer.curves[0]
    assert not any("FAD" in name for name in trainer.curves[0])


def test_an_embedder_of_pictures_is_refused(tmp_path: Path) -> None:
    callback, trainer = evaluation(scenes(), tmp_path, embedders=["mini:picture_judge"])
    task: Any = Fake()
    with pytest.raises(UserError, match="takes pictures, not sounds"):
        callback.on_fit_start(trainer, task)


def test_another_reference_or_damage_is_noticed(tmp_path: Path) -> None:
    embedder, files = load("mel:"), {}
    for index in range(4):
        files[str(index)] = tmp_path / f"{index}.wav"
        audio.save_wav(files[str(index)], np.random.default_rng(index).normal(0, 0.1, 8000), RATE)
    calls = []

    def listed(*names: str) -> Any:
        chosen = {name: files[name] for name in names}
        return cache.reference_moments(
            sorted(names), lambda: (calls.append(names), chosen)[1], embedder, tmp_path / "c", 4
        )

    first, again = listed("0", "1", "2"), listed("0", "1", "2")
    assert len(calls) == 1 and again.count == 3
    assert again.mean.equal(first.mean) and again.covariance.equal(first.covariance)
    assert again.covariance.dtype == torch.float64
    assert not listed("1", "2", "3").mean.equal(first.mean) and len(calls) == 2
    assert listed("3") is None
    for path in (tmp_path / "c" / "statistics").rglob("moments.safetensors"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        listed("0", "1", "2")


def test_one_row_of_a_recording_and_always_the_same_ones() -> None:
    rows = [Row("d", f"{clip}_w{window}", audio=Path(f"{clip}.wav")) for clip in range(9) for window in range(3)]
    chosen = choose_recordings(rows, 5)
    assert len({row.audio for row in chosen}) == 5 and chosen == choose_recordings(list(reversed(rows)), 5)
    assert choose_recordings(rows, 100)[:5] == chosen and len(choose_recordings(rows, 100)) == 9
    assert [row.audio for row in chosen] != [row.audio for row in rows[::3]][:5]  # not the first ones


def test_mistakes_are_found_early(config: Path) -> None:
    with pytest.raises(UserError, match="unknown kind"):
        bin_train.main(["--config", str(config), "evaluation.embedders=['vggish:x']"])
    wrong_values = {"num_samples=-1": "at least 0", "interval=0": "at least 1", "embedders=[]": "at least one"}
    for wrong, part in wrong_values.items():
        with pytest.raises(ConfigError, match=f"evaluation.*{part}"):
            load_config(config, [f"evaluation.{wrong}"])
