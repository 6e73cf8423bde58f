"""Every number of every config has a range, so that a slip of the keyboard is one line and not a hang."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sonolume.config.load import load_config, merge, recipes
from sonolume.config.sources import Source
from sonolume.utils.errors import ConfigError

EGS = Path(__file__).resolve().parents[2] / "egs"
FILES = sorted([*EGS.glob("*/*/tiny*.json"), *EGS.glob("mini/*.json")])
FREE = {"logvar_init"}  # of any sign


def numbers(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and lists of numbers of a config, by their dotted keys."""
    for field in dataclasses.fields(section):
        value, key = getattr(section, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{key}.")
            continue
        one = value[0] if isinstance(value, list) and value else value
        if isinstance(one, int | float | list) and not isinstance(one, bool) and one != []:
            yield key, value


@functools.cache
def config_of(file: Path) -> Any:
    return load_config(file)


@functools.cache
def text_of(file: Path) -> str:
    return json.dumps(config_of(file).to_dict())


def refused(file: Path, key: str, value: Any) -> None:
    content = json.loads(text_of(file))
    *path, name = key.split(".")
    functools.reduce(dict.__getitem__, path, content)[name] = value
    with pytest.raises(ConfigError) as caught:
        merge([Source("config.json", content)])
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500 and key.rpartition(".")[2] in message, message


def of_recipe(recipe: str) -> Path:
    return next(file for file in FILES if config_of(file).recipe == recipe)


@pytest.mark.parametrize("recipe", [
    "tta/audioldm", *(pytest.param(recipe, marks=pytest.mark.full) for recipe in recipes() if recipe != "tta/audioldm"),
])  # fmt: skip
def test_every_number_has_a_range(recipe: str) -> None:
    file = of_recipe(recipe)
    for key, value in numbers(config_of(file)):
        if not isinstance(value, list):
            refused(file, key, 10**18)
            if key.rpartition(".")[2] not in FREE:
                refused(file, key, -1)
        elif not isinstance(value[0], list):
            refused(file, key, [10**9, *value[1:]])
            refused(file, key, [-1, *value[1:]])
            refused(file, key, value * 1000)


@pytest.mark.parametrize(("file", "key", "value"), [
    ("tta/audioldm/tiny.json", "preprocess.frames", 2**18),  # to which every clip is padded
    ("mini/clip_text.json", "miniworld.train_scenes", 2 * 10**6),  # are drawn before the first step
    ("mini/clip_text.json", "miniworld.kinds", ["dog"] * 64),
    ("mini/clip.json", "film.cached_frames", 2048),
])  # fmt: skip
def test_sizes_that_take_minutes_before_the_first_step(file: str, key: str, value: Any) -> None:
    refused(EGS / file, key, value)


def test_a_filter_bank_of_gigabytes() -> None:
    with pytest.raises(ConfigError, match="preprocess.n_mel must be at most 1024, got 30000"):
        load_config(EGS / "tta/audioldm/tiny.json", ["preprocess.n_fft=65536", "preprocess.n_mel=30000"])


@pytest.mark.parametrize("key", [
    "model.audioldm.num_res_blocks", "model.audioldm.transformer_depth", "train.num_workers", "preprocess.num_workers",
    "preprocess.miniworld.captions_per_scene", "train.random_seed",
])  # fmt: skip
def test_sizes_that_would_never_end(key: str) -> None:
    refused(EGS / "tta/audioldm/tiny.json", key, 10**10)
    refused(EGS / "tta/audioldm/tiny.json", key, 10**400)
