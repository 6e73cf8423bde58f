"""Distillation of the tiny Stable Diffusion: a few steps of it give a LoRA that the preset "turbo" takes."""

from pathlib import Path

import pytest
from safetensors import safe_open

from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.a2i import few_steps
from sonolume.modules.lora import FILE
from sonolume.utils.errors import ConfigError

FEW = [
    "model.distill.miniworld_captions=3", "model.distill.valid_paths=1", "model.distill.path_steps=3",
    "model.lora.rank=2", "train.batch_size=2", "train.max_steps=2", "train.valid_interval=2",
    "train.save_checkpoints_steps=2", "train.save_summary_steps=1", "train.warmup_steps=0", "train.accelerator=cpu",
]  # fmt: skip


def test_a_short_distillation_exports_the_preset(root: Path, tiny_stable_diffusion: Path, tmp_path: Path) -> None:
    run = [f"model.pretrained='{tiny_stable_diffusion}'", f"cache_dir='{tmp_path}/cache'", f"log_dir='{tmp_path}/runs'"]
    config = load_config(root / "egs/mini/turbo.json", [*FEW, *run])
    training.run(config, False).rename(tmp_path / few_steps.FOLDER)
    turbo = few_steps.in_folder(tmp_path)
    assert turbo is not None and turbo.file == tmp_path / "turbo" / FILE
    assert (turbo.limits.most_steps, turbo.limits.built_in) == (4, 4.0)
    with safe_open(turbo.file, "pt") as file:
        header = file.metadata()
        learned = [file.get_tensor(name).any() for name in file.keys() if "lora_B" in name]  # noqa: SIM118
    assert any(learned) and header["base_model"].endswith("tiny") and header["teacher"]


@pytest.mark.parametrize("wrong", ["model.method=full", "model.distill.guidance_scale=1", "model.distill.stage=none"])
def test_settings_that_make_no_preset(root: Path, wrong: str) -> None:
    with pytest.raises(ConfigError):
        load_config(root / "egs/mini/turbo.json", [wrong])
