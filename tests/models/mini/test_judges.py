"""Shipped judges: scores of real sounds and pictures, and of those of other scenes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sonolume.bins import evaluate
from sonolume.models.evaluation.compare import comparison_table
from sonolume.models.mini import judges
from sonolume.models.mini.scene_data import draw
from sonolume.preprocessors.miniworld import world
from sonolume.utils import cli
from sonolume.utils.errors import UserError


def test_real_pictures_match_their_scenes_and_others_do_not() -> None:
    scenes = list(world.scenes("test", 40, seed=6))
    pictures = torch.stack([draw(scene) for scene in scenes])
    report = judges.Report({})
    judges.add_picture_shares(report, scenes, pictures.roll(1, 0), {"real": pictures})
    found = {score.name: score for score in report.scores}["right kind of picture"]
    assert found.value < 0.3 and found.chance == pytest.approx(1 / 12) and found.headline
    assert judges.picture_shares(pictures, scenes)["single"].value == 1
    judge = judges.load_judge(judges.PictureJudge, judges.paths.root() / judges.PICTURE_JUDGE)
    kinds = judges.run_judge(judge, pictures)
    single = [index for index, scene in enumerate(scenes) if not scene.relation]
    wanted = [world.KINDS.index(scenes[index].events[0].kind) for index in single]
    assert kinds.presence[single].argmax(-1).tolist() == wanted


def test_pictures_are_loaded_at_the_size_of_the_judge(tmp_path: Path) -> None:
    Image.new("RGB", (128, 96), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "b.png")
    pixels = judges.load_pixels([tmp_path / "a.png", tmp_path / "b.png"])
    assert pixels.shape == (2, 3, 64, 64) and float(pixels.max()) == 1
    assert pixels[0].mean((1, 2)).tolist() == [1, 0, 0] and pixels[1].min() == 1


def test_reports_of_judges_are_compared_with_their_own_kind(root: Path, tmp_path: Path) -> None:
    found = {}
    for name in ("sound_judge", "sound_judge_second", "picture_judge"):
        found[name] = tmp_path / name / "report.json"
        argv = ["--config", str(root / "egs" / "mini" / f"{name}.json"), "--num_samples", "8", "--device", "cpu"]
        argv += ["--checkpoint", str(root / "pretrained" / "mini" / name), "--output_dir", str(tmp_path / name)]
        assert cli.run(evaluate.main, argv) == 0
        single = json.loads(found[name].read_text())["scores"][0]
        assert (single["name"], single["value"], single["headline"]) == ("single", 1, True)
    assert comparison_table([found["sound_judge"], found["sound_judge_second"]])[-1].startswith("| ")
    with pytest.raises(UserError, match="real sounds.*real pictures"):
        comparison_table([found["sound_judge"], found["picture_judge"]])


def test_a_missing_judge_names_the_config_that_trains_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="egs/mini/sound_judge.json"):
        judges.load_judge(judges.SoundJudge, tmp_path / "none")
    with pytest.raises(UserError, match="egs/mini/picture_judge.json"):
        judges.load_judge(judges.PictureJudge, tmp_path / "none")
