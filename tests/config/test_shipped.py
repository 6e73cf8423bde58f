"""Every shipped config can be loaded, and every recipe declares its flags completely."""

from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from sonolume.config import load
from sonolume.config.base import RunConfig
from sonolume.config.options import declared

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


@pytest.mark.parametrize("kind", ["InferenceOptions", "EvaluationOptions", "FinetuneOptions"])
@pytest.mark.parametrize("recipe", load.recipes())
def test_options_of_a_recipe(recipe: str, kind: str) -> None:
    options = getattr(load.recipe_module(recipe), kind, None)
    if options is not None:
        flags = {flag.name: flag for flag in declared(options)}
        assert "checkpoint" in flags and len(flags) == len(declared(options))
        assert all(one.default is not MISSING for one in fields(options))


def test_run_dir_is_in_the_checkout() -> None:
    from sonolume.config.tta.audioldm import Config

    assert Config(recipe="tta/audioldm", exp_name="x", dataset=[]).run_dir == ROOT / "ckpts/tta/x"
