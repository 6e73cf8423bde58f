import colorsys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from sonolume.preprocessors.miniworld.drawings import DRAWINGS
from sonolume.preprocessors.miniworld.pictures import picture
from sonolume.preprocessors.miniworld.scene import COUNTABLE, KINDS, Event, Scene, scenes


def alone(kind: str, **attributes: object) -> Scene:
    """A scene of one event in the middle."""
    values: dict = {"count": 1 if kind in COUNTABLE else 0, "direction": "up" if kind == "siren" else ""}
    return Scene("a", [Event(kind, **{**values, **attributes})], seed=5)


def drawn(image: np.ndarray) -> np.ndarray:
    """(64, 64) bool: where something differs from the paper, taken at the left top corner."""
    return np.abs(image.astype(int) - image[0, 0]).sum(axis=2) > 40


def test_every_kind_has_a_drawing():
    assert set(DRAWINGS) == set(KINDS)


def test_pictures_are_deterministic_and_differ():
    found = list(scenes("train", 60))
    first, again = [picture(s) for s in found], [picture(s) for s in found]
    for a, b in zip(first, again, strict=True):
        assert a.shape == (64, 64, 3)
        assert a.dtype == np.uint8
        np.testing.assert_array_equal(a, b)
    assert all((a != b).any() for a, b in combinations(first, 2))


def test_drawings_of_kinds_differ():
    masks = {kind: drawn(picture(alone(kind))) for kind in KINDS}
    for a, b in combinations(KINDS, 2):
        overlap = (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum()
        assert overlap < 0.93, (a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_loudness_is_size_and_pan_is_place(kind: str):
    quiet, loud = (drawn(picture(alone(kind, loudness=loudness))).sum() for loudness in (0.0, 1.0))
    assert loud > 1.5 * quiet
    left, right = (np.nonzero(drawn(picture(alone(kind, loudness=0.2, pan=pan))))[1].mean() for pan in (0.0, 1.0))
    assert right > left + 8


@pytest.mark.parametrize("kind", KINDS)
def test_pitch_is_height_and_timbre_is_colour(kind: str):
    low, high = (np.nonzero(drawn(picture(alone(kind, loudness=0.2, pitch=pitch))))[0].mean() for pitch in (0.0, 1.0))
    assert high < low - 8
    red, blue = (picture(alone(kind, timbre=timbre)).astype(int) for timbre in (0.0, 0.75))
    assert (red - blue)[..., 0].sum() > 1000 < (blue - red)[..., 2].sum()


@pytest.mark.parametrize("kind", COUNTABLE)
def test_counts_add_marks(kind: str):
    one, two, three = (picture(alone(kind, count=count)).astype(int) for count in (1, 2, 3))
    for a, b in ((one, two), (two, three)):
        assert (np.abs(a - b).sum(axis=2) > 60).sum() >= 10


def test_directions_differ():
    up, down = (picture(alone("siren", direction=direction)).astype(int) for direction in ("up", "down"))
    assert (np.abs(up - down).sum(axis=2) > 60).sum() >= 20


def test_the_paper_changes_with_the_seed():
    hues = [colorsys.rgb_to_hls(*picture(replace(alone("bell"), seed=seed))[0, 0] / 255)[0] for seed in range(20)]
    assert np.ptp(hues) > 0.5


@pytest.mark.parametrize("relation", ["then", "over"])
def test_two_events_have_a_panel_each_in_order(relation: str):
    events = [alone("bell").events[0], alone("rain").events[0]]
    image = picture(Scene("a", events, relation, seed=5))
    other = picture(Scene("a", [events[0], alone("clock").events[0]], relation, seed=5))
    changed = (image != other).any(axis=2)
    first, second = (changed[:, :32], changed[:, 33:]) if relation == "then" else (changed[:32], changed[33:])
    assert not first.any()
    assert second.sum() > 100
