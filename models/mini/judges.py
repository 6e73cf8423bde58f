"""Frozen judges of the miniature world: load them, score sounds and pictures, and add the scores to a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sonolume.models.evaluation.report import Report
from sonolume.models.mini import scores
from sonolume.modules.judges import WEIGHTS_FILE, Judge, PictureJudge, PictureJudgement, SoundJudge, SoundJudgement
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import paths
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image

SOUND_JUDGES = ("pretrained/mini/sound_judge", "pretrained/mini/sound_judge_second")
PICTURE_JUDGE = "pretrained/mini/picture_judge"
SIDE = 64  # pixels
BATCH_SIZE = 64

SOUND_HEADLINES = ("single", "count", "then_both", "over_both")
PICTURE_HEADLINES = {  # with their names in reports
    "single": "right kind of picture",
    "then_both": "then: both kinds",
    "over_both": "over: both kinds",
}

AnyJudge = TypeVar("AnyJudge", bound=Judge)


def load_sound_judge(folder: Path | str) -> SoundJudge:
    """Load a trained judge of sounds.

    Raises:
        UserError: absent or damaged; names the config that trains one.
    """
    return _load(SoundJudge, folder, "sound_judge")


def load_picture_judge(folder: Path | str) -> PictureJudge:
    """Load a trained judge of pictures; errors as in `load_sound_judge`."""
    return _load(PictureJudge, folder, "picture_judge")


def _load(judge_class: type[AnyJudge], folder: Path | str, recipe: str) -> AnyJudge:
    try:
        return judge_class.from_pretrained(folder)
    except UserError as error:
        raise UserError(f"{error} (train one with egs/mini/{recipe}.json)") from error


def score_sounds(judge: SoundJudge, mels: Tensor) -> SoundJudgement:
    """Judge N natural-log mels (N, M, T)."""
    return SoundJudgement(*_in_batches(judge, mels))


def score_pictures(judge: PictureJudge, pixels: Tensor) -> PictureJudgement:
    """Judge N pictures (N, 3, 64, 64) in 0..1."""
    return PictureJudgement(*_in_batches(judge, pixels))


@torch.inference_mode()
def _in_batches(judge: Judge, inputs: Tensor) -> list[Tensor]:
    device = next(judge.parameters()).device
    batches = [judge(batch.to(device)) for batch in inputs.float().split(BATCH_SIZE)]
    return [torch.cat(field).cpu() for field in zip(*batches, strict=True)]


def load_pixels(files: Sequence[Path]) -> Tensor:
    """Load pictures of any size at the size of the judge: (N, 3, 64, 64) in 0..1."""
    pictures = [np.asarray(open_image(path).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for path in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def add_sound_shares(report: Report, scenes: Sequence[Scene], mels: Tensor, baselines: Mapping[str, Tensor]) -> None:
    """Add the shares of sounds that match their scenes, with chance level, baselines and the second judge's shares.

    Args:
        scenes: the N requested scenes.
        mels: natural-log mels (N, M, T) of the generated sounds.
        baselines: the same for other sounds, such as real renderings, by column name.
    """
    first, second = (load_sound_judge(paths.root() / folder) for folder in SOUND_JUDGES)
    columns = {name: scores.sound_scores(score_sounds(first, other), scenes) for name, other in baselines.items()}
    columns["second judge"] = scores.sound_scores(score_sounds(second, mels), scenes)
    for key, share in scores.sound_scores(score_sounds(first, mels), scenes).items():
        others = {column: shares[key] for column, shares in columns.items()}
        report.add_share(score_name(key), share, scores.CHANCE[key], others, headline=key in SOUND_HEADLINES)


def add_picture_shares(
    report: Report, scenes: Sequence[Scene], pictures: Tensor, baselines: Mapping[str, Tensor]
) -> None:
    """Add the shares of pictures that match their scenes, with chance level and baselines.

    Args:
        scenes: the N requested scenes.
        pictures: (N, 3, 64, 64) in 0..1.
        baselines: the same for other pictures, such as real ones, by column name.
    """
    columns = {name: picture_shares(other, scenes) for name, other in baselines.items()}
    for key, share in picture_shares(pictures, scenes).items():
        if share.total:
            others = {column: shares[key] for column, shares in columns.items()}
            name, headline = PICTURE_HEADLINES.get(key, score_name(key)), key in PICTURE_HEADLINES
            report.add_share(name, share, scores.CHANCE[key], others, headline=headline)


def picture_shares(pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, Share]:
    """Score pictures (N, 3, 64, 64) in 0..1 with the shipped judge, as `scores.picture_scores`."""
    return scores.picture_scores(score_pictures(load_picture_judge(paths.root() / PICTURE_JUDGE), pictures), scenes)


def score_name(key: str) -> str:
    """Name of a score in reports: "then_both" is "then: both"."""
    return key.replace("_", ": ")


def sound_judge_versions() -> list[str]:
    """Names of the shipped sound judges with content hashes, for a report's conditions."""
    return [judge_version(paths.root() / folder) for folder in SOUND_JUDGES]


def picture_judge_version() -> str:
    """Name of the shipped picture judge with its content hash, for a report's conditions."""
    return judge_version(paths.root() / PICTURE_JUDGE)


def judge_version(folder: Path) -> str:
    """NAME@HASH of a judge's folder."""
    return f"{folder.name}@{content_hash(folder / 'config.json', folder / WEIGHTS_FILE)}"
