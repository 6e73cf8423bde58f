from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor, ClapModel

from sonolume.models.evaluation.embedders.load import load

Noise = Callable[..., np.ndarray]


def test_short_sounds_and_texts_are_embedded_as_the_library_does(
    model_folder: Callable[[str], Path], noise: Noise
) -> None:
    embedder = load(f"clap:{model_folder('clap')}")
    wave = noise(1.5, 48000)
    model, extractor = ClapModel.from_pretrained(model_folder("clap")).eval(), ClapFeatureExtractor()
    mel = extractor(wave, sampling_rate=48000, truncation="rand_trunc", return_tensors="pt")
    with torch.no_grad():
        audio = model.get_audio_features(input_features=mel.input_features.float()).pooler_output
        text = model.get_text_features(torch.tensor([[0, 4, 5, 6, 2]])).pooler_output  # <s> a bell rings </s>
    np.testing.assert_allclose(embedder.encode_audio([wave]).embeddings, audio, atol=1e-6)
    np.testing.assert_allclose(embedder.encode_texts(["a bell rings"]).embeddings, text, atol=1e-6)
    assert embedder.encode_audio([wave]).embeddings.norm().item() == pytest.approx(1)


def test_the_extractors_default_would_not_fit_the_model(model_folder: Callable[[str], Path], noise: Noise) -> None:
    """The trap that `rand_trunc` avoids; if this fails, the library has mended it."""
    mel = ClapFeatureExtractor()(noise(1, 48000), sampling_rate=48000, return_tensors="pt").input_features
    assert mel.shape[1] == 4
    with pytest.raises(RuntimeError):
        ClapModel.from_pretrained(model_folder("clap")).get_audio_features(input_features=mel.float())


def test_windows_are_averaged_before_they_get_length_1(model_folder: Callable[[str], Path], noise: Noise) -> None:
    embedder = load(f"clap:{model_folder('clap')}")
    wave = np.concatenate([noise(10, 48000, 1), 0.01 * np.sign(noise(10, 48000, 2))]).astype(np.float32)
    with torch.no_grad():
        raw = torch.cat([embedder.audio_features([part]).embeddings for part in (wave[:480000], wave[480000:])])
    expected = torch.nn.functional.normalize(raw.mean(0), dim=0)
    wrong = torch.nn.functional.normalize(torch.nn.functional.normalize(raw, dim=1).mean(0), dim=0)
    found = embedder.encode_audio([wave]).embeddings[0]
    assert (found - expected).abs().max() < (wrong - expected).abs().max() / 4


def test_texts_of_any_length(model_folder: Callable[[str], Path]) -> None:
    """Alone or in a batch, and longer than the model's 10 positions."""
    embedder = load(f"clap:{model_folder('clap')}")
    texts = ["rain", "a dog barks twice " * 20, "a bell rings"]
    together = embedder.encode_texts(texts).embeddings
    assert together.shape == (3, embedder.dim)
    alone = torch.cat([embedder.encode_texts([text]).embeddings for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert (together[0] - together[2]).abs().max() > 1e-3


def test_a_release_that_returns_a_tensor(model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load(f"clap:{model_folder('clap')}")
    expected, original = embedder.encode_texts(["rain"]).embeddings, embedder.model.get_text_features
    monkeypatch.setattr(embedder.model, "get_text_features", lambda **inputs: original(**inputs).pooler_output)
    assert embedder.encode_texts(["rain"]).embeddings.equal(expected)
