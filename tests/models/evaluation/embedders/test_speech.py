from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from sonolume.models.evaluation.embedders.load import load
from sonolume.utils.errors import UserError

Noise = Callable[..., np.ndarray]


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2_masked", "hubert", "wavlm"])
@pytest.mark.parametrize("layer", [None, 0, 1])
def test_the_mean_over_time_of_a_layer(
    name: str, layer: int | None, model_folder: Callable[[str], Path], noise: Noise
) -> None:
    folder, wave = model_folder(name), noise(0.5, 16000)
    scaled = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    with torch.no_grad():
        output = AutoModel.from_pretrained(folder).eval()(torch.from_numpy(scaled)[None], output_hidden_states=True)
    states = output.last_hidden_state if layer is None else output.hidden_states[layer]
    embedder = load(f"{name.split('_')[0]}:{folder}" + ("" if layer is None else f"#{layer}"))
    np.testing.assert_allclose(embedder.encode_audio([wave]).embeddings, states.mean(1), atol=1e-5)
    assert (f"#{layer}@" in embedder.name) == (layer is not None)


def test_a_layer_that_is_not_there(model_folder: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="has layers 0 to 2, not 3"):
        load(f"hubert:{model_folder('hubert')}#3")
    with pytest.raises(UserError, match="LAYER"):
        load(f"hubert:{model_folder('hubert')}#last")
