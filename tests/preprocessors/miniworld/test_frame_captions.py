"""Captions of video frames state what is visible, in wordings of their own for tests."""

import numpy as np

from sonolume.models.mini.clip_text import build_tokenizer
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.captions import (
    FRAME_TEST,
    FRAME_TEXTS,
    FRAME_TRAIN,
    frame_caption,
    kinds_in,
    status,
)  # fmt: skip
from sonolume.preprocessors.miniworld.pictures import appearances, even_windows, frames, paint
from sonolume.preprocessors.miniworld.scene import Event, Scene


def test_appearances_are_those_that_frames_paints() -> None:
    scene = next(world.scenes("test", 1))
    painted = [paint(scene, states) for states in appearances(scene, *even_windows(9))]
    np.testing.assert_array_equal(np.stack(painted), frames(scene, 9))


def test_captions_follow_the_states_of_a_counted_event() -> None:
    event = Event("bell", count=2, start=0.2)
    scene, rng = Scene("x", [event], seed=3), np.random.default_rng(0)
    films = appearances(scene, *even_windows(77))
    names = [status(event, states[0]) for states in films]
    order = [name for index, name in enumerate(names) if not index or name != names[index - 1]]
    assert [name for name in order if name == "strikes again"] == ["strikes again"] * 2
    assert order[0] in ("silent", "sounds") and "has sounded" in order
    for name, states in zip(names, films, strict=True):
        for held_out in (False, True):
            text = frame_caption(scene, states, rng, held_out)
            assert kinds_in(text) == ["bell"], text
            if name == "has sounded":
                assert ("once" in text or "one time" in text) == (states[0].marks == 1), text


def test_both_events_of_a_pair_are_worded_and_every_word_is_one_token() -> None:
    tokens, rng = build_tokenizer(64, FRAME_TEXTS), np.random.default_rng(0)
    for scene in world.scenes("test", 30, seed=4):
        for states in appearances(scene, *even_windows(5)):
            text = frame_caption(scene, states, rng, held_out_wording=True)
            assert set(kinds_in(text)) == {event.kind for event in scene.events}, text
            plain = text.replace(",", " ,").replace(":", " :").replace("-", " - ").split()
            assert len(tokens(text).input_ids) == len(plain) + 2, text


def test_held_out_wordings_differ() -> None:
    assert FRAME_TRAIN.keys() == FRAME_TEST.keys()
    train, test = ({text for texts in table.values() for text in texts} for table in (FRAME_TRAIN, FRAME_TEST))
    assert not train & test
