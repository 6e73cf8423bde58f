import shutil

import numpy as np
import pytest

from sonolume.preprocessors.miniworld.captions import captions
from sonolume.preprocessors.miniworld.scene import scenes
from sonolume.preprocessors.miniworld.spoken import TRAIN_VOICES, Utterance, utterances
from sonolume.preprocessors.miniworld.voice import TEST_VOICES
from sonolume.utils.errors import UserError

COUNT = 60  # scenes


def drawn(split: str) -> list[Utterance]:
    return [one for scene in scenes(split, COUNT) for one in utterances(scene, 2, split)]


def test_voices_of_the_splits() -> None:
    assert set(TEST_VOICES) == {"iris", "jack"} and not set(TEST_VOICES) & set(TRAIN_VOICES)
    for split, voices in {"train": TRAIN_VOICES, "valid": TRAIN_VOICES, "test": TEST_VOICES}.items():
        found = {one.voice for one in drawn(split)}
        assert found <= set(voices) and len(found) > len(voices) / 2


def test_held_out_wordings_are_spoken_in_the_test_split_only() -> None:
    for scene in scenes("test", COUNT):
        texts = {split: [one.text for one in utterances(scene, 3, split)] for split in ("train", "test")}
        assert texts == {split: captions(scene, 3, split) for split in ("train", "test")}
        assert not set(texts["train"]) & set(texts["test"])


def test_the_same_speech_every_time() -> None:
    first, again = (utterances(next(iter(scenes("train", 1))), 2, "train") for _ in range(2))
    assert first == again
    wave = first[0].render()
    np.testing.assert_array_equal(wave, again[0].render())
    assert wave.dtype == np.float32 and 1 < len(wave) / 16000 < 10 and 0.01 < np.abs(wave).max() <= 1


@pytest.mark.parametrize("change", [{"voice": TEST_VOICES[0]}, {"text": "rain falls"}, {"seed": 5}])
def test_text_voice_and_seed_matter(change: dict) -> None:
    one = {"text": "a bell rings", "voice": TRAIN_VOICES[0], "seed": 1}
    waves = [Utterance(**values).render() for values in (one, one | change)]
    assert len(waves[0]) != len(waves[1]) or np.abs(waves[0] - waves[1]).max() > 0.01


def test_voices_of_espeak_speak_in_training_only() -> None:
    some = list(scenes("train", 20))
    found = {split: {one.voice for scene in some for one in utterances(scene, 2, split, espeak_voices=["en", "de"])}
             for split in ("train", "test")}  # fmt: skip
    assert {"espeak en", "espeak de"} <= found["train"] and found["test"] == set(TEST_VOICES)
    if shutil.which("espeak-ng") is None:
        with pytest.raises(UserError, match="espeak-ng"):
            Utterance("a bell rings", "espeak en", 1).render()
