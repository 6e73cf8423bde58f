"""Targets of the judges."""

import pytest
import torch

from sonolume.models.mini.targets import IGNORE, picture_target, sound_target
from sonolume.preprocessors.miniworld.scene import KINDS, Event, Scene

BELL, RAIN = KINDS.index("bell"), KINDS.index("rain")


def single(**attributes: object) -> Scene:
    return Scene("x", [Event(**attributes)])  # type: ignore[arg-type]


def test_a_pair_has_kinds_and_times_but_no_attributes() -> None:
    scene = Scene("x", [Event("rain", start=0.0, end=1.28), Event("bell", count=2, pitch=0.9, start=1.28)], "then")
    target = sound_target(scene)
    assert target.presence.nonzero().flatten().tolist() == sorted([BELL, RAIN])
    assert target.activity[RAIN].tolist() == [1.0] * 10 + [0.0] * 10
    assert target.activity[BELL].tolist() == [0.0] * 10 + [1.0] * 10
    assert {int(value) for value in target[2:]} == {IGNORE}
    picture = picture_target(scene)
    assert (int(picture.layout), picture.panels.tolist(), int(picture.repeats)) == (1, [RAIN, BELL], IGNORE)


@pytest.mark.parametrize(
    ("attributes", "field", "wanted"),
    [
        ({"kind": "bell", "count": 3}, "repeats", 2),
        ({"kind": "rain"}, "repeats", IGNORE),
        ({"kind": "bell", "pitch": 0.1}, "pitch", 0),
        ({"kind": "bell", "pitch": 0.9}, "pitch", 1),
        ({"kind": "bell", "pitch": 0.5}, "pitch", IGNORE),
        ({"kind": "rain", "pitch": 0.9}, "pitch", IGNORE),  # rain has no pitch
        ({"kind": "rain", "loudness": 0.1}, "loudness", 0),
        ({"kind": "rain", "loudness": 0.5}, "loudness", IGNORE),
        ({"kind": "siren", "direction": "down"}, "direction", 1),
        ({"kind": "bell"}, "direction", IGNORE),
    ],
)
def test_attributes_that_no_caption_mentions_are_ignored(
    attributes: dict[str, object], field: str, wanted: int
) -> None:
    assert int(getattr(sound_target(single(**attributes)), field)) == wanted


def test_a_single_picture_has_one_panel() -> None:
    target = picture_target(single(kind="bell", count=2))
    assert target.panels.tolist() == [BELL, IGNORE]
    assert (int(target.layout), int(target.repeats)) == (0, 1)
    assert target.presence.dtype == torch.float32
