"""Losses and augmentation of the judges, and their configs."""

from pathlib import Path

import pytest
import torch

from sonolume.config.load import load_config
from sonolume.models.mini import picture_judge, sound_judge
from sonolume.models.mini.judges import IGNORE
from sonolume.models.mini.picture_judge import WEIGHTS, losses
from sonolume.models.mini.scene_data import draw
from sonolume.modules.judges import BACKBONES, PATCH, STRIDE, PictureJudgement, SoundJudgement
from sonolume.preprocessors.miniworld.scene import scenes
from sonolume.utils.errors import ConfigError, UserError


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_is_ignored_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    target = torch.tensor([IGNORE, IGNORE])
    judgement = PictureJudgement(torch.zeros(2, 12), logits, torch.zeros(2, 2, 12), torch.zeros(2, 3))
    wanted = PictureJudgement(torch.zeros(2, 12), target, torch.zeros(2, 2).long(), target)
    parts = losses(judgement, wanted)
    parts["layout"].backward()
    assert parts["layout"] == 0 and parts["repeats"] == 0 and parts["panels"] > 0
    assert logits.grad is not None and not logits.grad.any()


def test_a_class_is_averaged_over_those_that_count() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    judgement = PictureJudgement(torch.zeros(2, 12), logits, torch.zeros(2, 2, 12), logits)
    wanted = PictureJudgement(
        torch.zeros(2, 12), torch.tensor([0, IGNORE]), torch.zeros(2, 2).long(), torch.tensor([0, 1])
    )
    expected = -logits.log_softmax(-1)
    torch.testing.assert_close(losses(judgement, wanted)["layout"], expected[0, 0])
    torch.testing.assert_close(losses(judgement, wanted)["repeats"], (expected[0, 0] + expected[1, 1]) / 2)


def test_every_field_has_a_weight() -> None:
    assert {*SoundJudgement._fields, *PictureJudgement._fields} == set(WEIGHTS)


def test_augmentation_is_mild_and_drawn_from_the_generator() -> None:
    mel = torch.randn(4, 80, 160) - 6
    assert torch.equal(sound_judge.augment(mel, random()), sound_judge.augment(mel, random()))
    assert not torch.equal(sound_judge.augment(mel, random()), sound_judge.augment(mel, random(1)))
    assert (sound_judge.augment(mel, random()) - mel).abs().mean() < 1
    picture = torch.rand(4, 3, 64, 64)
    augmented = picture_judge.augment(picture, random())
    assert augmented.shape == picture.shape and augmented.min() >= 0 and augmented.max() <= 1


def test_a_drawn_picture_is_upright_rgb() -> None:
    drawn = draw(next(iter(scenes("train", 1))))
    assert drawn.shape == (3, 64, 64) and drawn.dtype == torch.float32 and drawn.max() <= 1


def test_rows_without_scenes_are_rejected(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    (folder / "mel").mkdir(parents=True)
    (folder / "mel" / "a.npy").touch()
    (folder / "train.json").write_text('[{"Dataset": "other", "Uid": "a", "Caption": "a dog"}]')
    overrides = [f'preprocess.processed_dir="{tmp_path}"', "dataset=[other]"]
    config = load_config(root / "egs" / "mini" / "sound_judge.json", overrides)
    with pytest.raises(UserError, match="other: a"):
        sound_judge.SceneMels(config.preprocess, config.dataset, "train")


def test_the_second_judge_differs_in_network_and_seed_only(root: Path) -> None:
    folder = root / "egs" / "mini"
    first, second = (load_config(folder / f"{name}.json") for name in ("sound_judge", "sound_judge_second"))
    assert first.model.architecture != second.model.architecture
    assert first.train.random_seed != second.train.random_seed and first.run_dir != second.run_dir
    assert first.preprocess == second.preprocess


def test_the_schema_agrees_with_the_networks() -> None:
    from sonolume.config.mini.sound_judge import DIVISORS, Architecture

    assert {member.value for member in Architecture} == set(BACKBONES)
    assert DIVISORS == {"frames": STRIDE, "n_mel": PATCH}


@pytest.mark.parametrize("override", ["preprocess.frames=100", "model.width=6", "model.architecture=cnn"])
def test_wrong_sizes_are_rejected(override: str, root: Path) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0].replace(".", r"\.")):
        load_config(root / "egs" / "mini" / "sound_judge.json", [override])
