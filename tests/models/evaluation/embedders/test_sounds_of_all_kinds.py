"""Properties of every embedder of sounds: the same embeddings twice, alone and in a batch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sonolume.models.evaluation.embedders.load import load

Noise = Callable[..., np.ndarray]
SPEECH = ["wav2vec2", "wav2vec2_masked", "hubert", "wavlm", "wavlm_layer"]
ALL = ["clap", "clap_fused", "ast", *SPEECH, "encodec", "encodec_48k", "dac"]
ALL += ["mini:sound_judge", "mini:sound_judge_second", "mel:"]
FIXED = ["clap", "clap_fused", "ast", "encodec_48k", "mini:sound_judge"]


def opened(kind: str, model_folder: Callable[[str], Path]):
    return load(kind if ":" in kind else f"{kind.split('_')[0]}:{model_folder(kind)}")


@pytest.mark.parametrize("kind", ALL)
def test_company_changes_nothing(kind: str, model_folder: Callable[[str], Path], noise: Noise) -> None:
    embedder = opened(kind, model_folder)
    waves = [noise(seconds, embedder.sample_rate, seed) for seed, seconds in enumerate((0.4, 1.3, 0.4, 0.9))]
    together, alone = embedder.encode_audio(waves, 4).embeddings, embedder.encode_audio(waves, 1).embeddings
    assert together.shape == (4, embedder.dim)
    spread = (alone[:, None] - alone[None]).abs().amax(-1)[~np.eye(4, dtype=bool)].min()
    assert spread > 0  # all embeddings differ
    np.testing.assert_allclose(together, alone, rtol=0, atol=float(min(spread / 10, 1e-5)))


@pytest.mark.parametrize("kind", FIXED)
def test_long_sounds_are_cut_in_a_fixed_way(kind: str, model_folder: Callable[[str], Path], noise: Noise) -> None:
    embedder = opened(kind, model_folder)
    assert embedder.window is not None
    first, second = (noise(embedder.window, embedder.sample_rate, seed) for seed in (1, 2))
    np.random.seed(1)
    waves = [np.concatenate([first, first]), np.concatenate([first, second[: len(second) // 2]])]
    once = embedder.encode_audio(waves).embeddings
    np.random.seed(2)  # transformers' own crops would follow it
    again = embedder.encode_audio(waves).embeddings
    assert once.equal(again)
    np.testing.assert_allclose(once[0], embedder.encode_audio([first]).embeddings[0], atol=1e-6)
    assert (once[1] - once[0]).abs().max() > 1e-6  # the second window counts
