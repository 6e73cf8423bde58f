"""Callback that generates and scores samples while a model trains, against a reference that is embedded once.

It never draws from the global random state and is no part of checkpoints: a run with it and one without end in the same
weights, and a resumed run evaluates at the same steps as an uninterrupted one.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.seed import isolate_rng
from tqdm import tqdm

from sonolume.config.base import EvaluationConfig
from sonolume.models import sharding
from sonolume.models.callbacks import Position
from sonolume.models.evaluation.embedders.base import Embedder, batched
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS, reference_moments
from sonolume.models.evaluation.embedders.load import load
from sonolume.models.evaluation.metrics import Scorer
from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.samples import SOUND, Samples, seed_of
from sonolume.modules.metrics.embeddings import Moments
from sonolume.preprocessors.miniworld import SAMPLE_RATE, WORLD, world
from sonolume.utils import audio
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from sonolume.utils.text import message


class Evaluation(pl.Callback):
    """Generate, score and log eval/NAME at every `interval`-th validation, in the first process; others wait.

    Must come after `EMA`, whose averaged weights the task has during a validation. The task has a method
    `generate(captions, seeds, num_steps, guidance_scale)`, which generates a sound for each caption from its own seed
    and returns (N, samples) with the sample rate in Hz; 0 steps or a scale of 0 mean the default.

    `rows` are the validation set: the first captions of some are generated, all are the reference. `folder` is that of
    caches, shared by runs on the same data; `every` the number of batches between two validations.
    """

    def __init__(
        self, config: EvaluationConfig, rows: Sequence[Row], folder: Path, position: Position, every: int
    ) -> None:
        self.config, self.folder, self.position, self.every = config, folder, position, every
        self.prompts = choose_recordings([row for row in rows if row.captions], config.num_samples)
        self.reference = choose_recordings([row for row in rows if has_sound(row)], config.references or len(rows))
        self.embedders: list[tuple[Embedder, Moments | None]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Embed the reference, or read it from the cache; raises a UserError for an embedder that cannot be used."""
        if trainer.is_global_zero:
            with isolate_rng():
                self.embedders = [self._prepare(spec, pl_module) for spec in self.config.embedders]
        trainer.strategy.barrier("evaluation")

    def _prepare(self, spec: str, task: pl.LightningModule) -> tuple[Embedder, Moments | None]:
        embedder = load(spec, task.device)
        embedder.require("sounds")
        if not self.prompts or not (self.reference or embedder.labels or "texts" in embedder.takes):
            missing = "sound files to compare with" if self.prompts else "captions"
            raise UserError(
                f"evaluation.embedders {spec}: the {len(self.reference)} validation clips have no {missing}: "
                "set evaluation.num_samples=0"
            )
        key = []  # plain values that change with the sounds
        for row in self.reference:
            state = None if row.scene else row.audio.stat()  # type: ignore[union-attr]
            key.append([row.uid, state.st_size, state.st_mtime_ns] if state else [row.uid, WORLD, row.scene])
        with tempfile.TemporaryDirectory() as scratch:
            sounds = lambda: sound_files(self.reference, Path(scratch))  # noqa: E731
            return embedder, reference_moments(key, sounds, embedder, self.folder, self.config.batch_size)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        validation = self.position.batches // self.every  # 0: an untrained network generates noise
        if not validation or validation % self.config.interval:
            return
        if trainer.is_global_zero:
            with isolate_rng(), tempfile.TemporaryDirectory() as scratch:
                try:
                    found = self.scores(pl_module, Path(scratch))
                except (UserError, ValueError) as error:  # must not end a run of days
                    message(f"evaluation at step {trainer.global_step} left out: {error}")
                else:
                    for logger in trainer.loggers:
                        logger.log_metrics(found, trainer.global_step)
        elif sharding.is_sharded(trainer):  # processes can only generate together
            with isolate_rng(), tempfile.TemporaryDirectory() as scratch:
                self._generate(pl_module, Path(scratch))
        trainer.strategy.barrier("evaluation")

    def scores(self, task: Any, scratch: Path) -> dict[str, float]:
        """Generate samples in `scratch` and return eval/NAME of every score."""
        samples = Samples(
            SOUND,
            self._generate(task, scratch),
            sound_files([row for row in self.prompts if has_sound(row)], scratch),
            {row.uid: row.captions[0] for row in self.prompts},
            {row.uid: label for row in self.prompts if (label := label_of(row))},
        )
        report = Report({})
        for embedder, known in self.embedders:
            scorer = Scorer(report, embedder, self.folder / EMBEDDINGS, self.config.batch_size, cache_generated=False)
            scorer.add_scores(samples, known)
        values = {score.name: score.value for score in report.scores}
        values |= {"silent": report.counts["silent generated"], "broken": len(self.prompts) - len(samples.generated)}
        return {f"eval/{name}": float(value) for name, value in values.items()}

    def _generate(self, task: Any, folder: Path) -> dict[str, Path]:
        """Generate one file per Uid, except for waves that are not finite."""
        found = dict[str, Path]()
        for rows in tqdm([*batched(self.prompts, self.config.batch_size)], "generate", unit="batch", leave=False):
            texts, seeds = [row.captions[0] for row in rows], [seed_of(0, row.uid) for row in rows]
            waves, rate = task.generate(texts, seeds, self.config.num_steps, self.config.guidance_scale)
            for row, wave in zip(rows, waves.numpy(), strict=True):
                if np.isfinite(wave).all():
                    found[row.uid] = folder / f"generated_{len(found)}.wav"
                    audio.save_wav(found[row.uid], audio.limit_peak(wave)[0], rate)
        return found


def choose_recordings(rows: Sequence[Row], count: int) -> list[Row]:
    """Draw at most `count` recordings by a hash of their Uids, one row each: always the same, as in `run_eval.sh`."""
    chosen, taken = list[Row](), set[str | Path]()
    for row in sorted(rows, key=lambda row: seed_of(0, row.uid)):
        names = {row.uid, row.audio or row.uid}
        if len(chosen) < count and not taken & names:
            chosen.append(row)
            taken |= names
    return chosen


def has_sound(row: Row) -> bool:
    """Test whether a row has a sound file, or a scene that can be rendered."""
    return bool(row.scene) or bool(row.audio and row.audio.is_file())


def sound_files(rows: Sequence[Row], scratch: Path) -> dict[str, Path]:
    """Map Uids to sound files; scenes of the miniature world are rendered into `scratch`."""
    found: dict[str, Path] = {}
    for number, row in enumerate(rows):
        found[row.uid] = row.audio or scratch / f"scene_{number}.wav"
        if row.audio is None and row.scene:
            audio.save_wav(found[row.uid], world.render(world.Scene.from_dict(row.scene)), SAMPLE_RATE)
    return found


def label_of(row: Row) -> str | None:
    """Return the class of a recording, or the kind of a scene of a single event."""
    if row.scene and not row.scene["relation"]:
        return row.scene["events"][0]["kind"]
    return row.label
