"""The reports of the frozen judges themselves."""

import argparse
import json
from pathlib import Path

import pytest

from sonolume.models.evaluation import compare
from sonolume.models.mini import real_scores
from sonolume.modules.metrics.interval import Share
from sonolume.utils import paths
from sonolume.utils.errors import UserError


def report(folder: Path, judge: str, judged: str) -> Path:
    scenes, where = real_scores.test_scenes(4), paths.root() / "pretrained/mini" / judge
    real_scores.write(argparse.Namespace(output_dir=folder), where, scenes, {"single": Share(3, 4)}, judged)
    return folder / "report.json"


def test_two_judges_of_sound_are_ranked_and_one_of_pictures_not_with_them(tmp_path: Path) -> None:
    first, second = (report(tmp_path / name, name, "sounds") for name in ("sound_judge", "sound_judge_second"))
    assert json.loads(first.read_text())["scores"][0]["headline"] is True
    assert compare.table([first, second])[-1].startswith("| single | 75.0 %")
    with pytest.raises(UserError, match='judged "real sounds" / "real pictures"'):
        compare.table([first, report(tmp_path / "picture_judge", "picture_judge", "pictures")])
