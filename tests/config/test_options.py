import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from sonolume.config.options import Options, Spans, declared, option, parse_spans
from sonolume.utils import cli
from sonolume.utils.errors import UserError


@dataclass(kw_only=True)
class Shared(Options):
    seed: int = option(0, help="seed", low=0, high=9)
    batch_size: int = option(4, help="samples at once", low=1, metavar="N")


@dataclass(kw_only=True)
class Example(Shared):
    batch_size: int = 16
    text: list[str] = option(help="description", metavar="TEXT")
    init_audio: Path | None = option(help="start", must_exist=True)
    init_image: Path | None = option(help="start")
    strength: float | None = option(help="share", above=0, high=1, needs=("init_audio", "init_image"))
    mask: Spans = option(help="spans", parse=parse_spans)
    interval: tuple[float, float] = option((0.0, 1.0), help="noise times", low=0, high=1, metavar=("LOW", "HIGH"))
    height: int | None = option(help="size", multiple=8, unit="px")
    method: str = option("full", help="weights", choices=("full", "lora"))
    tags: bool = option(help="print 100 % of the tags")


def parse(*argv: str) -> Example:
    parser = cli.parser("x", "")
    Example.add_arguments(parser)
    return Example.from_arguments(parser.parse_args(list(argv)))


def test_defaults_come_from_the_fields() -> None:
    assert parse() == Example()
    assert (Example().text, Example().mask, Example().tags, Example().strength) == ([], [], False, None)
    assert Example().batch_size == 16 and Shared().batch_size == 4


def test_values_have_the_types_of_the_fields(in_folder: Path) -> None:
    Path("a.wav").touch()
    found = parse("--text", "rain", "--text", "a bell", "--init_audio", "a.wav", "--strength", "0.5", "--tags",
                  "--mask", "1-2,3-4", "--mask", "5-", "--interval", "0.1", "0.9", "--method", "lora")  # fmt: skip
    assert (found.text, found.init_audio, found.strength) == (["rain", "a bell"], Path("a.wav"), 0.5)
    assert (found.mask, found.interval) == ([(1, 2), (3, 4), (5, None)], (0.1, 0.9)) or found.interval == [0.1, 0.9]
    assert found.method == "lora" and found.tags is True


def test_own_flags_come_before_inherited_ones() -> None:
    names = [flag.name for flag in declared(Example)]
    assert names[0] == "text" and names[-2:] == ["seed", "batch_size"] and len(names) == 11


def test_help_states_the_true_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    for part in ("samples at once (default: 16)", "noise times (default: 0 1)", "weights (default: full)", "100 % of"):
        assert part in text
    assert "description (default" not in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--seed -1", "--seed must be from 0 to 9, got -1"),
        ("--seed nan", "--seed"),
        (f"--batch_size 1{'0' * 400}", "--batch_size must be a finite number, got 1000"),
        ("--batch_size 0", "--batch_size must be at least 1, got 0"),
        ("--init_image . --strength 0", "--strength must be above 0, got 0"),
        ("--init_image . --strength 1.1", "--strength must be at most 1, got 1.1"),
        ("--init_image . --strength nan", "--strength must be a finite number"),
        ("--strength 0.5", "--strength needs --init_audio or --init_image"),
        ("--interval 0.5 2", "--interval must be from 0 to 1, got 2"),
        ("--height 60", "--height must be a multiple of 8 px, got 60"),
        ("--init_audio nowhere", "--init_audio nowhere: no such file"),
        ("--method half", "--method: invalid choice: 'half'"),
        ("--mask 3-1", "3-1 is reversed"),
        ("--mask 2-2", "2-2 is empty"),
    ],
)
def test_a_wrong_value_names_its_flag(in_folder: Path, argv: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse(*argv.split())


def test_values_are_checked_without_a_command_line_too() -> None:
    with pytest.raises(UserError, match="--height"):
        Example(height=60)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1.5-3.0", [(1.5, 3.0)]),
        ("0-.5", [(0.0, 0.5)]),
        ("3.-", [(3.0, None)]),
        ("1-2, 4-", [(1.0, 2.0), (4.0, None)]),
    ],
)
def test_spans(text: str, found: Spans) -> None:
    assert parse_spans(text) == found


@pytest.mark.parametrize("text", ["", "1", "-2", "1-2-3", "1-2,", "a-b", "nan-1", "1e3-2", "9999999-"])
def test_wrong_spans(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="START-END"):
        parse_spans(text)


def test_positional_arguments() -> None:
    @dataclass(kw_only=True)
    class Copy(Options):
        source: Path = option(help="what to copy", positional=True)
        names: list[str] = option(help="new names", positional=True)
        force: bool = option(help="overwrite")

    parser = cli.parser("copy", "copy")
    Copy.add_arguments(parser)
    assert Copy.from_arguments(parser.parse_args(["a", "b", "c"])) == Copy(source=Path("a"), names=["b", "c"])
    with pytest.raises(UserError, match="required: names"):
        parser.parse_args(["a", "--force"])
