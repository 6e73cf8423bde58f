"""Training and scoring targets of the judges: a scene as the judgement of a perfect judge, with classes for logits.

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
LAYOUTS = ("", "then", "over")
BANDS = ("low", "high")
DIRECTIONS = ("up", "down")
STEPS = 160 // STRIDE  # of a sound of the miniature world


def sound_target(scene: Scene, steps: int = STEPS) -> SoundJudgement:
    """Targets of the sound judge: presence (K,) and activity (K, S) float 0 or 1; the others () long."""
    event = _only_event(scene)
    pitched = event is not None and event.kind in PITCHED
    return SoundJudgement(
        presence=presence([scene]),
        activity=activity(scene, steps),
        repeats=torch.tensor(_count_class(event)),
        pitch=torch.tensor(_class(band(event.pitch) if event and pitched else "", BANDS)),
        loudness=torch.tensor(_class(band(event.loudness) if event else "", BANDS)),
        direction=torch.tensor(_class(event.direction if event else "", DIRECTIONS)),
    )


def picture_target(scene: Scene) -> PictureJudgement:
    """Targets of the picture judge: presence (K,) float 0 or 1; panels (2,), layout and repeats () long."""
    panels = [KINDS.index(event.kind) for event in scene.events]
    return PictureJudgement(
        presence=presence([scene]),
        layout=torch.tensor(LAYOUTS.index(scene.relation)),
        panels=torch.tensor((panels + [IGNORE])[:2]),
        repeats=torch.tensor(_count_class(_only_event(scene))),
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


def _only_event(scene: Scene) -> Event | None:
    return None if scene.relation else scene.events[0]


def _count_class(event: Event | None) -> int:
    return event.count - 1 if event and event.count else IGNORE


def _class(word: str, words: tuple[str, ...]) -> int:
    return words.index(word) if word else IGNORE
