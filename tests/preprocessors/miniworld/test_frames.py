from itertools import pairwise

import numpy as np
import pytest

from sonolume.preprocessors.miniworld import DURATION
from sonolume.preprocessors.miniworld.pictures import frames, onsets
from sonolume.preprocessors.miniworld.scene import COUNTABLE, Event, Scene, scenes


def contrast(image: np.ndarray) -> float:
    """Mean distance from the paper."""
    return float(np.abs(image.astype(int) - image[0, 0]).mean())


@pytest.mark.parametrize("count", [1, 8, 16])
def test_videos_are_deterministic(count: int):
    for scene in scenes("train", 10):
        film = frames(scene, count)
        assert film.shape == (count, 64, 64, 3)
        assert film.dtype == np.uint8
        np.testing.assert_array_equal(film, frames(scene, count))


def test_a_video_without_frames_is_rejected():
    with pytest.raises(ValueError, match="at least one"):
        frames(next(scenes("train", 1)), 0)


def test_onsets_are_as_many_as_counted_and_inside_the_event():
    for scene in scenes("valid", 150):
        for event, times in zip(scene.events, onsets(scene), strict=True):
            assert times
            assert len(times) == event.count or event.kind not in COUNTABLE, (scene.uid, event)
            assert all(event.start - 0.011 <= time < event.end for time in times)


@pytest.mark.parametrize("kind", COUNTABLE)
def test_a_video_changes_most_at_onsets(kind: str):
    for seed in range(4):
        scene = Scene("a", [Event(kind, count=3, timbre=0.2, start=0.2)], seed=seed)
        film = frames(scene, 16).astype(int)
        hits = {int(time / DURATION * 16) for time in onsets(scene)[0]}
        bright = [(image.sum(axis=-1) > 3 * 225).mean() for image in film]  # the light behind a sounding object
        assert {int(k) for k in np.argsort(bright)[-3:]} == hits
        for index, (before, after) in enumerate(pairwise(film), start=1):
            if index in hits:
                assert (np.abs(after - before).sum(axis=-1) > 60).mean() > 0.05


def test_the_second_of_two_events_is_faint_until_it_sounds():
    events = [Event("whistle", count=1, timbre=0.0, end=1.2), Event("siren", direction="up", timbre=0.7, start=1.3)]
    film = frames(Scene("a", events, "then", seed=4))
    left, right = film[:, :, :32], film[:, :, 33:]
    assert contrast(right[7]) > 2 * contrast(right[0])
    assert (np.abs(right[1].astype(int) - right[0]).sum()) == 0
    assert (np.abs(left[7].astype(int) - left[6]).sum()) == 0


def test_muting_the_other_event_keeps_the_times():
    """The second event's random numbers come after the first one's: its times must be those of the whole scene."""
    from sonolume.preprocessors.miniworld import SAMPLE_RATE
    from sonolume.preprocessors.miniworld.sounds import render

    checked = 0
    for scene in scenes("train", 80):
        if scene.relation == "then":
            (_, times), wave = onsets(scene), render(scene)
            at = int(times[0] * SAMPLE_RATE)
            before, after = wave[max(0, at - 480) : at], wave[at : at + 800]
            assert np.abs(after).max() > np.abs(before).max() or scene.events[1].kind == "engine"
            checked += 1
    assert checked > 10
