"""The shipped full-size configs are the published settings of both latent sizes, field by field."""

import json
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from sonolume.config import load
from sonolume.modules.sampling import PRESETS

FILES = {"4_5_39": "exp_config.json", "4_10_78": "exp_config_latent_4_10_78.json"}
ELSEWHERE = {  # official fields that are no fields here, and what they must be
    "model.loss.disc_in_channels": 1,  # the autoencoder's own
    "model.loss.use_actnorm": False,
    "model.noise_scheduler.steps_offset": 1,  # of the reference preset
    "model.noise_scheduler.set_alpha_to_one": False,
    "model.noise_scheduler.skip_prk_steps": True,
}
OURS = {"model.audioldm.use_checkpoint": False}  # the same numbers, sooner


def leaves(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model.loss.kl_weight": 1e-8, ...}"""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        flat |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def field(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config.value if isinstance(config, Enum) else config


@pytest.mark.parametrize("latent", FILES)
@pytest.mark.parametrize("recipe", ["autoencoderkl", "audioldm"])
def test_every_official_number(root: Path, recipe: str, latent: str) -> None:
    resolved = json.loads((root / "tests/goldens/amphion_tta/resolved_configs.json").read_text())
    official = resolved[f"{recipe}_{latent}"]
    first_stage = official["model"].pop("autoencoderkl") if recipe == "audioldm" else None
    theirs = official["model"].pop("autoencoder_path", None)
    config = load.load_config(root / "egs/tta" / recipe / FILES[latent])
    wanted = leaves(official)
    assert {name: wanted.pop(name) for name in ELSEWHERE if name in wanted}.items() <= ELSEWHERE.items()
    wanted |= {name: ours for name, ours in OURS.items() if name in wanted}
    assert {name: field(config, name) for name in wanted} == wanted
    if first_stage is not None:
        assert theirs is not None and ("4_10_78" in theirs) is (latent == "4_10_78")
        vae = load.load_config(root / "egs/tta/autoencoderkl" / FILES[latent])
        assert {name: field(vae, f"model.autoencoderkl.{name}") for name in first_stage} == first_stage
        assert config.model.autoencoder_path == f"{vae.log_dir}/{vae.exp_name}/pipeline"


def test_the_reference_preset_has_the_official_sampler_settings() -> None:
    name, settings, steps = PRESETS["epsilon"]["reference"]
    assert (name, steps) == ("PNDMScheduler", 200)
    prefix = "model.noise_scheduler."
    assert settings == {key.removeprefix(prefix): v for key, v in ELSEWHERE.items() if key.startswith(prefix)}


def test_the_two_sizes_differ_in_what_they_should(root: Path) -> None:
    for recipe in ("autoencoderkl", "audioldm"):
        configs = [load.load_config(root / "egs/tta" / recipe / file) for file in FILES.values()]
        assert len({config.run_dir for config in configs}) == 2
