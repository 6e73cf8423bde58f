"""Speech recognisers: CTC and Whisper, and what counts as a wrong letter."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sonolume.models.speech_recognition import Recogniser, count_wrong_letters, error_rate, letters
from sonolume.utils.errors import UserError
from tests.models.s2i import tiny

RATE = 16000


def noise(seconds: float, seed: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize("kind", ["ctc", "whisper"])
def test_a_transcript_does_not_depend_on_its_batch(kind: str, tmp_path: Path) -> None:
    make = tiny.make_hubert if kind == "ctc" else tiny.make_whisper
    recogniser = Recogniser(str(make(tmp_path / kind)), "--asr")
    assert recogniser.is_ctc == (kind == "ctc") and recogniser.sample_rate == RATE
    waves = [noise(0.3, 0), noise(0.7, 1), noise(0.3, 2), noise(0.5, 3)]
    found = recogniser.transcribe(waves)
    assert found == [recogniser.transcribe([wave])[0] for wave in waves]
    assert any(found) and all(text == " ".join(text.split()) and "<" not in text for text in found)
    assert recogniser.transcribe([]) == []


def test_ctc_spells_the_most_likely_letters_without_repetitions(tmp_path: Path) -> None:
    recogniser = Recogniser(str(tiny.make_hubert(tmp_path / "hubert")))
    ids = recogniser.processor.tokenizer.convert_tokens_to_ids([*"AA", "<pad>", *"AB", "|", "<unk>", "|", "C", "<pad>"])
    recogniser._token_ids = lambda waves: torch.tensor([ids, [0] * len(ids)])
    assert recogniser.transcribe([noise(0.2, 0), noise(0.2, 1)]) == ["AAB C", ""]


def test_a_model_that_recognises_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--asr .*clip: holds a model of type clip, not whisper"):
        Recogniser(str(tiny.make_clip(tmp_path / "clip")))
    folder = tiny.make_hubert(tmp_path / "hubert")
    for path in [*folder.glob("*token*"), *folder.glob("vocab*"), *folder.glob("special*")]:
        path.unlink()
    with pytest.raises(UserError, match=r"--asr .*hubert: .*"):
        Recogniser(str(folder))


def test_letters_are_compared_without_case_and_punctuation() -> None:
    assert letters("It's a high-pitched  Bell, twice!") == "its a high pitched bell twice"
    counts = count_wrong_letters(["A BELL", "", "rain falls down"], ["A bell.", "rain", "rain falls"])
    assert counts.tolist() == [[0, 6], [4, 4], [5, 10]]
    assert error_rate(counts) == pytest.approx(9 / 20)
