"""Generated samples scored while a model trains, as `run_eval.sh` scores them, against a reference embedded once.

Nothing here draws from the global random state or goes into a checkpoint: a run with it and one without end in the same
weights, and a resumed one evaluates at the steps at which an unbroken one does.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from sonolume.config.base import EvaluationConfig
from sonolume.models.callbacks import Position
from sonolume.models.evaluation import generation, statistics
from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.load import load
from sonolume.models.evaluation.results import Result
from sonolume.models.evaluation.sounds import Sounds, score
from sonolume.modules.metrics.frechet import Moments
from sonolume.utils import audio
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row


class Generates(Protocol):
    """What is asked of a recipe's task."""

    def generate(
        self, captions: list[str], seeds: list[int], num_steps: int, guidance_scale: float
    ) -> tuple[Tensor, int]:
        """One wave for each caption, (N, samples), from the noise of its own seed, and the rate in Hz; 0 = default."""
        raise NotImplementedError


class Evaluation(pl.Callback):
    """At every `interval`-th validation: generate, score, and log eval/NAME. The first process does it, others wait.

    Put behind `EMA`, whose average the task's weights are during a validation.

    Args:
        rows: of the validation set; the first caption of some is generated, all are the reference.
        folder: of caches, which runs on the same data share.
        every: batches from one validation to the next.
    """

    def __init__(
        self, config: EvaluationConfig, rows: Sequence[Row], folder: Path, position: Position, every: int
    ) -> None:
        self.config, self.folder, self.position, self.every = config, folder, position, every
        self.asked = choose([row for row in rows if row.captions], config.num_samples)
        self.reference = choose([row for row in rows if can_be_heard(row)], config.references or len(rows))
        self.embedders: list[tuple[Embedder, Moments | None]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Embed the reference, or find it embedded.

        Raises:
            UserError: an embedder that is not there or takes no sounds, or there is nothing that it could compare.
        """
        if trainer.is_global_zero:
            with isolate_rng():
                self.embedders = [self._prepared(spec, pl_module) for spec in self.config.embedders]
        trainer.strategy.barrier("evaluation")

    def _prepared(self, spec: str, task: pl.LightningModule) -> tuple[Embedder, Moments | None]:
        embedder = load(spec, task.device)
        embedder.require("sounds")
        if not self.asked or not (self.reference or embedder.labels or "texts" in embedder.takes):
            raise UserError(
                f"evaluation.embedders {spec}: the {len(self.reference)} clips to validate on have no "
                f"{'sound files to compare with' if self.asked else 'captions'}: set evaluation.num_samples=0"
            )
        with tempfile.TemporaryDirectory() as scratch:
            known = statistics.of_sounds(
                [contents(row) for row in self.reference],
                lambda: sound_files(self.reference, Path(scratch)),
                embedder,
                self.folder,
                self.config.batch_size,
            )
        return embedder, known

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        validation = self.position.batches // self.every
        if not validation or validation % self.config.interval:  # 0: an untrained network gives noise
            return
        if trainer.is_global_zero:
            with isolate_rng(), tempfile.TemporaryDirectory() as scratch:
                try:
                    found = self.scores(pl_module, Path(scratch))
                except (UserError, ValueError) as error:  # a run of days must not end by it
                    print(f"evaluation at step {trainer.global_step} left out: {error}", file=sys.stderr)
                else:
                    for logger in trainer.loggers:
                        logger.log_metrics(found, trainer.global_step)
        trainer.strategy.barrier("evaluation")

    def scores(self, task: Any, scratch: Path) -> dict[str, float]:
        """eval/NAME of every score, of samples that are written to `scratch`."""
        sounds = Sounds(
            self._generate(task, scratch / "generated"),
            sound_files([row for row in self.asked if can_be_heard(row)], scratch),
            {row.uid: row.captions[0] for row in self.asked},
            {row.uid: label for row in self.asked if (label := label_of(row))},
        )
        result = Result({})
        for embedder, known in self.embedders:
            cache = self.folder / statistics.EMBEDDINGS
            score(result, sounds, embedder, cache, self.config.batch_size, known=known, keep=False)
        counts = {"silent": result.counts["silent generated"], "broken": len(self.asked) - len(sounds.generated)}
        values = {row.name: row.value for row in result.scores}
        return {f"eval/{name}": float(value) for name, value in (values | counts).items()}

    def _generate(self, task: Generates, folder: Path) -> dict[str, Path]:
        """Uid -> file, without those that are not finite."""
        captions = {row.uid: row.captions[0] for row in self.asked}

        def make(uids: list[str], seeds: list[int]) -> list[tuple[np.ndarray, int] | None]:
            texts = [captions[uid] for uid in uids]
            waves, rate = task.generate(texts, seeds, self.config.num_steps, self.config.guidance_scale)
            return [(wave, rate) if np.isfinite(wave).all() else None for wave in waves.numpy()]

        def save(path: Path, sample: tuple[np.ndarray, int]) -> None:
            wave, rate = sample
            audio.save_wav(path, wave / max(1.0, float(np.abs(wave).max(initial=0.0))), rate)

        return generation.generate(folder, captions, {}, make, save, batch_size=self.config.batch_size)


def choose(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` recordings, one row each, as if drawn at random but always the same: in `run_eval.sh`, too."""
    chosen, seen = list[Row](), set[str | Path]()
    for row in sorted(rows, key=lambda row: generation.seed_of(0, row.uid)):
        names = {row.uid, row.audio or row.uid}
        if len(chosen) < count and not seen & names:
            chosen.append(row)
            seen |= names
    return chosen


def can_be_heard(row: Row) -> bool:
    """It has a sound, or a scene that makes one."""
    return bool(row.scene) or bool(row.audio and row.audio.is_file())


def contents(row: Row) -> list[Any]:
    """What changes when the sound does."""
    if row.scene:
        from sonolume.preprocessors.miniworld import WORLD

        return [row.uid, WORLD, row.scene]
    assert row.audio is not None
    state = row.audio.stat()
    return [row.uid, state.st_size, state.st_mtime_ns]


def sound_files(rows: Sequence[Row], scratch: Path) -> dict[str, Path]:
    """Uid -> file; scenes of the miniature world are rendered into `scratch`."""
    return {row.uid: row.audio or _rendered(row.scene, scratch, index) for index, row in enumerate(rows)}


def _rendered(scene: dict[str, Any] | None, scratch: Path, index: int) -> Path:
    from sonolume.preprocessors.miniworld import SAMPLE_RATE, world

    assert scene is not None
    path = scratch / f"scene_{index}.wav"
    audio.save_wav(path, world.render(world.Scene.from_dict(scene)), SAMPLE_RATE)
    return path


def label_of(row: Row) -> str | None:
    """The class of a recording, or the kind of a scene that is one event."""
    if row.scene and not row.scene["relation"]:
        return row.scene["events"][0]["kind"]
    return row.label
