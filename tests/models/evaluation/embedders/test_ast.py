from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import ASTForAudioClassification

from sonolume.models.evaluation.embedders.load import load


def test_logits_are_the_librarys(model_folder: Callable[[str], Path], noise: Callable[..., np.ndarray]) -> None:
    embedder = load(f"ast:{model_folder('ast')}")
    waves = [noise(1.28, 16000, seed) for seed in (1, 2)]
    model = ASTForAudioClassification.from_pretrained(model_folder("ast")).eval()
    mel = embedder.extractor(waves, sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = model(mel).logits
    found = embedder.encode_audio(waves)
    np.testing.assert_allclose(found.logits, expected, atol=1e-6)
    assert found.embeddings.shape == (2, 16)
    assert embedder.labels == ("bell", "rain", "dog")


def test_a_long_sound_gets_the_mean_logits(
    model_folder: Callable[[str], Path], noise: Callable[..., np.ndarray]
) -> None:
    embedder = load(f"ast:{model_folder('ast')}")
    first, second = noise(1.28, 16000, 1), noise(1.28, 16000, 2)
    apart = embedder.encode_audio([first, second]).logits
    joined = embedder.encode_audio([np.concatenate([first, second])]).logits
    np.testing.assert_allclose(joined[0], apart.mean(0), atol=1e-6)
