"""Losses of judges; a few real steps of each recipe."""

from pathlib import Path

import pytest
import torch

from sonolume.bins import preprocess, train
from sonolume.config.load import load_config
from sonolume.models.mini.judge_task import WEIGHTS, losses
from sonolume.models.mini.picture_judge import pipeline as pictures
from sonolume.models.mini.picture_judge.data import draw
from sonolume.models.mini.picture_judge.task import smear as smear_picture
from sonolume.models.mini.sound_judge import data
from sonolume.models.mini.sound_judge import pipeline as sounds
from sonolume.models.mini.sound_judge.task import smear as smear_sound
from sonolume.models.mini.truth import IGNORE
from sonolume.modules.judges import PictureJudgement, SoundJudgement
from sonolume.preprocessors.miniworld.scene import scenes
from sonolume.utils.errors import UserError

SMALL = ["train.batch_size=4", "train.max_steps=2", "train.warmup_steps=0", "train.save_summary_steps=1"]


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_is_ignored_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    truth = torch.tensor([IGNORE, IGNORE])
    judgement = PictureJudgement(torch.zeros(2, 12), logits, torch.zeros(2, 2, 12), torch.zeros(2, 3))
    wanted = PictureJudgement(torch.zeros(2, 12), truth, torch.zeros(2, 2).long(), truth)
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


def test_smearing_is_mild_and_drawn_from_the_generator() -> None:
    mel = torch.randn(4, 80, 160) - 6
    assert torch.equal(smear_sound(mel, random()), smear_sound(mel, random()))
    assert not torch.equal(smear_sound(mel, random()), smear_sound(mel, random(1)))
    assert (smear_sound(mel, random()) - mel).abs().mean() < 1
    picture = torch.rand(4, 3, 64, 64)
    smeared = smear_picture(picture, random())
    assert smeared.shape == picture.shape and smeared.min() >= 0 and smeared.max() <= 1


def test_a_drawn_picture_is_upright_rgb() -> None:
    drawn = draw(next(iter(scenes("train", 1))))
    assert drawn.shape == (3, 64, 64) and drawn.dtype == torch.float32 and drawn.max() <= 1


@pytest.mark.parametrize("name", ["sound_judge", "sound_judge_second"])
def test_a_sound_judge_trains_and_judges(name: str, root: Path, tmp_path: Path) -> None:
    config = str(root / "egs" / "mini" / f"{name}.json")
    mini = "preprocess.miniworld={train_scenes: 8, valid_scenes: 4}"
    shared = [mini, "preprocess.num_workers=0", f'preprocess.processed_dir="{tmp_path}"', f'log_dir="{tmp_path}"']
    width = "model.width=8"
    preprocess.main(["--config", config, *shared])
    train.main(["--config", config, *shared, *SMALL, width])
    judge = sounds.load(tmp_path / name / "pipeline")
    valid = data.training_data(load_config(config, shared)).valid
    mels = torch.stack([valid[0, index][0] for index in range(4)])
    heard = sounds.listen(judge, mels, batch_size=3)
    assert heard.activity.shape == (4, 12, 20)
    torch.testing.assert_close(heard.presence[3:], judge(mels[3:]).presence)


def test_a_picture_judge_trains_and_judges(root: Path, tmp_path: Path) -> None:
    config = str(root / "egs" / "mini" / "picture_judge.json")
    mini = "miniworld={train_scenes: 8, valid_scenes: 4}"
    train.main(["--config", config, mini, f'log_dir="{tmp_path}"', *SMALL, "model.width=8"])
    judge = pictures.load(tmp_path / "picture_judge" / "pipeline")
    drawn = torch.stack([draw(scene) for scene in scenes("valid", 3)])
    assert pictures.look(judge, drawn, batch_size=2).panels.shape == (3, 2, 12)


def test_rows_without_scenes_are_refused(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    (folder / "mel").mkdir(parents=True)
    (folder / "mel" / "a.npy").touch()
    (folder / "train.json").write_text('[{"Dataset": "other", "Uid": "a", "Caption": "a dog"}]')
    overrides = [f'preprocess.processed_dir="{tmp_path}"', "dataset=[other]"]
    config = load_config(root / "egs" / "mini" / "sound_judge.json", overrides)
    with pytest.raises(UserError, match="other: a has no Scene"):
        data.SceneMels(config.preprocess, config.dataset, "train")


def test_a_missing_judge_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="egs/mini/sound_judge.json"):
        sounds.load(tmp_path / "none")
    with pytest.raises(UserError, match="egs/mini/picture_judge.json"):
        pictures.load(tmp_path / "none")
