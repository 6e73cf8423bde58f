"""Targets of the judges: a scene as the judgement of a perfect judge, with classes for logits.

K kinds, S steps. `IGNORE` marks attributes that a caption would not mention either, such as an average pitch, and all
attributes of a pair.
"""

import math

import torch
from torch import Tensor

from sonolume.modules.judges import STRIDE, PictureJudgement, SoundJudgement
from sonolume.preprocessors.miniworld import DURATION
from sonolume.preprocessors.miniworld.scene import KINDS, PITCHED, Event, Scene, band

IGNORE = -1
RELATIONS = ("", "then", "over")
BANDS = ("", "low", "high")  # a class is an index minus 1, so that "" is `IGNORE`
DIRECTIONS = ("", "up", "down")  # likewise
UNREMARKABLE = Event("", loudness=0.5)  # no attribute that a caption would mention: stands for a pair
STEPS = 160 // STRIDE  # of a sound of the miniature world


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
