"""Judging a scene: the targets of a perfect judge, and the shares of judgements that agree with the requested scene.

K kinds, S steps. `IGNORE` marks attributes that a caption would not mention either, such as an average pitch, and all
attributes of a pair.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sonolume.modules.judges import STRIDE, PictureJudgement, SoundJudgement
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors.miniworld import DURATION
from sonolume.preprocessors.miniworld.scene import KINDS, PITCHED, Event, Scene, band

Judgement = SoundJudgement | PictureJudgement
IGNORE = -1
RELATIONS = ("", "then", "over")
BANDS = ("", "low", "high")  # a class is an index minus 1, so that "" is `IGNORE`
DIRECTIONS = ("", "up", "down")  # likewise
UNREMARKABLE = Event("", loudness=0.5)  # no attribute that a caption would mention: stands for a pair
STEPS = 160 // STRIDE  # of a sound of the miniature world

CHANCE = {  # share that a generator reaches which ignores its caption, in the order of reports
    "single": 1 / len(KINDS), "count": 1 / 3, "layout": 1 / 3,
    "then_both": 1 / math.comb(len(KINDS), 2), "then_order": 1 / 2, "then_places": 1 / 2,  # if it makes random pairs
    "over_both": 1 / math.comb(len(KINDS), 2), "over_places": 1 / 2,
    "pitch": 1 / 2, "loudness": 1 / 2, "direction": 1 / 2,
}  # fmt: skip


def sound_target(scene: Scene, steps: int = STEPS) -> SoundJudgement:
    """Targets of the sound judge: presence (K,) and activity (K, S) float 0 or 1; the others () long."""
    event = UNREMARKABLE if scene.relation else scene.events[0]
    return SoundJudgement(
        presence=presence([scene]),
        activity=activity(scene, steps),
        repeats=torch.tensor(event.count - 1),
        pitch=torch.tensor(BANDS.index(band(event.pitch) if event.kind in PITCHED else "") - 1),
        loudness=torch.tensor(BANDS.index(band(event.loudness)) - 1),
        direction=torch.tensor(DIRECTIONS.index(event.direction) - 1),
    )


def picture_target(scene: Scene) -> PictureJudgement:
    """Targets of the picture judge: presence (K,) float 0 or 1; panels (2,), layout and repeats () long."""
    panels = [KINDS.index(event.kind) for event in scene.events]
    return PictureJudgement(
        presence=presence([scene]),
        layout=torch.tensor(RELATIONS.index(scene.relation)),
        panels=torch.tensor((panels + [IGNORE])[:2]),
        repeats=torch.tensor(IGNORE if scene.relation else scene.events[0].count - 1),
    )


def presence(scenes: list[Scene]) -> Tensor:
    """(K,) 1.0 for every kind that occurs in any of the scenes."""
    kinds = {event.kind for scene in scenes for event in scene.events}
    return torch.tensor([float(kind in kinds) for kind in KINDS])


def activity(scene: Scene, steps: int) -> Tensor:
    """(K, S) 1.0 for every kind at each step that one of its events overlaps."""
    grid = torch.zeros(len(KINDS), steps)
    for event in scene.events:
        first, last = math.floor(event.start / DURATION * steps), math.ceil(event.end / DURATION * steps)
        grid[KINDS.index(event.kind), first:last] = 1
    return grid


def score_judgement(judgement: Judgement, scenes: Sequence[Scene]) -> dict[str, Share]:
    """Compare the judgement of N sounds or pictures with their scenes.

    Returns:
        single: the most likely kind is the requested one; count: repetitions above one; then_both, over_both: both
        kinds are present. Sounds: then_order: they start in the right order, among those with both; pitch, loudness,
        direction: the attribute, where a caption would mention it. Pictures: layout: one panel, two side by side or
        two stacked; then_places, over_places: each kind is in its own panel, among those with both.

    Raises:
        ValueError: the numbers of judgements and scenes differ.
    """
    if len(judgement.presence) != len(scenes):
        raise ValueError(f"{len(judgement.presence)} judgements, but {len(scenes)} scenes")
    single, then, over = (torch.tensor([scene.relation == name for scene in scenes]) for name in ("", "then", "over"))
    of_scene = sound_target if isinstance(judgement, SoundJudgement) else picture_target
    target: Judgement = type(judgement)(*map(torch.stack, zip(*map(of_scene, scenes), strict=True)))  # type: ignore[arg-type]
    both = ((judgement.presence > 0) | (target.presence == 0)).all(-1)  # a logit above 0 is a probability above 1/2
    checks = {  # score -> which samples are right (N,), and which are counted (N,)
        "single": (judgement.presence.argmax(-1) == target.presence.argmax(-1), single),
        "count": (judgement.repeats.argmax(-1) == target.repeats, target.repeats > 0),  # one need not be mentioned
        "then_both": (both, then),
        "over_both": (both, over),
    }
    if isinstance(judgement, SoundJudgement):
        checks["then_order"] = _in_order(judgement.activity, scenes), then & both
        for name in ("pitch", "loudness", "direction"):
            wanted = getattr(target, name)
            checks[name] = getattr(judgement, name).argmax(-1) == wanted, wanted != IGNORE
    else:
        placed = (judgement.panels.argmax(-1) == target.panels).all(-1)  # type: ignore[union-attr]
        checks["layout"] = judgement.layout.argmax(-1) == target.layout, single | then | over  # type: ignore[union-attr]
        checks |= {"then_places": (placed, then & both), "over_places": (placed, over & both)}
    found = {name: Share(int((right & among).sum()), int(among.sum())) for name, (right, among) in checks.items()}
    return {name: found[name] for name in CHANCE if name in found}


def _in_order(activity: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """(N,) whether the centre of mass of the first event's activity precedes that of the last event."""
    sounding = activity.float().sigmoid()                                                 # (N, K, S)
    time = torch.arange(activity.shape[-1], dtype=torch.float)                            # (S,)
    centre = (sounding * time).sum(-1) / sounding.sum(-1).clamp(min=1e-6)                 # (N, K)
    first = torch.tensor([KINDS.index(scene.events[0].kind) for scene in scenes])
    last = torch.tensor([KINDS.index(scene.events[-1].kind) for scene in scenes])
    return centre.gather(1, first[:, None])[:, 0] < centre.gather(1, last[:, None])[:, 0]
