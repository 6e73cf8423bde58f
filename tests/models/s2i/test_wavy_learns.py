"""A short real training of stage 1 on the shipped HuBERT and CLIP: speech finds its picture far above chance."""

from pathlib import Path

from tests import runs

RECORDINGS = 40


def test_speech_finds_its_picture_three_times_as_often_as_by_chance(root: Path, tmp_path: Path) -> None:
    sizes = ("train_scenes=110", "valid_scenes=2", "captions_per_scene=1")
    data = [f"preprocess.miniworld.{size}" for size in sizes]
    data += ["preprocess.input_length=4.0", "preprocess.starts=1"]
    short = ["train.max_steps=90", "train.warmup_steps=5", "train.valid_interval=90", "train.batch_size=20"]
    asked = ["--retrieval_only", "--num_samples", str(RECORDINGS)]
    scores = runs.learn(root / "egs/s2i/wavy/tiny_encoder.json", tmp_path, data, short, asked)
    for way in ("speech to image", "image to speech"):
        score = scores[f"R@5 {way}"]
        assert score["low"] >= 3 * score["chance"], f"{way}: {score['low']:.3f} is below three times chance"
