"""What share of sounds or pictures holds what was asked for, according to a judge. Pure functions on judgements of N.

Every score is a `Share` with its interval; `CHANCE` is what a generator that ignores its caption would reach.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sonolume.models.mini.truth import IGNORE, picture_truth, sound_truth
from sonolume.modules.judges import PictureJudgement, SoundJudgement
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors.miniworld.scene import KINDS, Scene

CHANCE = {
    "single": 1 / len(KINDS),
    "count": 1 / 3,
    "then: both": 1 / math.comb(len(KINDS), 2),  # of a generator that makes some pair
    "then: order": 1 / 2,
    "over: both": 1 / math.comb(len(KINDS), 2),
    "pitch": 1 / 2,
    "loudness": 1 / 2,
    "direction": 1 / 2,
    "layout": 1 / 3,
    "then: places": 1 / 2,
    "over: places": 1 / 2,
}


def rows(
    judgement: SoundJudgement, scenes: Sequence[Scene], count_said: Sequence[bool] | None = None
) -> dict[str, Share]:
    """The scores of N sounds, in the order of a table.

    Args:
        judgement: of the sounds, one for each scene.
        scenes: what was asked for.
        count_said: whether the caption tells the count; the default is where every caption does, above one.

    Raises:
        ValueError: the lengths differ.
    """
    _same_length(judgement.presence, scenes)
    truth = SoundJudgement(*_stacked([sound_truth(scene) for scene in scenes]))
    counted = truth.repeats > 0 if count_said is None else (truth.repeats != IGNORE) & torch.tensor(list(count_said))
    then, over = _related(scenes, "then"), _related(scenes, "over")
    both = _all_present(judgement.presence, truth.presence)
    return {
        "single": _single(judgement.presence, truth.presence, scenes),
        "count": _share(judgement.repeats.argmax(-1) == truth.repeats, counted),
        "then: both": _share(both, then),
        "then: order": _share(_in_order(judgement.activity, scenes), then & both),
        "over: both": _share(both, over),
        **{
            name: _share(getattr(judgement, name).argmax(-1) == getattr(truth, name), getattr(truth, name) != IGNORE)
            for name in ("pitch", "loudness", "direction")
        },
    }


def picture_rows(
    judgement: PictureJudgement, scenes: Sequence[Scene], count_said: Sequence[bool] | None = None
) -> dict[str, Share]:
    """The scores of N pictures; arguments and errors as in `rows`.

    "places" is the share with each kind in its own panel, given that both are there.
    """
    _same_length(judgement.presence, scenes)
    truth = PictureJudgement(*_stacked([picture_truth(scene) for scene in scenes]))
    counted = truth.repeats > 0 if count_said is None else (truth.repeats != IGNORE) & torch.tensor(list(count_said))
    then, over = _related(scenes, "then"), _related(scenes, "over")
    both = _all_present(judgement.presence, truth.presence)
    placed = (judgement.panels.argmax(-1) == truth.panels).all(-1)
    return {
        "single": _single(judgement.presence, truth.presence, scenes),
        "count": _share(judgement.repeats.argmax(-1) == truth.repeats, counted),
        "layout": _share(judgement.layout.argmax(-1) == truth.layout, torch.ones(len(scenes), dtype=torch.bool)),
        "then: both": _share(both, then),
        "then: places": _share(placed, then & both),
        "over: both": _share(both, over),
        "over: places": _share(placed, over & both),
    }


def by_kind(judgement: SoundJudgement | PictureJudgement, scenes: Sequence[Scene]) -> dict[str, Share]:
    """For each kind: how often it is found present where it was asked for, alone or in a pair."""
    found = judgement.presence > 0                                                        # (N, K)
    asked = torch.stack([sound_truth(scene).presence for scene in scenes]) > 0            # (N, K)
    return {kind: _share(found[:, index], asked[:, index]) for index, kind in enumerate(KINDS)}


def agreement(first: SoundJudgement, second: SoundJudgement, scenes: Sequence[Scene]) -> dict[str, Share]:
    """How often two judges say the same: the likeliest kind of a single event, the set of kinds of a pair."""
    single = _related(scenes, "")
    kind = first.presence.argmax(-1) == second.presence.argmax(-1)
    kinds = ((first.presence > 0) == (second.presence > 0)).all(-1)
    return {"single": _share(kind, single), "pair": _share(kinds, ~single)}


def _same_length(presence: Tensor, scenes: Sequence[Scene]) -> None:
    if len(presence) != len(scenes):
        raise ValueError(f"{len(presence)} judgements do not belong to {len(scenes)} scenes")


def _stacked(truths: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(field) for field in zip(*truths, strict=True)]


def _related(scenes: Sequence[Scene], relation: str) -> Tensor:
    return torch.tensor([scene.relation == relation for scene in scenes])


def _share(right: Tensor, among: Tensor) -> Share:
    return Share(int((right & among).sum()), int(among.sum()))


def _single(presence: Tensor, wanted: Tensor, scenes: Sequence[Scene]) -> Share:
    """The likeliest kind is the one that was asked for."""
    return _share(presence.argmax(-1) == wanted.argmax(-1), _related(scenes, ""))


def _all_present(presence: Tensor, wanted: Tensor) -> Tensor:
    """(N,) every kind that was asked for has a probability above one half (a logit above 0)."""
    return ((presence > 0) | (wanted == 0)).all(-1)


def _in_order(activity: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """(N,) the first event's activity has its centre of mass before the last one's."""
    sounding = activity.float().sigmoid()                                                 # (N, K, S)
    time = torch.arange(activity.shape[-1], dtype=torch.float)                            # (S,)
    centre = (sounding * time).sum(-1) / sounding.sum(-1).clamp(min=1e-6)                 # (N, K)
    first = torch.tensor([KINDS.index(scene.events[0].kind) for scene in scenes])
    last = torch.tensor([KINDS.index(scene.events[-1].kind) for scene in scenes])
    return centre.gather(1, first[:, None])[:, 0] < centre.gather(1, last[:, None])[:, 0]
