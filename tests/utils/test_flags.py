import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from sonolume.utils import cli, flags
from sonolume.utils.errors import UserError


def checked(*argv: str, useful: tuple[str, ...] = ("text", "seed", "num_samples")) -> Any:
    parser = cli.parser("test", "")
    flags.add(parser, flags.INFERENCE)
    args: argparse.Namespace = parser.parse_args(list(argv))
    flags.check(args, flags.INFERENCE, useful, "a/recipe")
    return args


def test_defaults_are_filled_in():
    args = checked("--text", "rain", "--text", "a bell")
    assert (args.text, args.seed, args.num_samples, args.preset) == (["rain", "a bell"], 0, 1, None)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "fast"], "a/recipe has no use for --preset (it takes --text, --seed, --num_samples)"),
        (["--num_samples", "0"], "--num_samples must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0"),
    ],
)
def test_what_is_refused(argv: list[str], message: str):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        checked(*argv)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1.5-3.0", [(1.5, 3.0)]),
        ("0-.5", [(0.0, 0.5)]),
        ("3.-", [(3.0, None)]),
        ("1-2, 4-", [(1.0, 2.0), (4.0, None)]),
    ],
)
def test_spans_of_seconds(text: str, found: list[tuple[float, float | None]]):
    assert flags.spans(text) == found


@pytest.mark.parametrize("text", ["", "1", "-2", "1-2-3", "1-2,", "a-b", "nan-1", "1e3-2", "9999999-"])
def test_what_is_no_span_of_seconds(text: str):
    with pytest.raises(argparse.ArgumentTypeError, match="is not written as START-END or START-"):
        flags.spans(text)


def test_several_masks_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").touch()
    useful = ("text", "seed", "num_samples", "init_audio", "mask", "continuation")
    args = checked("--init_audio", "a.wav", "--mask", "1-2,3-4", "--mask", "5-", useful=useful)
    assert args.mask == [(1, 2), (3, 4), (5, None)] and args.continuation is False
    assert checked("--init_audio", "a.wav", "--continuation", useful=useful).continuation is True
    assert checked("--text", "rain").mask is None


def test_a_flag_that_needs_another():
    with pytest.raises(UserError, match="--mask needs --init_audio"):
        checked("--mask", "1-2", useful=("text", "seed", "num_samples", "init_audio", "mask"))


@pytest.mark.parametrize(
    ("recipe_takes", "message"),
    [
        (("init_audio",), "--strength needs --init_audio"),
        (("init_image",), "--strength needs --init_image"),
        (("init_audio", "init_image"), "--strength needs --init_audio or --init_image"),
    ],
)
def test_a_flag_that_needs_one_of_two(recipe_takes: tuple[str, ...], message: str):
    with pytest.raises(UserError, match=f"{message}$"):
        checked("--strength", "0.5", useful=("seed", "num_samples", "strength", *recipe_takes))


def test_a_recipe_without_flags_has_nothing_to_run():
    with pytest.raises(UserError, match="can only be trained"):
        checked(useful=())


def test_evaluation_has_its_own_defaults():
    assert flags.EVALUATION["num_samples"]["default"] == 600
    assert flags.INFERENCE["num_samples"]["default"] == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--duration 0.4", "--duration must be from 0.5 to 600 s, got 0.4"),
        ("--duration 601", "--duration must be from 0.5 to 600 s, got 601"),
        ("--guidance_rescale 1.5", "--guidance_rescale must be from 0 to 1, got 1.5"),
        ("--window_overlap 1", "--window_overlap must be from 0 to 0.9, got 1"),
        ("--guidance_interval 0.9 0.2", "with 0 <= LOW < HIGH <= 1, got 0.9 0.2"),
        ("--init_audio here --strength 0", "--strength must be above 0 and at most 1, got 0"),
        ("--init_audio here --strength 1.1", "--strength must be above 0 and at most 1, got 1.1"),
        ("--init_audio here --mask 3-1", "--mask 3-1 is reversed"),
        ("--init_audio here --mask 2-2", "--mask 2-2 is empty"),
        ("--init_audio nowhere", "--init_audio nowhere: no such file"),
        ("--init_image nowhere", "--init_image nowhere: no such file"),
        ("--height 60", "--height must be a multiple of 8, got 60"),
        ("--width 8", "--width must be from 16 to 4096 px, got 8"),
        ("--text a --mix 1.5", "--mix must be from 0 to 1, got 1.5"),
        ("--audio_strength nan", "--audio_strength must be from 0 to 2, got nan"),
        ("--window 0", "--window must be from 0.1 to 3600 s, got 0"),
        ("--hop 1", "--hop needs --window"),
    ],
)
def test_numbers_and_files_are_looked_at_before_anything_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: str, message: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    with pytest.raises(UserError, match=re.escape(message)):
        checked(*argv.split(), useful=tuple(flags.INFERENCE))
