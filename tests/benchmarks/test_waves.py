"""Vocoder and Griffin-Lim, ratios and growth: pytest -m benchmark -s tests/benchmarks/test_waves.py

The shipped miniature vocoder and 16 iterations of Griffin-Lim, as in its pipeline; processor time of one thread, both
sides in turn. "Whole" is what was done before: all sounds, and 2048 frames of each, in one call of the vocoder.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

FRAMES_PER_SECOND = 62.5
RUNS = 3


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


@pytest.mark.benchmark
def test_vocoder_and_griffin_lim(root: Path, print_table: Callable[..., None]) -> None:
    import torch
    from transformers import SpeechT5HifiGan

    from sonolume.modules.griffin_lim import mel_to_wave
    from sonolume.modules.windows import CallSize, vocode_in_chunks

    torch.set_num_threads(1)
    vocoder = SpeechT5HifiGan.from_pretrained(root / "pretrained/mini/text_to_audio/vocoder").eval()
    old, rows = CallSize(2048, 10**9), []
    with torch.inference_mode():
        for length, sounds in ((2.56, 1), (2.56, 4), (2.56, 16), (30, 1), (120, 1), (600, 1)):
            mel = torch.randn(sounds, 80, round(length * FRAMES_PER_SECOND)) - 5
            spent: list[list[float]] = [[], [], []]
            for _ in range(RUNS if length * sounds < 100 else 1):
                spent[0].append(seconds(lambda mel=mel: vocode_in_chunks(mel, vocoder, old)))
                spent[1].append(seconds(lambda mel=mel: vocode_in_chunks(mel, vocoder)))
                wave = vocode_in_chunks(mel, vocoder)
                spent[2].append(seconds(lambda mel=mel, wave=wave: mel_to_wave(mel, None, 16, start=wave)))
            whole, pieces, refine = (1000 * statistics.median(one) / (length * sounds) for one in spent)
            numbers = [f"{whole:.1f}", f"{pieces:.1f}", f"{whole / pieces:.2f}x", f"{refine:.1f}"]
            rows.append([f"{length:g} s x {sounds}", *numbers])
    header = ["sounds", "vocoder, whole", "vocoder, pieces", "ratio", "Griffin-Lim"]
    print_table("processor milliseconds for a second of sound", header, rows)
