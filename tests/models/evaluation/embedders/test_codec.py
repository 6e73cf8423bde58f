from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sonolume.models.evaluation.embedders.load import load

Noise = Callable[..., np.ndarray]


@pytest.mark.parametrize("name", ["encodec", "encodec_48k"])
def test_encodec_gives_what_its_quantizer_is_given(
    name: str, model_folder: Callable[[str], Path], noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load(f"encodec:{model_folder(name)}")
    wave = noise(1.0, embedder.sample_rate)
    latents = []
    encode = embedder.model.quantizer.encode
    monkeypatch.setattr(embedder.model.quantizer, "encode", lambda z, *rest: latents.append(z) or encode(z, *rest))
    with torch.no_grad():
        embedder.model.encode(torch.from_numpy(wave).expand(1, embedder.model.config.audio_channels, -1))
    found = embedder.encode_audio([wave]).embeddings
    np.testing.assert_allclose(found, latents[0].mean(-1), atol=1e-6)
    assert embedder.window == (1.0 if name == "encodec_48k" else 30.0)


def test_the_48_khz_model_ignores_loudness(model_folder: Callable[[str], Path], noise: Noise) -> None:
    embedder = load(f"encodec:{model_folder('encodec_48k')}")
    wave = noise(1.0, 48000)
    np.testing.assert_allclose(*embedder.encode_audio([wave, wave / 4]).embeddings, atol=1e-6)
    plain = load(f"encodec:{model_folder('encodec')}")
    loud, quiet = plain.encode_audio([wave, wave / 4]).embeddings
    assert (loud - quiet).abs().max() > 1e-5


def test_dac_gives_what_its_quantizer_is_given(model_folder: Callable[[str], Path], noise: Noise) -> None:
    embedder = load(f"dac:{model_folder('dac')}")
    wave = noise(0.5, 16000)[:7995]  # five short of a multiple of the hop of 8
    latents = []
    embedder.model.quantizer.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))
    with torch.no_grad():
        embedder.model.encode(torch.from_numpy(np.pad(wave, (0, 5)))[None, None])
    np.testing.assert_allclose(embedder.encode_audio([wave]).embeddings, latents[0].mean(-1), atol=1e-7)
    assert len(latents) == 1  # nothing was quantised for the embedding
