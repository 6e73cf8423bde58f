import re
import shutil

import numpy as np
import pytest

from sonolume.preprocessors.miniworld.captions import captions
from sonolume.preprocessors.miniworld.scene import scenes
from sonolume.preprocessors.miniworld.voice import (
    SOUNDS,
    TEST_VOICES,
    VOICES,
    espeak,
    speak,
    text_phonemes,
    word_phonemes,
)
from sonolume.utils.errors import UserError


def peaks(wave: np.ndarray, smooth_hz: float = 250) -> float:
    """The strongest frequency in Hz between 900 and 3500 of the smoothed spectrum: the second formant."""
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    width = max(1, round(smooth_hz * len(wave) / 16000))
    power = np.convolve(power, np.ones(width) / width, mode="same")
    frequency = np.fft.rfftfreq(len(wave), 1 / 16000)
    power[(frequency < 1500) | (frequency > 3500)] = 0
    return float(frequency[power.argmax()])


@pytest.mark.parametrize(
    ("word", "phonemes"),
    [
        ("bell", "B EH L"), ("rain", "R EY N"), ("ship", "SH IH P"), ("chirps", "CH ER P S"), ("three", "TH R IY"),
        ("then", "DH EH N"), ("ringing", "R IH NG IH NG"), ("clock", "K L AA K"), ("time", "T AY M"),
        ("booms", "B UW M Z"), ("phone", "F OW N"), ("high", "HH AY"), ("dog", "D AA G"), ("loudly", "L AW D L IY"),
    ],
)  # fmt: skip
def test_rules(word: str, phonemes: str):
    assert word_phonemes(word) == phonemes.split()


def test_every_caption_can_be_spoken():
    for scene in scenes("train", 300):
        for word in text_phonemes(captions(scene, 1, "train")[0]):
            assert word
            assert set(word) <= set(SOUNDS)


def test_digits_and_marks():
    assert text_phonemes("2 dogs.") == [["T", "UW"], ["D", "AA", "G", "Z"], ["_"]]


@pytest.mark.parametrize("text", ["", " ,. ", "犬"])
def test_text_without_words_is_rejected(text: str):
    with pytest.raises(UserError, match="nothing to speak"):
        speak(text)


def test_an_unknown_voice_is_rejected():
    with pytest.raises(UserError, match=re.escape("anna")):
        speak("a bell", "nobody")


def test_speech_is_deterministic_and_bounded():
    wave = speak("a bell rings twice", "ben", 3)
    np.testing.assert_array_equal(wave, speak("a bell rings twice", "ben", 3))
    assert wave.dtype == np.float32
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() == pytest.approx(0.7, abs=1e-4)
    assert 1.0 < len(wave) / 16000 < 2.5
    assert len(wave) != len(speak("a bell rings twice", "ben", 4))


def test_some_voices_are_for_tests_only():
    assert set(TEST_VOICES) < set(VOICES)
    assert len(VOICES) - len(TEST_VOICES) >= 6
    assert len(set(VOICES.values())) == len(VOICES)


@pytest.mark.parametrize("voice", VOICES)
def test_pitch_is_that_of_the_voice(voice: str):
    wave = speak("aa", voice, 1)
    middle = wave[len(wave) // 2 - 1200 : len(wave) // 2 + 1200].astype(float)
    correlation = np.correlate(middle, middle, mode="full")[len(middle) :]
    shortest = 16000 // 320
    found = 16000 / (shortest + 1 + correlation[shortest:230].argmax())
    assert found == pytest.approx(VOICES[voice].pitch, rel=0.2)


def test_a_vowel_sounds_alike_in_different_words_and_unlike_another():
    def vowel(word: str) -> float:
        wave = speak(word, "anna", 0)
        return peaks(wave[len(wave) // 2 - 800 : len(wave) // 2 + 800])

    see, meet, shirt = vowel("bee"), vowel("eel"), vowel("ur")
    assert see == pytest.approx(meet, rel=0.12)
    assert see > 1.2 * shirt


def test_hiss_is_high_and_vowels_are_low():
    def share_above_4k(text: str) -> float:
        power = np.abs(np.fft.rfft(speak(text))) ** 2
        return power[len(power) // 2 :].sum() / power.sum()

    assert share_above_4k("sss") > 0.5
    assert share_above_4k("aa") < 0.05


def test_espeak_is_optional():
    if shutil.which("espeak-ng") is None:
        with pytest.raises(UserError, match="espeak-ng"):
            espeak("a bell")
    else:
        wave = espeak("a bell rings")
        assert wave.dtype == np.float32
        assert len(wave) > 8000
