"""The command line of a recipe: its own flags, overrides anywhere, and one line for every mistake."""

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from sonolume.config import command
from sonolume.config import options as shared
from sonolume.config.options import option
from sonolume.config.tta import autoencoderkl
from sonolume.utils import cli
from sonolume.utils.errors import UserError


@dataclass(kw_only=True)
class InferenceOptions(shared.GenerationOptions, shared.OutputOptions, shared.ModelOptions):
    audio: list[Path] = option(help="a sound file; may be given several times", metavar="PATH")


@pytest.fixture
def config(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A config of a recipe whose only options class is the one above."""
    importlib.import_module("sonolume.config.tta.hifigan")  # which imports from the module that is replaced
    module = ModuleType("sonolume.config.tta.autoencoderkl")
    module.Config, module.InferenceOptions = autoencoderkl.Config, InferenceOptions  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    content = {"recipe": "tta/autoencoderkl", "exp_name": "x", "dataset": ["a"], "model": {}}
    Path("my config.json").write_text(json.dumps(content))
    return "my config.json"


def parse(*argv: str, script: str = "inference", kind: str = "InferenceOptions") -> command.Command:
    return command.parse(script, kind, "generate", list(argv))


def test_flags_and_overrides_in_any_order(config: str) -> None:
    given = parse("train.batch_size=3", "--audio", "a.wav", "exp_name=y", "--audio", "b.wav", "--config", config)
    assert (given.config.train.batch_size, given.config.exp_name) == (3, "y")
    assert given.options == InferenceOptions(audio=[Path("a.wav"), Path("b.wav")])
    assert given.path == Path(config) and [source.name for source in given.given] == [config, *["command line"] * 2]


def test_the_last_config_counts(config: str) -> None:
    assert parse("--config", "missing.json", "--config", config).path == Path(config)


def test_help_lists_the_flags_of_the_recipe(config: str, capsys: pytest.CaptureFixture[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("SONOLUME_COMMAND", "run_inference.sh")
    with pytest.raises(SystemExit) as caught:
        parse("--config", config, "--help")
    page = capsys.readouterr().out
    assert caught.value.code == 0 and page.startswith("usage: run_inference.sh ")
    assert "tta/autoencoderkl: generate" in page and "--audio" in page and "--text" not in page.replace("_text", "")


def test_help_without_a_config_lists_the_recipes(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    page = capsys.readouterr().out
    assert caught.value.code == 0 and "tta/autoencoderkl" in page and "--config" in page


def test_shared_options_serve_a_recipe_without_its_own(config: str) -> None:
    assert parse("--config", config, script="train", kind="TrainOptions").options == shared.TrainOptions()
    with pytest.raises(UserError, match="tta/autoencoderkl has no evaluate command"):
        parse("--config", config, script="evaluate", kind="EvaluationOptions")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--audoi", "a.wav"], "inference.py: unknown flag --audoi, did you mean --audio?"),
        (["--zzz"], "inference.py: unknown flag --zzz (see inference.py --help)"),
        (["--audio", "a.wav", "b.wav"], "inference.py: unexpected 'b.wav': --audio takes one value"),
        (["--seed", "1", "2"], "inference.py: unexpected '2': config fields are changed by key=value"),
        (["--num_steps", "0"], "--num_steps must be at least 1"),
        (["train.lrr=1"], "train.lrr: no such field"),
        (["--dtype", "int8"], "--dtype"),
    ],
)
def test_a_mistake_is_one_line(config: str, argv: list[str], message: str,
                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert cli.run(lambda given: print(parse(*given)), ["--config", config, *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_missing_config_is_named() -> None:
    with pytest.raises(UserError, match="no config: name a recipe first"):
        parse("train.batch_size=3")
