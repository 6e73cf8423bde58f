"""Building the shipped parts. The full builds take hours (make test-full)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sonolume.bins import build, evaluate
from sonolume.bins.build import COMPONENTS, PARTS, config_of, export
from sonolume.utils import cli

TO_BE_PASSED = {  # part -> its evaluation, and the least values of its scores
    "text_to_audio": (
        "tta/audioldm/tiny.json",
        {"single": 0.90, "count": 0.80, "over: both": 0.75, "then: both": 0.50, "then: order": 0.60},
    ),
    "stable_diffusion": ("mini/stable_diffusion.json", {"right kind of picture": 0.8}),
    "im2wav": ("i2a/im2wav/tiny.json", {"single": 0.70, "onset F1 of films": 0.5}),
    "hubert": ("mini/hubert.json", {"captions without a mistake": 0.3}),
    "wavy": (
        "s2i/wavy/tiny.json",
        {"right kind of picture": 0.70, "R@10 speech to image": 0.5, "R@10 image to speech": 0.5},
    ),
}


def test_every_part_has_configs_and_components(tmp_path: Path):
    for file in {file for files in PARTS.values() for file in files}:
        assert config_of(file, tmp_path / "a b").run_dir.is_relative_to(tmp_path / "a b")
    for parts in (PARTS["stable_diffusion"], PARTS["text_to_audio"], PARTS["wavy"]):
        runs = {config_of(file, tmp_path).exp_name for file in parts[:-1]}
        assert {Path(run).name for run in COMPONENTS[parts[-1]].values()} == runs


def test_export_halves_floats_and_keeps_the_rest(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    save_file({"a": torch.ones(2) / 3, "b": torch.arange(2)}, source / "model.safetensors", {"format": "pt"})
    (source / "config.json").write_text("{}")
    tensors = load_file(export(source, tmp_path / "target") / "model.safetensors")
    assert (tensors["a"].dtype, tensors["b"].dtype) == (torch.float16, torch.int64)
    assert (tmp_path / "target" / "config.json").is_file()


def scores_of_new(part: str, config: str, root: Path, tmp_path: Path) -> dict[str, float]:
    """Train a part from nothing and score it: value by name."""
    assert cli.run(build.main, [part, "--output_dir", str(tmp_path), "--work_dir", str(tmp_path)]) == 0
    report = tmp_path / "report"
    argv = ["--config", str(root / "egs" / config), "--checkpoint", str(tmp_path / part), "--output_dir", str(report)]
    assert cli.run(evaluate.main, argv) == 0
    return {row["name"]: row["value"] for row in json.loads((report / "report.json").read_text())["scores"]}


@pytest.mark.full
@pytest.mark.parametrize("part", list(TO_BE_PASSED))
def test_a_part_made_anew_passes(part: str, root: Path, tmp_path: Path):
    config, wanted = TO_BE_PASSED[part]
    scores = scores_of_new(part, config, root, tmp_path)
    reached = {name: scores[name] for name in wanted}
    assert all(reached[name] >= share for name, share in wanted.items()), reached
