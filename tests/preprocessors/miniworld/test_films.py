import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from sonolume.preprocessors.miniworld import SAMPLE_RATE, SAMPLES
from sonolume.preprocessors.miniworld.pictures import delayed_wave, encode_film, film, film_delay, film_onsets, onsets
from sonolume.preprocessors.miniworld.scene import COUNTABLE, Event, Scene, scenes
from sonolume.preprocessors.miniworld.sounds import render

SCENES = list(scenes("train", 200, pairs=False))


def late(kind: str) -> Scene:
    """A scene of one early sound, delayed by 0.3 to 0.9 s."""
    found = (Scene("a", [Event(kind, count=1 if kind in COUNTABLE else 0)], seed=seed) for seed in range(99))
    return next(scene for scene in found if 0.3 < film_delay(scene) < 0.9)


def test_half_of_the_films_are_delayed() -> None:
    delays = [film_delay(scene) for scene in SCENES]
    assert delays == [film_delay(scene) for scene in SCENES]
    assert 0.4 < np.mean([delay == 0 for delay in delays]) < 0.6
    assert 1.1 < max(delays) <= 1.2


def test_the_sound_moves_by_the_delay() -> None:
    for scene in SCENES[:20]:
        wave, shift = delayed_wave(scene), round(film_delay(scene) * SAMPLE_RATE)
        assert wave.shape == (SAMPLES,) and wave.dtype == np.float32
        np.testing.assert_array_equal(wave[shift:], render(scene)[: SAMPLES - shift])
        assert not shift or 1e-5 < np.abs(wave[:shift]).max() < 3e-3
        np.testing.assert_array_equal(wave, delayed_wave(scene))


@pytest.mark.parametrize("kind", [*COUNTABLE, "clock", "footsteps"])
def test_the_first_lit_frame_is_that_of_the_first_onset(kind: str) -> None:
    scene = late(kind)
    frames, times = film(scene), film_onsets(scene)[0]
    assert frames.shape == (77, 64, 64, 3) and frames.dtype == np.uint8
    changes = (np.abs(np.diff(frames.astype(int), axis=0)).sum(axis=-1) > 60).mean(axis=(1, 2))
    first = 1 + int(np.argmax(changes > 0.05))
    assert int(times[0] * 30) - first in (0, 1)  # it may be audible shortly before
    assert (frames[:first] == frames[0]).all()  # faint until then
    assert times[0] == pytest.approx(onsets(scene)[0][0] + film_delay(scene))
    wave = np.abs(delayed_wave(scene))
    assert np.argmax(wave > 0.1 * wave.max()) / SAMPLE_RATE == pytest.approx(times[0], abs=0.03)


def test_onsets_after_the_end_do_not_count() -> None:
    late_ones = [scene for scene in SCENES if film_delay(scene) > 0.6]
    for scene in late_ones:
        kept, every = film_onsets(scene)[0], onsets(scene)[0]
        assert len(kept) == sum(time + film_delay(scene) < 2.56 for time in every)
        assert all(0 <= time < 2.56 for time in kept)
    assert any(len(film_onsets(scene)[0]) < len(onsets(scene)[0]) for scene in late_ones)


def test_the_file_has_every_frame_at_its_time() -> None:
    for scene in SCENES[:4]:
        frames, end, shown = film(scene), 0, []
        with Image.open(io.BytesIO(encode_film(frames))) as file:
            for picture in ImageSequence.Iterator(file):
                shown.append((end, np.asarray(picture.convert("RGB"))))
                end += picture.info["duration"]
        assert end == 2560
        for index, frame in enumerate(frames):
            begin, found = [entry for entry in shown if entry[0] <= 1000 * index / 30][-1]
            np.testing.assert_array_equal(found, frame)
            assert begin > 1000 * (index - 1) / 30 or (frames[index - 1] == frame).all()
