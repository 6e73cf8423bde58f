"""Schemas of the judges."""

from pathlib import Path

import pytest

from sonolume.config.load import load_config
from sonolume.modules.judges import BACKBONES, PATCH, STRIDE
from sonolume.utils.errors import ConfigError


def test_the_second_judge_is_another_one(root: Path) -> None:
    folder = root / "egs" / "mini"
    first, second = (load_config(folder / f"{name}.json") for name in ("sound_judge", "sound_judge_second"))
    assert first.model.architecture != second.model.architecture
    assert first.train.random_seed != second.train.random_seed
    assert first.run_dir != second.run_dir
    assert first.preprocess == second.preprocess


def test_the_schema_knows_the_networks() -> None:
    from sonolume.config.mini import sound_judge

    assert {member.value for member in sound_judge.Architecture} == set(BACKBONES)
    assert sound_judge.DIVISORS == {"frames": STRIDE, "n_mel": PATCH}


@pytest.mark.parametrize("override", ["preprocess.frames=100", "model.width=6", "model.architecture=cnn"])
def test_a_wrong_size_is_refused(override: str, root: Path) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0].replace(".", r"\.")):
        load_config(root / "egs" / "mini" / "sound_judge.json", [override])
