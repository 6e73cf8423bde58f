from collections.abc import Callable

import numpy as np
import torch

from sonolume.models.evaluation.embedders.load import load
from sonolume.modules.mel import MelSpectrogram


def test_mean_and_deviation_of_each_band(noise: Callable[..., np.ndarray]) -> None:
    wave = noise(0.7, 16000)
    mel = MelSpectrogram()(torch.from_numpy(wave)[None])[0].double()  # (80, T)
    deviation = (mel - mel.mean(1, keepdim=True)).square().mean(1).sqrt()
    found = load("mel:").encode_audio([wave]).embeddings[0]
    np.testing.assert_allclose(found, torch.cat([mel.mean(1), deviation]), atol=1e-4)


def test_a_gain_shifts_the_means_alone(noise: Callable[..., np.ndarray]) -> None:
    wave = noise(0.7, 16000)
    loud, quiet = load("mel:").encode_audio([wave, wave / np.float32(np.e)]).embeddings
    np.testing.assert_allclose((loud - quiet)[:80], 1, atol=1e-2)
    np.testing.assert_allclose((loud - quiet)[80:], 0, atol=1e-2)
