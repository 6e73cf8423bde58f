"""What a judge ought to say of a scene, in the form of its judgement: classes in place of logits.

K kinds, S steps. `IGNORE` stands where a caption would not say it either (an unremarkable pitch), and for the
attributes of a pair.
"""

import math

import torch
from torch import Tensor

from sonolume.modules.judges import STRIDE, PictureJudgement, SoundJudgement
from sonolume.preprocessors.miniworld import DURATION
from sonolume.preprocessors.miniworld.scene import KINDS, PITCHED, Event, Scene, band

IGNORE = -1
LAYOUTS = ("", "then", "over")
BANDS = ("low", "high")
DIRECTIONS = ("up", "down")
STEPS = 160 // STRIDE  # of a sound of the miniature world


def sound_truth(scene: Scene, steps: int = STEPS) -> SoundJudgement:
    """presence (K,), activity (K, S) float 0 or 1; the others () long."""
    event = _single(scene)
    pitched = event is not None and event.kind in PITCHED
    return SoundJudgement(
        presence=_presence(scene),
        activity=_activity(scene, steps),
        repeats=torch.tensor(_count(event)),
        pitch=torch.tensor(_class(band(event.pitch) if event and pitched else "", BANDS)),
        loudness=torch.tensor(_class(band(event.loudness) if event else "", BANDS)),
        direction=torch.tensor(_class(event.direction if event else "", DIRECTIONS)),
    )


def picture_truth(scene: Scene) -> PictureJudgement:
    """presence (K,) float 0 or 1; panels (2,), layout and repeats () long."""
    panels = [KINDS.index(event.kind) for event in scene.events]
    return PictureJudgement(
        presence=_presence(scene),
        layout=torch.tensor(LAYOUTS.index(scene.relation)),
        panels=torch.tensor((panels + [IGNORE])[:2]),
        repeats=torch.tensor(_count(_single(scene))),
    )


def _single(scene: Scene) -> Event | None:
    return None if scene.relation else scene.events[0]


def _count(event: Event | None) -> int:
    return event.count - 1 if event and event.count else IGNORE


def _class(word: str, words: tuple[str, ...]) -> int:
    return words.index(word) if word else IGNORE


def _presence(scene: Scene) -> Tensor:
    present = {event.kind for event in scene.events}
    return torch.tensor([float(kind in present) for kind in KINDS])


def _activity(scene: Scene, steps: int) -> Tensor:
    """Every step that the event touches."""
    activity = torch.zeros(len(KINDS), steps)
    per_second = steps / DURATION
    for event in scene.events:
        first, last = math.floor(event.start * per_second), math.ceil(event.end * per_second)
        activity[KINDS.index(event.kind), first:last] = 1
    return activity
