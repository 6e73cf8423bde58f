"""A short real training of audio2img from nothing: pictures of unseen sounds are right far above chance."""

from pathlib import Path

from sonolume.preprocessors.miniworld.scene import KINDS
from tests import runs

SOUNDS = 30


def test_pictures_are_of_the_right_kind_three_times_as_often_as_by_chance(root: Path, tmp_path: Path) -> None:
    data = [f"preprocess.miniworld.{field}" for field in ("train_scenes=300", "valid_scenes=12", "pairs=false")]
    data += ["preprocess.text_field=template"]  # twelve texts: few steps are enough
    short = ["train.precision=32-true"]  # bfloat16 is many times slower on a CPU without instructions for it
    short += ["train.max_steps=80", "train.warmup_steps=10", "train.valid_interval=80", "train.batch_size=12"]
    short += ["train.adam.lr=3e-3", "model.encoder.num_hidden_layers=2", "model.preview=false"]
    scores = runs.learn(root / "egs/a2i/audio2img/tiny.json", tmp_path, data, short, ["--num_samples", str(SOUNDS)])
    single = scores["right kind of picture"]
    assert single["count"] == SOUNDS
    assert single["low"] >= 3 / len(KINDS), f"lower 95 % bound {single['low']:.3f} is below three times chance"
