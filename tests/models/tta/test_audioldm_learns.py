"""A short real training of the latent model from nothing, beside the shipped autoencoder and text encoder.

tests/test_from_nothing.py trains these, too; that belongs to `make test-full`.
"""

import json
from pathlib import Path

from sonolume.bins import evaluate, preprocess, train
from sonolume.utils import cli

KINDS = ["bell", "rain", "siren", "engine", "bird", "phone", "footsteps", "dog"]
CAPTIONS = 96


def test_single_events_are_right_three_times_as_often_as_by_chance(root: Path, tmp_path: Path) -> None:
    shipped = f"'{root / 'pretrained/mini/text_to_audio'}'"
    config = ["--config", str(root / "egs/tta/audioldm/tiny.json"), f"log_dir='{tmp_path}/ckpts'"]
    config += [f"preprocess.processed_dir='{tmp_path}/data'", "preprocess.num_workers=0"]
    config += [f"preprocess.miniworld.kinds=[{','.join(KINDS)}]", "evaluation.num_samples=0"]
    config += [f"preprocess.miniworld.{field}" for field in ("train_scenes=1200", "valid_scenes=16", "pairs=false")]
    assert cli.run(preprocess.main, config) == 0
    short = ["train.max_steps=320", "train.warmup_steps=30", "train.batch_size=16", "train.ema_decay=0.98"]
    short += ["train.valid_interval=320", "model.audioldm.model_channels=48", "model.audioldm.channel_mult=[1,2]"]
    short += ["model.audioldm.attention_resolutions=[2]", f"model.autoencoder_path={shipped}"]
    assert cli.run(train.main, [*config, *short]) == 0
    asked = ["--num_samples", str(CAPTIONS), "--preset", "fast", "--embedder", "mel:"]
    asked += ["--checkpoint", str(tmp_path / "ckpts/tiny_audioldm/pipeline"), "--output_dir", str(tmp_path / "scores")]
    assert cli.run(evaluate.main, [*config, *asked]) == 0
    scores = json.loads((tmp_path / "scores/report.json").read_text(encoding="utf-8"))["scores"]
    single = next(score for score in scores if score["name"] == "single")
    assert single["count"] == CAPTIONS
    assert single["low"] >= 3 / len(KINDS), f"lower 95 % bound {single['low']:.3f} is below three times chance"
