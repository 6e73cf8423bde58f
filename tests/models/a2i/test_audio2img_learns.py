"""A short real training of audio2img from nothing: pictures of unseen sounds are right far above chance."""

import json
from pathlib import Path

from sonolume.bins import evaluate, preprocess, train
from sonolume.preprocessors.miniworld.scene import KINDS
from sonolume.utils import cli

SOUNDS = 30


def test_pictures_are_of_the_right_kind_three_times_as_often_as_by_chance(root: Path, tmp_path: Path) -> None:
    config = ["--config", str(root / "egs/a2i/audio2img/tiny.json"), f"log_dir='{tmp_path}/ckpts'"]
    config += [f"preprocess.processed_dir='{tmp_path}/data'", "preprocess.num_workers=0"]
    config += [f"preprocess.miniworld.{field}" for field in ("train_scenes=300", "valid_scenes=12", "pairs=false")]
    config += ["preprocess.text_field=template"]  # twelve texts: few steps are enough
    assert cli.run(preprocess.main, config) == 0
    short = ["train.max_steps=80", "train.warmup_steps=10", "train.valid_interval=80", "train.batch_size=12"]
    short += ["train.adam.lr=3e-3", "model.encoder.num_hidden_layers=2", "model.preview=false"]
    assert cli.run(train.main, [*config, *short]) == 0
    asked = ["--num_samples", str(SOUNDS), "--preset", "fast", "--output_dir", str(tmp_path / "scores")]
    asked += ["--checkpoint", str(tmp_path / "ckpts/tiny_audio2img/pipeline")]
    assert cli.run(evaluate.main, [*config, *asked]) == 0
    scores = json.loads((tmp_path / "scores/report.json").read_text(encoding="utf-8"))["scores"]
    single = next(score for score in scores if score["name"] == "right kind of picture")
    assert single["count"] == SOUNDS
    assert single["low"] >= 3 / len(KINDS), f"lower 95 % bound {single['low']:.3f} is below three times chance"
