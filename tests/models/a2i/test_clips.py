"""Spans, windows and long sounds: which seconds of a file are encoded, and what is said about them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sonolume.config.options import parse_spans
from sonolume.models.a2i.clips import read_clips
from sonolume.utils.audio import SoundError

RATE = 16000
LOUDEST = "its loudest 1 s are used ({} of 3 s); --span chooses others, --average uses all"
MEAN = [[0, 1], [1, 2], [2, 3]]


@pytest.fixture(scope="module")
def thunder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of noise, loudest from 1.5 to 2.5 s, silent from there on."""
    wave = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    wave[: 3 * RATE // 2] /= 10
    wave[5 * RATE // 2 :] = 0
    path = tmp_path_factory.mktemp("sounds") / "thunder.wav"
    soundfile.write(path, wave, RATE)
    return path


@pytest.fixture
def read(
    thunder: Path, formula_encoder: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[list[Any], list[str]]]:
    """read(policy, span="", average=False, window=None, hop=None) -> clips of thunder.wav, lines about it on stderr."""

    def run(policy: str, span: str = "", **options: Any) -> tuple[list[Any], list[str]]:
        encoder = formula_encoder(long_sounds=policy)
        clips = read_clips(thunder, encoder, spans=parse_spans(span) if span else None, **options)
        lines = capsys.readouterr().err.splitlines()
        assert all(line.startswith(f"{thunder}: ") for line in lines)
        return clips, [line.removeprefix(f"{thunder}: ") for line in lines]

    return run


@pytest.mark.parametrize(
    ("policy", "span", "average", "seconds", "encoded", "lines"),
    [
        ("mean", "", False, [0, 3], MEAN, []),
        ("mean", "", True, [0, 3], MEAN, []),
        ("mean", "1.2-2", False, [1.2, 2], [[1.2, 2]], ["1.2-2 of 3 s are used"]),
        ("mean", "0-1.5", False, [0, 1.5], [[0, 1], [0.5, 1.5]], ["0-1.5 of 3 s are used"]),
        ("mean", "2-3.005", False, [2, 3], [[2, 3]], ["2-3 of 3 s are used"]),  # rounded lengths of other sample rates
        ("loudest", "", False, [0, 3], [[1.5, 2.5]], [LOUDEST.format("1.5-2.5")]),
        ("loudest", "0-1.9", False, [0, 1.9], [[0.9, 1.9]], [LOUDEST.format("0.9-1.9")]),
        ("loudest", "2-", False, [2, 3], [[2, 3]], ["2-3 of 3 s are used"]),
        ("loudest", "", True, [0, 3], MEAN, ["0-3 of 3 s are used, the mean of 3 windows of 1 s"]),
        ("refuse", "", True, [0, 3], MEAN, ["0-3 of 3 s are used, the mean of 3 windows of 1 s"]),
        ("refuse", "1-2", False, [1, 2], [[1, 2]], ["1-2 of 3 s are used"]),
    ],
)
def test_the_mean_says_nothing_and_all_else_is_one_line(
    read: Any, policy: str, span: str, average: bool, seconds: list[float], encoded: Any, lines: list[str]
):
    ((clip, wave),), found = read(policy, span, average=average)
    assert (clip.seconds, clip.encoded, found) == (seconds, encoded, lines)
    assert len(wave) == round((seconds[1] - seconds[0]) * RATE)


def test_a_storyboard_of_a_span(read: Any):
    clips, lines = read("mean", "0.5-2.5", window=1.0)
    assert [clip.seconds for clip, _ in clips] == [[0.5, 1.5], [1.5, 2.5]] and lines == ["0.5-2.5 of 3 s are used"]
    clips, lines = read("loudest", window=1.5)
    assert clips[1][0].encoded == [[1.5, 2.5]]
    assert lines == ["the loudest 1 s of each window are used; --average uses all"]
    clips, lines = read("loudest", window=1.5, average=True)
    assert clips[1][0].encoded == [[1.5, 2.5], [2, 3]]
    assert lines == ["0-3 of 3 s are used, each window as the mean of 2 windows of 1 s"]
    silent = "1 of 2 windows are silent: no pictures of them"
    assert read("mean", "2-", window=0.5)[1] == [silent, "2-3 of 3 s are used"]


@pytest.mark.parametrize(
    ("policy", "span", "message"),
    [
        ("mean", "2-3.5", "thunder.wav: --span 2-3.5 lies outside the sound, which lasts 3 s"),
        ("mean", "3-", "thunder.wav: --span 3- lies outside the sound, which lasts 3 s"),
        ("mean", "2.5-3", "thunder.wav: --span 2.5-3: silent"),
        ("mean", "1-1.1", "thunder.wav: --span 1-1.1: 0.100 s long"),
        ("refuse", "", "thunder.wav: 3 s long, at most 1 s are encoded: --span START-END chooses a part"),
        ("refuse", "0-2", "thunder.wav: --span 0-2: 2 s long, at most 1 s are encoded"),
    ],
)
def test_seconds_that_cannot_be_used(read: Any, policy: str, span: str, message: str):
    with pytest.raises(SoundError) as error:
        read(policy, span)
    assert message in str(error.value)
