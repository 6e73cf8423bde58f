from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, SiglipModel

from sonolume.models.evaluation.embedders.load import load


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40 + i, 60 - i, 3), dtype=np.uint8)) for i in range(3)]


@pytest.mark.parametrize(("kind", "model"), [("clip", CLIPModel), ("siglip", SiglipModel)])
def test_cosines_are_those_of_the_librarys_own_call(
    kind: str, model: type, model_folder: Callable[[str], Path]
) -> None:
    embedder = load(f"{kind}:{model_folder(kind)}")
    texts = ["a bell rings", "rain"]
    padding = {"clip": True, "siglip": "max_length"}[kind]
    tokens = embedder.tokenizer(texts, padding=padding, truncation=True, max_length=8, return_tensors="pt")
    inputs = {"input_ids": tokens.input_ids} | ({"attention_mask": tokens.attention_mask} if kind == "clip" else {})
    pixels = embedder.processor(images=pictures(), return_tensors="pt").pixel_values
    with torch.no_grad():
        output = model.from_pretrained(model_folder(kind)).eval()(pixel_values=pixels, **inputs)
    images, embedded_texts = embedder.encode_images(pictures()).embeddings, embedder.encode_texts(texts).embeddings
    assert images.shape == (3, embedder.dim) and embedded_texts.shape == (2, embedder.dim)
    np.testing.assert_allclose(torch.nn.functional.normalize(images, dim=1), output.image_embeds, atol=1e-6)
    np.testing.assert_allclose(torch.nn.functional.normalize(embedded_texts, dim=1), output.text_embeds, atol=1e-6)


def test_features_may_come_bare_or_wrapped(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some releases of transformers return a tensor, others an output that holds it."""
    embedder = load(f"clip:{model_folder('clip')}")
    expected = embedder.encode_images(pictures()).embeddings, embedder.encode_texts(["rain"]).embeddings
    for name in ("get_image_features", "get_text_features"):
        wrapped = getattr(embedder.model, name)

        def bare(wrapped: Callable[..., Any] = wrapped, **inputs: Any) -> torch.Tensor:
            return wrapped(**inputs).pooler_output

        monkeypatch.setattr(embedder.model, name, bare)
    assert torch.equal(embedder.encode_images(pictures()).embeddings, expected[0])
    assert torch.equal(embedder.encode_texts(["rain"]).embeddings, expected[1])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_company_changes_nothing(kind: str, model_folder: Callable[[str], Path]) -> None:
    embedder = load(f"{kind}:{model_folder(kind)}")
    texts = ["rain", "a dog barks twice " * 20, "a bell rings"]
    together, alone = (embedder.encode_texts(texts, size).embeddings for size in (16, 1))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    together, alone = (embedder.encode_images(pictures(), size).embeddings for size in (16, 1))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_pictures_of_any_mode(model_folder: Callable[[str], Path]) -> None:
    embedder = load(f"clip:{model_folder('clip')}")
    grey = pictures()[0].convert("L")
    for mode in ("L", "P", "RGBA"):
        np.testing.assert_allclose(*embedder.encode_images([grey.convert(mode), grey]).embeddings, atol=1e-5)
