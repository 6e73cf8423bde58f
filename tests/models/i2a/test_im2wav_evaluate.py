"""Evaluation on recordings, whose lengths differ, and on the pictures of ImageHear."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

from sonolume.bins import evaluate, preprocess
from sonolume.models.i2a.im2wav import imagehear
from sonolume.utils import audio, cli


@pytest.fixture
def recordings(tmp_path: Path) -> list[str]:
    """The arguments that choose a data set of four noises, one of which is for training."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(4):
        audio.save_wav(tmp_path / f"{number}.wav", 0.2 * random.standard_normal(16000 + 3000 * number), 16000)
        rows.append({"Uid": str(number), "Audio": f"{number}.wav", "Split": "valid" if number else "train"})
    (tmp_path / "sounds.json").write_text(json.dumps(rows))
    chosen = ["dataset=[mine]", f"preprocess.processed_dir={tmp_path / 'data'}"]
    return [*chosen, "preprocess.miniworld.train_scenes=0", "preprocess.miniworld.valid_scenes=0"]


def test_the_vqvae_is_scored_on_recordings(
    root: Path, tiny_im2wav: Path, recordings: list[str], tmp_path: Path
) -> None:
    config = ["--config", str(root / "egs/i2a/im2wav/tiny_vqvae.json"), *recordings]
    manifest = str(tmp_path / "sounds.json")
    given = ["--input", manifest, "--dataset", "mine", "preprocess.num_workers=0"]
    assert cli.run(preprocess.main, [*config, *given]) == 0
    out, checkpoint = tmp_path / "report", str(tiny_im2wav)
    assert cli.run(evaluate.main, [*config, "--checkpoint", checkpoint, "--output_dir", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["facts"]["clips"] == 3 and (out / "samples.png").is_file()
    assert report["facts"]["of"] == "validation clips of mine"
    assert any("mel L1" in json.dumps(score) for score in report["scores"])


def test_another_sample_rate_is_refused(
    root: Path, tiny_im2wav: Path, recordings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(root / "egs/i2a/im2wav/tiny_vqvae.json"), *recordings, "preprocess.sample_rate=22050"]
    assert cli.run(evaluate.main, [*config, "--checkpoint", str(tiny_im2wav), "--output_dir", str(tmp_path / "r")]) == 2
    assert "preprocess.sample_rate" in capsys.readouterr().err


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """An AST with AudioSet's names of the classes of ImageHear, to which every sound is a bark."""
    names = list(dict.fromkeys(name for group in imagehear.CLASSES.values() for name in group))
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    model = tf.ASTForAudioClassification(tf.ASTConfig(**tower, **labels, num_mel_bins=16, max_length=128))
    with torch.no_grad():
        model.classifier.dense.bias[names.index("Bark")] = 100.0
    model.save_pretrained(tmp_path / "ast")
    tf.ASTFeatureExtractor(num_mel_bins=16, max_length=128).save_pretrained(tmp_path / "ast")
    return tmp_path / "ast"


def test_imagehear_counts_the_sounds_of_the_pictures_class(
    root: Path, tiny_im2wav: Path, classifier: Path, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate(("dog1", "dog2", "rain7", "unicorn1")):
        Image.new("RGB", (40, 32), (60 * number, 90, 120)).save(tmp_path / "pictures" / f"{name}.png")
    given = ["--imagehear", str(tmp_path / "pictures"), "--embedder", f"ast:{classifier}"]
    argv = ["--config", str(root / "egs/i2a/im2wav/exp_config.json"), "--checkpoint", str(tiny_im2wav), *given]
    assert cli.run(evaluate.main, [*argv, "--output_dir", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    accuracy = next(score for score in report["scores"] if score["name"].startswith("ImageHear accuracy"))
    assert accuracy["value"] == pytest.approx(2 / 3) and accuracy["count"] == 3
    assert report["conditions"]["classes"]["dog"] == list(imagehear.CLASSES["dog"])
