"""Text to audio from nothing: a small world, a text encoder, an autoencoder and a latent model, all trained here.

The only thing that comes ready is the judge, which was trained on real renderings before any generator.
"""

import json
from pathlib import Path

import pytest

from sonolume.bins import evaluate, preprocess, train
from sonolume.utils import cli

KINDS = ["bell", "rain", "siren", "engine", "bird", "phone", "footsteps", "dog"]
CAPTIONS = 240


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("from nothing")


def _run(main: object, *arguments: str) -> None:
    assert cli.run(main, list(arguments)) == 0  # type: ignore[arg-type]


@pytest.mark.full  # ten minutes
def test_single_events_are_right_three_times_as_often_as_by_chance(world: Path, root: Path) -> None:
    kinds = f"[{','.join(KINDS)}]"
    small = [f"preprocess.miniworld.{field}" for field in ("train_scenes=2000", "valid_scenes=64", "pairs=false")]
    data = [f"preprocess.processed_dir='{world}/data'", *small, f"preprocess.miniworld.kinds={kinds}"]
    precision = "train.precision=32-true"  # bfloat16 is many times slower on a CPU without instructions for it
    here = f"log_dir='{world}/ckpts'"
    autoencoder, text = f"'{world}/ckpts/tiny_autoencoderkl/pipeline'", f"'{world}/ckpts/text_encoder/pipeline'"
    tiny = {name: str(root / "egs" / "tta" / name / "tiny.json") for name in ("autoencoderkl", "audioldm")}

    _run(preprocess.main, "--config", tiny["autoencoderkl"], *data)
    _run(
        train.main, "--config", str(root / "egs" / "mini" / "text_encoder.json"), here,
        "miniworld.train_scenes=2000", "miniworld.valid_scenes=64", "miniworld.pairs=false", f"miniworld.kinds={kinds}",
        "train.max_steps=800", "train.batch_size=16", "train.warmup_steps=30", "model.text_encoder.num_layers=2",
    )  # fmt: skip
    _run(
        train.main, "--config", tiny["autoencoderkl"], here, *data, precision,
        "train.max_steps=700", "train.warmup_steps=40",
        "train.batch_size=4", "model.autoencoderkl.ch_mult=[1,1,2,4]", "model.autoencoderkl.z_channels=8",
    )  # fmt: skip
    _run(
        train.main, "--config", tiny["audioldm"], here, *data, precision,
        "train.max_steps=1300", "train.warmup_steps=50",
        "train.batch_size=24", "train.ema_decay=0.99", "model.audioldm.in_channels=8", "model.audioldm.out_channels=8",
        "model.audioldm.model_channels=48", "model.audioldm.channel_mult=[1,2]",
        "model.audioldm.attention_resolutions=[2]",
        f"model.autoencoder_path={autoencoder}", f"model.text_encoder={text}",
    )  # fmt: skip
    _run(
        evaluate.main, "--config", tiny["audioldm"], here, *data,
        "--checkpoint", f"{world}/ckpts/tiny_audioldm/pipeline",
        "--num_samples", str(CAPTIONS), "--preset", "fast", "--embedder", "mel:",
        "--output_dir", str(world / "evaluation"),
    )  # fmt: skip

    report = json.loads((world / "evaluation" / "report.json").read_text(encoding="utf-8"))
    single = next(score for score in report["scores"] if score["name"] == "single")
    assert single["count"] == CAPTIONS
    assert single["low"] >= 3 / len(KINDS), f"lower 95 % bound {single['low']:.3f} is below three times chance"
