"""Every shipped config is read, and the schemas know what they must."""

from pathlib import Path

import pytest

from sonolume.config import load
from sonolume.config.base import RunConfig

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(p for suffix in ("json", "yaml") for p in (ROOT / "egs").rglob(f"*.{suffix}"))


def test_configs_are_shipped() -> None:
    assert {path.name for path in SHIPPED} >= {"exp_config.json", "tiny.json"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_config_is_right(path: Path) -> None:
    config = load.load_config(path)
    assert isinstance(config, RunConfig)
    if path.name in ("exp_config.json", "tiny.json") and path.parent.parent.parent.name == "egs":
        assert config.recipe == str(path.parent.relative_to(ROOT / "egs"))


@pytest.mark.parametrize("recipe", load.recipes())
def test_a_recipe_names_its_inference_flags(recipe: str) -> None:
    flags = load.recipe_module(recipe, "test").INFERENCE_FLAGS
    assert not flags or {"checkpoint", "output_dir", "device", "dtype"} <= set(flags)
    assert len(set(flags)) == len(flags)


def test_run_dir_is_in_the_checkout() -> None:
    from sonolume.config.tta.audioldm import Config

    assert Config(recipe="tta/audioldm", exp_name="x", dataset=[]).run_dir == ROOT / "ckpts/tta/x"
