import json
from collections import Counter

import pytest

from sonolume.preprocessors.miniworld import DURATION
from sonolume.preprocessors.miniworld.scene import COUNTABLE, KINDS, Event, Scene, band, is_held_out, scenes


def test_the_same_arguments_give_the_same_scenes():
    assert list(scenes("train", 50)) == list(scenes("train", 50))
    assert list(scenes("train", 50)) == list(scenes("train", 80))[:50]


@pytest.mark.parametrize("other", [("valid", 50, 1), ("test", 50, 1), ("train", 50, 2)])
def test_splits_and_seeds_differ(other: tuple[str, int, int]):
    first, second = list(scenes("train", 50)), list(scenes(*other))
    assert not {scene.seed for scene in first} & {scene.seed for scene in second}
    assert not {scene.uid for scene in first} & {scene.uid for scene in second}
    assert all(a.events != b.events for a, b in zip(first, second, strict=True))


def test_held_out_combinations_never_occur_in_training():
    assert not any(is_held_out(scene) for scene in scenes("train", 1500))
    tested = list(scenes("test", 600))
    assert all(scene.held_out == is_held_out(scene) for scene in tested)
    assert 0.05 < sum(scene.held_out for scene in tested) / len(tested) < 0.25


def test_some_ordered_pairs_are_held_out_and_every_kind_is_trained():
    pairs = [
        Scene("", [Event(a), Event(b)], relation)
        for a in KINDS
        for b in KINDS
        for relation in ("then", "over")
        if a != b
    ]
    assert 10 < sum(is_held_out(scene) for scene in pairs) < 70
    alone = Counter(scene.events[0].kind for scene in scenes("train", 1500) if not scene.relation)
    assert set(alone) == set(KINDS)


def test_attributes_are_in_range():
    for scene in scenes("valid", 300):
        assert len(scene.events) == (2 if scene.relation else 1)
        assert len({event.kind for event in scene.events}) == len(scene.events)
        for event in scene.events:
            assert event.count in ((1, 2, 3) if event.kind in COUNTABLE else (0,))
            assert event.direction in (("up", "down") if event.kind == "siren" else ("",))
            assert all(0 <= v <= 1 for v in (event.pitch, event.loudness, event.timbre, event.pan))
            assert 0 <= event.start < event.end <= DURATION


def test_then_leaves_each_event_a_part_of_its_own():
    for scene in scenes("train", 200):
        if scene.relation == "then":
            assert scene.events[0].end < scene.events[1].start


def test_kinds_can_be_chosen():
    found = {event.kind for scene in scenes("train", 100, kinds=["bell", "dog"]) for event in scene.events}
    assert found == {"bell", "dog"}


@pytest.mark.parametrize(("split", "kinds"), [("dev", None), ("train", ["cat"])])
def test_unknown_splits_and_kinds_are_rejected(split: str, kinds: list[str] | None):
    with pytest.raises(ValueError, match="unknown split"):
        next(scenes(split, 1, kinds=kinds))


def test_scenes_survive_json():
    for scene in scenes("test", 30):
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_bands():
    assert [band(value) for value in (0.1, 0.5, 0.9)] == ["low", "", "high"]
