"""What judges ought to say."""

import pytest
import torch

from sonolume.models.mini.truth import IGNORE, picture_truth, sound_truth
from sonolume.preprocessors.miniworld.scene import KINDS, Event, Scene

BELL, RAIN = KINDS.index("bell"), KINDS.index("rain")


def single(**attributes: object) -> Scene:
    return Scene("x", [Event(**attributes)])  # type: ignore[arg-type]


def test_a_pair_has_kinds_and_times_but_no_attributes() -> None:
    scene = Scene("x", [Event("rain", start=0.0, end=1.28), Event("bell", count=2, pitch=0.9, start=1.28)], "then")
    truth = sound_truth(scene)
    assert truth.presence.nonzero().flatten().tolist() == sorted([BELL, RAIN])
    assert truth.activity[RAIN].tolist() == [1.0] * 10 + [0.0] * 10
    assert truth.activity[BELL].tolist() == [0.0] * 10 + [1.0] * 10
    assert {int(value) for value in truth[2:]} == {IGNORE}
    picture = picture_truth(scene)
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
def test_an_attribute_counts_where_a_caption_would_say_it(
    attributes: dict[str, object], field: str, wanted: int
) -> None:
    assert int(getattr(sound_truth(single(**attributes)), field)) == wanted


def test_a_single_picture_has_one_panel() -> None:
    truth = picture_truth(single(kind="bell", count=2))
    assert truth.panels.tolist() == [BELL, IGNORE]
    assert (int(truth.layout), int(truth.repeats)) == (0, 1)
    assert truth.presence.dtype == torch.float32
