"""The picture judge at work."""

from pathlib import Path

import torch
from torch import Tensor

from sonolume.modules.judges import PictureJudge, PictureJudgement
from sonolume.utils.errors import UserError


def load(folder: Path | str) -> PictureJudge:
    """A trained judge.

    Raises:
        UserError: absent or damaged; names the config that makes one.
    """
    try:
        return PictureJudge.from_pretrained(folder)
    except UserError as error:
        raise UserError(f"{error} (train one with egs/mini/picture_judge.json)") from error


@torch.inference_mode()
def look(judge: PictureJudge, pictures: Tensor, batch_size: int = 64) -> PictureJudgement:
    """(N, 3, 64, 64) in 0..1 -> the judgement of all N."""
    device = next(judge.parameters()).device
    parts = [judge(picture.to(device)) for picture in pictures.float().split(batch_size)]
    return PictureJudgement(*(torch.cat(field).cpu() for field in zip(*parts, strict=True)))
