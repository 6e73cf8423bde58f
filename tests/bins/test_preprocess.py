import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sonolume.bins import preprocess
from sonolume.utils import cli


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "exp config.json"
    content = {"recipe": "tta/autoencoderkl", "exp_name": "x", "dataset": ["first", "second"], "model": {}}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The calls of the recipe's data module, which is replaced here."""
    calls: list[tuple[Any, Any]] = []
    stub = ModuleType("sonolume.models.tta.autoencoderkl.data")
    stub.preprocess = lambda config, options: calls.append((config, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    return calls


def test_config_flags_and_overrides_reach_the_recipe(config: Path, tmp_path: Path, calls: list, capsys):
    argv = ["--config", str(config), "preprocess.frames=160", "--input", str(tmp_path), "--dataset", "mine"]
    assert cli.run(preprocess.main, argv) == 0
    ((given, options),) = calls
    assert (given.preprocess.frames, options.input, options.dataset) == (160, tmp_path, "mine")
    assert "dataset=[mine]" in capsys.readouterr().out


def test_the_first_data_set_is_the_default(config: Path, calls: list):
    assert cli.run(preprocess.main, ["--config", str(config)]) == 0
    assert (calls[0][1].dataset, calls[0][1].input) == ("first", None)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--input", "does not exist"], "--input does not exist: no such"),
        (["--audio_dir", "."], "--audio_dir needs --input"),
        (["--input", ".", "--audio_dir", "gone"], "--audio_dir gone: no such folder"),
        (["dataset=[]"], "the list is empty"),
    ],
)
def test_mistakes_are_one_line(config: Path, calls: list, capsys, extra: list[str], message: str):
    assert cli.run(preprocess.main, ["--config", str(config), *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not calls


def test_nothing_heavy_is_imported_before_the_config_is_right(tmp_path: Path):
    (tmp_path / "bad.json").write_text("{")
    code = (
        "import sys; from sonolume.bins import preprocess; from sonolume.utils import cli\n"
        f"code = cli.run(preprocess.main, ['--config', {str(tmp_path / 'bad.json')!r}])\n"
        "heavy = {'torch', 'numpy', 'transformers', 'soundfile'} & set(sys.modules)\n"
        "print(code, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"
    assert done.stderr.startswith("error: ")
