"""What the picture judge says of real pictures, and of pictures of other scenes."""

from pathlib import Path

import pytest
import torch

from sonolume.models.evaluation.results import Result
from sonolume.models.mini import seeing
from sonolume.models.mini.picture_judge.data import draw
from sonolume.preprocessors.miniworld import world


@pytest.fixture(scope="module")
def scenes() -> list[world.Scene]:
    return list(world.scenes("test", 40, seed=6))


def test_real_pictures_show_what_was_asked_for_and_others_do_not(scenes: list[world.Scene]):
    pictures = torch.stack([draw(scene) for scene in scenes])
    result = Result({})
    seeing.add_shares(result, scenes, pictures.roll(1, 0), {"real": pictures})
    scores = {score.name: score for score in result.scores}
    found = scores["right kind of picture"]
    assert found.beside["real"][0] == 1 and found.value < 0.3 and found.chance == pytest.approx(1 / 12)
    assert found.headline and not scores["layout"].headline
    assert found.low is not None and found.high is not None and found.low <= found.value < found.high


def test_kinds_are_named(scenes: list[world.Scene]):
    single = [scene for scene in scenes if not scene.relation]
    found = seeing.kinds(torch.stack([draw(scene) for scene in single]))
    assert found == [scene.events[0].kind for scene in single]


def test_pictures_are_read_at_the_size_that_the_judge_takes(tmp_path: Path):
    from PIL import Image

    Image.new("RGB", (128, 96), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "b.png")
    pictures = seeing.load([tmp_path / "a.png", tmp_path / "b.png"])
    assert pictures.shape == (2, 3, 64, 64) and float(pictures.max()) == 1
    assert pictures[0].mean((1, 2)).tolist() == [1, 0, 0] and pictures[1].min() == 1
