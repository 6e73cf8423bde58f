"""The sound judge at work."""

from pathlib import Path

import torch
from torch import Tensor

from sonolume.modules.judges import SoundJudge, SoundJudgement
from sonolume.utils.errors import UserError


def load(folder: Path | str) -> SoundJudge:
    """A trained judge.

    Raises:
        UserError: absent or damaged; names the config that makes one.
    """
    try:
        return SoundJudge.from_pretrained(folder)
    except UserError as error:
        raise UserError(f"{error} (train one with egs/mini/sound_judge.json)") from error


@torch.inference_mode()
def listen(judge: SoundJudge, mels: Tensor, batch_size: int = 64) -> SoundJudgement:
    """(N, M, T) natural-log mels -> the judgement of all N."""
    device = next(judge.parameters()).device
    parts = [judge(mel.to(device)) for mel in mels.float().split(batch_size)]
    return SoundJudgement(*(torch.cat(field).cpu() for field in zip(*parts, strict=True)))
