"""A short real training of the latent model from nothing, with the shipped autoencoder and text encoder.

tests/test_from_nothing.py trains these, too; that belongs to `make test-full`.
"""

from pathlib import Path

from tests import runs

KINDS = ["bell", "rain", "siren", "engine", "bird", "phone", "footsteps", "dog"]
CAPTIONS = 48


def test_single_events_are_right_three_times_as_often_as_by_chance(root: Path, tmp_path: Path) -> None:
    data = [f"preprocess.miniworld.{field}" for field in ("train_scenes=600", "valid_scenes=16", "pairs=false")]
    data += [f"preprocess.miniworld.kinds=[{','.join(KINDS)}]", "evaluation.num_samples=0"]
    short = ["train.precision=32-true"]  # bfloat16 is many times slower on a CPU without instructions for it
    short += ["train.max_steps=320", "train.warmup_steps=30", "train.batch_size=16", "train.ema_decay=0.98"]
    short += ["train.valid_interval=320", "model.audioldm.model_channels=48", "model.audioldm.channel_mult=[1,2]"]
    short += ["model.audioldm.attention_resolutions=[2]"]
    short += [f"model.autoencoder_path='{root / 'pretrained/mini/text_to_audio'}'"]
    asked = ["--num_samples", str(CAPTIONS), "--embedder", "mel:"]
    single = runs.learn(root / "egs/tta/audioldm/tiny.json", tmp_path, data, short, asked)["single"]
    assert single["count"] == CAPTIONS
    assert single["low"] >= 3 / len(KINDS), f"lower 95 % bound {single['low']:.3f} is below three times chance"
