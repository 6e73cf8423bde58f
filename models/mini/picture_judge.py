"""mini/picture_judge: classify pictures of the miniature world. Trained on real ones with mild blur and noise.

`JudgeTask` and `evaluate` serve the judge of sounds, too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.config.base import RunConfig
from sonolume.config.mini.picture_judge import Config
from sonolume.config.options import ReportOptions
from sonolume.models import runtime
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.mini import judges
from sonolume.models.mini.judges import IGNORE, Judgement, picture_target, score_judgement
from sonolume.models.mini.scene_data import SceneDataset, draw
from sonolume.models.training import Frozen, RecipeTask, TrainingData, step_generator
from sonolume.modules.judges import Judge, PictureJudge, PictureJudgement, judge_version
from sonolume.preprocessors.miniworld import TEST_SEED, WORLD, world
from sonolume.preprocessors.miniworld.scene import KINDS, Scene

MAX_BRIGHTNESS = 0.05  # change up or down
MAX_NOISE = 0.06

Render = Callable[[list[Scene]], Tensor]  # scenes -> inputs of the judge
WEIGHTS = {
    "presence": 4.0, "activity": 2.0, "repeats": 0.5, "pitch": 0.25, "loudness": 0.25, "direction": 0.25,
    "layout": 0.25, "panels": 0.25,
}  # fmt: skip


def losses(judgement: Judgement, target: Judgement) -> dict[str, Tensor]:
    """Mean loss of each field: binary cross-entropy for float targets, cross-entropy for classes."""
    return {
        name: (F.binary_cross_entropy_with_logits if wanted.is_floating_point() else _class_loss)(logits, wanted)
        for name, logits, wanted in zip(judgement._fields, judgement, target, strict=True)
    }


def _class_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy; 0 if every target is `IGNORE`, where the mean of `cross_entropy` is NaN."""
    total = F.cross_entropy(logits.flatten(0, -2), wanted.flatten(), ignore_index=IGNORE, reduction="sum")
    return total / (wanted != IGNORE).sum().clamp(min=1)


class JudgeTask(RecipeTask):
    """Train a judge. `augment` makes real inputs as blurred and noisy as generated ones. Batches: (inputs, target)."""

    def __init__(self, judge: Judge, config: RunConfig, augment: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        super().__init__(config)
        self.judge, self.augment = judge, augment

    def _loss(self, inputs: Tensor, target: Judgement, stage: str) -> Tensor:
        parts = losses(self.judge(inputs), target)
        total = sum((WEIGHTS[name] * part for name, part in parts.items()), torch.zeros((), device=inputs.device))
        how: dict[str, Any] = {"batch_size": len(inputs), "sync_dist": stage == "val"}
        self.log_dict({f"{stage}/{name}": part for name, part in parts.items()}, **how)
        self.log(f"{stage}/loss", total, prog_bar=True, **how)
        return total

    def training_step(self, batch: tuple[Tensor, Judgement], batch_index: int) -> Tensor:
        inputs, target = batch
        random = step_generator(self.config.train.random_seed, self.global_step, self.global_rank)
        return self._loss(self.augment(inputs, random), target, "train")

    def validation_step(self, batch: tuple[Tensor, Judgement], batch_index: int) -> None:
        self._loss(*batch, "val")

    def export(self, folder: Path) -> None:
        """Write the folder that the judge's `from_pretrained` reads."""
        self.judge.save_pretrained(folder)


def uniform(like: Tensor, low: float, high: float, random: torch.Generator) -> Tensor:
    """Draw one number for each item of a batch, in a shape that broadcasts over it."""
    shape = (len(like), *(1,) * (like.ndim - 1))
    return (low + (high - low) * torch.rand(shape, generator=random)).to(like)


def noise(like: Tensor, random: torch.Generator) -> Tensor:
    """Draw standard normal noise in the shape of a batch."""
    return torch.randn(like.shape, generator=random).to(like)


def soften(images: Tensor, random: torch.Generator) -> Tensor:
    """Mix each image (B, C, H, W) with its 3 x 3 mean, at random strength; half of them stay sharp."""
    strength = uniform(images, -1, 1, random).clamp(min=0)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images + strength * (blurred - images)


def evaluate(
    config: RunConfig, options: ReportOptions, judge_class: type[Judge], render: Render, rendered: str
) -> None:
    """Write and print the scores of a judge on real renderings of held-out scenes: the upper bound of all generators.

    Args:
        rendered: "real sounds" or "real pictures".
    """
    folder = Path(runtime.find_checkpoint(options.checkpoint, config, f"pretrained/mini/{config.exp_name}"))
    scenes, device = list(world.scenes("test", options.num_samples, TEST_SEED)), runtime.pick_device(options.device)
    judgement = judges.run_judge(judges.load_judge(judge_class, folder).to(device), render(scenes))
    uids, facts = [scene.uid for scene in scenes], {"judge": judge_version(folder)}
    conditions = measurement_conditions([], uids, len(scenes), seed=TEST_SEED, world=WORLD, judged=rendered)
    report = Report(conditions, facts=facts | {"real renderings": len(scenes), "world": WORLD})
    judges.add_shares(report, score_judgement(judgement, scenes), {"single": "single", "over_both": "over: both"}, {})
    finish(report, runtime.make_folder(options.output_dir))


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of pictures (B, 3, 64, 64) in 0..1 and their targets."""
    return TrainingData.of(lambda split: SceneDataset(config.miniworld, split, _item))


def _item(scene: Scene, epoch: int) -> tuple[Tensor, PictureJudgement]:
    return draw(scene), picture_target(scene)


class Task(JudgeTask):
    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(PictureJudge(list(KINDS), config.model.width, WORLD), config, augment)


def augment(picture: Tensor, random: torch.Generator) -> Tensor:
    """Apply blur, a change of brightness and noise of random strength to pictures (B, 3, H, W) in 0..1."""
    picture = soften(picture, random)
    picture = picture + uniform(picture, -MAX_BRIGHTNESS, MAX_BRIGHTNESS, random)
    return (picture + uniform(picture, 0, MAX_NOISE, random) * noise(picture, random)).clamp(0, 1)


def run(config: Config, options: ReportOptions) -> None:
    """Evaluate the judge on real pictures of held-out scenes."""
    evaluate(config, options, PictureJudge, lambda scenes: torch.stack(list(map(draw, scenes))), "real pictures")
