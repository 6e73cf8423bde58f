from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.embedders.cache import embed
from sonolume.models.evaluation.embedders.load import check, load
from sonolume.models.evaluation.embedders.local import PairEmbedder
from sonolume.utils.errors import UserError


class SoundEmbedder(Embedder):
    name, takes, sample_rate, window, ragged = "ears:a/b@1", ("sounds",), 8000, 0.5, False

    def __init__(self, dim: int = 2, labels: tuple[str, ...] = ()) -> None:
        self.dim, self.labels = dim, labels

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        rows = torch.tensor([[float(wave.mean()), 1.0] for wave in waves])
        return Features(rows, rows if self.labels else None)


class PictureEmbedder(Embedder):
    name, takes, dim = "eyes:c@2", ("pictures", "texts"), 2

    def __init__(self, labels: tuple[str, ...] = ()) -> None:
        self.labels = labels

    def image_features(self, pictures: list[Image.Image]) -> Features:
        rows = torch.tensor([[np.asarray(picture).mean() / 255, 1.0] for picture in pictures])
        return Features(rows, rows if self.labels else None)

    def text_features(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[float(text), 1.0] for text in texts])


def test_each_medium_goes_to_the_one_that_takes_it() -> None:
    pair = PairEmbedder(SoundEmbedder(), PictureEmbedder())
    assert pair.takes == ("sounds", "pictures", "texts")
    assert pair.encode_audio([np.full(8000, 0.25, np.float32)]).embeddings.tolist() == [[0.25, 1]]
    grey = Image.new("RGB", (20, 20), (51, 51, 51))
    assert pair.encode_images([grey]).embeddings.tolist()[0] == pytest.approx([0.2, 1])
    assert pair.encode_texts(["0.5"]).embeddings.tolist() == [[0.5, 1]]
    assert pair.name == "pair:ears:a/b@1+eyes:c@2"
    assert pair.facts()["sample_rate"] == 8000 and pair.facts()["window"] == 0.5


@pytest.mark.parametrize(("ears", "eyes", "expected"), [("a", "a", ("a",)), ("a", "b", ()), ("a", "", ())])
def test_classes_only_where_both_tell_the_same(ears: str, eyes: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    pair = PairEmbedder(SoundEmbedder(labels=(ears,)), PictureEmbedder(labels=(eyes,) if eyes else ()))
    assert pair.labels == expected
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    assert (embed([tmp_path / "a.png"], "pictures", pair).logits is not None) == bool(expected)


def test_other_widths_are_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"^embedder pair: ears:a/b@1 has width 3, eyes:c@2 2: not one space$"):
        PairEmbedder(SoundEmbedder(dim=3), PictureEmbedder())


def test_the_wrong_way_round() -> None:
    with pytest.raises(UserError, match="eyes:c@2 takes pictures and texts, not sounds"):
        PairEmbedder(PictureEmbedder(), SoundEmbedder())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pair:", r"write pair:SOUND_SPEC\|PICTURE_SPEC"),
        ("pair:mel:", r"write pair:SOUND_SPEC\|PICTURE_SPEC in quotes"),
        ("pair:mel:|clip:a|clip:b", "in quotes"),
        ("pair:ears:x|clip:a", "'ears:x': unknown kind"),
        ("pair:mel:|clip:", "'clip:': write clip:ID_OR_FOLDER"),
        ("pair:torchscript:a.pt|clip:x", "sample rate"),
    ],
)
def test_specs_that_cannot_be_read(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(spec)


def test_from_the_command_line() -> None:
    with pytest.raises(UserError, match="mel: has width 160, mini:picture_judge@.* 128"):
        load("pair:mel:|mini:picture_judge")
