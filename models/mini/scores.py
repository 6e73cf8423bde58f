"""Shares of sounds or pictures whose judgement agrees with the requested scene. Pure functions of N judgements.

`CHANCE` is the share that a generator reaches which ignores its caption.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sonolume.models.mini.targets import IGNORE, picture_target, sound_target
from sonolume.modules.judges import PictureJudgement, SoundJudgement
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors.miniworld.scene import KINDS, Scene

Judgement = SoundJudgement | PictureJudgement

CHANCE = {
    "single": 1 / len(KINDS),
    "count": 1 / 3,
    "then_both": 1 / math.comb(len(KINDS), 2),  # for a generator that makes random pairs
    "then_order": 1 / 2,
    "over_both": 1 / math.comb(len(KINDS), 2),
    "pitch": 1 / 2,
    "loudness": 1 / 2,
    "direction": 1 / 2,
    "layout": 1 / 3,
    "then_places": 1 / 2,
    "over_places": 1 / 2,
}


def sound_scores(judgement: SoundJudgement, scenes: Sequence[Scene]) -> dict[str, Share]:
    """Score N sounds against their scenes.

    Returns:
        single: the most likely kind is the requested one; count: repetitions above one; then_both, over_both: both
        kinds are present; then_order: they start in the right order, among those with both; pitch, loudness,
        direction: the attribute, where a caption would mention it.

    Raises:
        ValueError: the numbers of judgements and scenes differ.
    """
    target = SoundJudgement(*_stack([sound_target(scene) for scene in scenes]))
    then, over, both = _pairs(judgement, target, scenes)
    return {
        "single": _single(judgement, target, scenes),
        "count": _count(judgement, target),
        "then_both": _share(both, then),
        "then_order": _share(_in_order(judgement.activity, scenes), then & both),
        "over_both": _share(both, over),
        "pitch": _attribute(judgement.pitch, target.pitch),
        "loudness": _attribute(judgement.loudness, target.loudness),
        "direction": _attribute(judgement.direction, target.direction),
    }


def picture_scores(judgement: PictureJudgement, scenes: Sequence[Scene]) -> dict[str, Share]:
    """Score N pictures against their scenes.

    Returns:
        single, count, then_both, over_both: as in `sound_scores`; layout: one panel, two side by side or two stacked;
        then_places, over_places: each kind is in its own panel, among those with both.

    Raises:
        ValueError: the numbers of judgements and scenes differ.
    """
    target = PictureJudgement(*_stack([picture_target(scene) for scene in scenes]))
    then, over, both = _pairs(judgement, target, scenes)
    placed = (judgement.panels.argmax(-1) == target.panels).all(-1)
    return {
        "single": _single(judgement, target, scenes),
        "count": _count(judgement, target),
        "layout": _share(judgement.layout.argmax(-1) == target.layout, torch.ones(len(scenes), dtype=torch.bool)),
        "then_both": _share(both, then),
        "then_places": _share(placed, then & both),
        "over_both": _share(both, over),
        "over_places": _share(placed, over & both),
    }


def _stack(targets: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(field) for field in zip(*targets, strict=True)]


def _pairs(judgement: Judgement, target: Judgement, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (N,): "then" scenes, "over" scenes, and judgements with every requested kind present."""
    if len(judgement.presence) != len(scenes):
        raise ValueError(f"{len(judgement.presence)} judgements, but {len(scenes)} scenes")
    both = ((judgement.presence > 0) | (target.presence == 0)).all(-1)  # a logit above 0 is a probability above 1/2
    return _related(scenes, "then"), _related(scenes, "over"), both


def _related(scenes: Sequence[Scene], relation: str) -> Tensor:
    return torch.tensor([scene.relation == relation for scene in scenes])


def _share(right: Tensor, among: Tensor) -> Share:
    return Share(int((right & among).sum()), int(among.sum()))


def _single(judgement: Judgement, target: Judgement, scenes: Sequence[Scene]) -> Share:
    return _share(judgement.presence.argmax(-1) == target.presence.argmax(-1), _related(scenes, ""))


def _count(judgement: Judgement, target: Judgement) -> Share:
    """Class 0 is one repetition, which a caption need not mention."""
    return _share(judgement.repeats.argmax(-1) == target.repeats, target.repeats > 0)


def _attribute(logits: Tensor, target: Tensor) -> Share:
    return _share(logits.argmax(-1) == target, target != IGNORE)


def _in_order(activity: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """(N,) whether the centre of mass of the first event's activity precedes that of the last event."""
    sounding = activity.float().sigmoid()                                                 # (N, K, S)
    time = torch.arange(activity.shape[-1], dtype=torch.float)                            # (S,)
    centre = (sounding * time).sum(-1) / sounding.sum(-1).clamp(min=1e-6)                 # (N, K)
    first = torch.tensor([KINDS.index(scene.events[0].kind) for scene in scenes])
    last = torch.tensor([KINDS.index(scene.events[-1].kind) for scene in scenes])
    return centre.gather(1, first[:, None])[:, 0] < centre.gather(1, last[:, None])[:, 0]
