"""Frozen judges of the miniature world: load them, score sounds and pictures, and add the scores to a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sonolume.models.evaluation.report import Report
from sonolume.models.mini.scores import CHANCE, score_judgement
from sonolume.modules.judges import Judge, PictureJudge, SoundJudge, judge_version
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import paths
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image

SOUND_JUDGES = ("pretrained/mini/sound_judge", "pretrained/mini/sound_judge_second")
PICTURE_JUDGE = "pretrained/mini/picture_judge"
SIDE = 64  # pixels
BATCH_SIZE = 64

SOUND_HEADLINES = {"single": "single", "count": "count", "then_both": "then: both", "over_both": "over: both"}
PICTURE_HEADLINES = {
    "single": "right kind of picture", "then_both": "then: both kinds", "over_both": "over: both kinds",
}  # fmt: skip

AnyJudge = TypeVar("AnyJudge", bound=Judge)
Shares = Mapping[str, Share]


def load_judge(judge_class: type[AnyJudge], folder: Path | str) -> AnyJudge:
    """Load a trained judge.

    Raises:
        UserError: absent or damaged; names the config that trains one.
    """
    try:
        return judge_class.from_pretrained(folder)
    except UserError as error:
        recipe = "sound_judge" if judge_class is SoundJudge else "picture_judge"
        raise UserError(f"{error} (train one with egs/mini/{recipe}.json)") from error


@torch.inference_mode()
def run_judge(judge: Judge, inputs: Tensor) -> Any:
    """Judge N natural-log mels (N, M, T) or pictures (N, 3, 64, 64) in 0..1: a judgement of all, on the CPU."""
    device = next(judge.parameters()).device
    batches = [judge(batch.to(device)) for batch in inputs.float().split(BATCH_SIZE)]
    return type(batches[0])(*(torch.cat(field).cpu() for field in zip(*batches, strict=True)))


def load_pixels(files: Sequence[Path]) -> Tensor:
    """Load pictures of any size at the size of the judge: (N, 3, 64, 64) in 0..1."""
    pictures = [np.asarray(open_image(path).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for path in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def add_sound_shares(report: Report, scenes: Sequence[Scene], mels: Tensor, baselines: Mapping[str, Tensor]) -> None:
    """Add the shares of sounds that match their scenes, with chance level, baselines and the second judge's shares.

    `mels` are natural-log mels (N, M, T); `baselines` those of other sounds of the N scenes, by column name.
    """
    first, second = (load_judge(SoundJudge, paths.root() / folder) for folder in SOUND_JUDGES)
    columns = {name: score_judgement(run_judge(first, other), scenes) for name, other in baselines.items()}
    columns["second judge"] = score_judgement(run_judge(second, mels), scenes)
    add_shares(report, score_judgement(run_judge(first, mels), scenes), SOUND_HEADLINES, columns)


def add_picture_shares(
    report: Report, scenes: Sequence[Scene], pictures: Tensor, baselines: Mapping[str, Tensor]
) -> None:
    """Add the shares of pictures (N, 3, 64, 64) in 0..1, as `add_sound_shares`; scores without samples are left out."""
    columns = {name: picture_shares(other, scenes) for name, other in baselines.items()}
    shares = {key: share for key, share in picture_shares(pictures, scenes).items() if share.total}
    add_shares(report, shares, PICTURE_HEADLINES, columns)


def picture_shares(pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, Share]:
    """Score pictures (N, 3, 64, 64) in 0..1 with the shipped judge, as `score_judgement`."""
    return score_judgement(run_judge(load_judge(PictureJudge, paths.root() / PICTURE_JUDGE), pictures), scenes)


def add_shares(report: Report, shares: Shares, headlines: Mapping[str, str], columns: Mapping[str, Shares]) -> None:
    """Add shares with their chance level and other columns; `headlines` are named, "then_order" is "then: order"."""
    for key, share in shares.items():
        baselines = {column: others[key] for column, others in columns.items()}
        name = headlines.get(key, key.replace("_", ": "))
        report.add_share(name, share, CHANCE[key], baselines, headline=key in headlines)


def sound_judge_versions() -> list[str]:
    """Names of the shipped sound judges with content hashes, for a report's conditions."""
    return [judge_version(paths.root() / folder) for folder in SOUND_JUDGES]


def picture_judge_version() -> str:
    """Name of the shipped picture judge with its content hash, for a report's conditions."""
    return judge_version(paths.root() / PICTURE_JUDGE)
