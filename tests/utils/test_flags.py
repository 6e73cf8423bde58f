import argparse
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


def test_a_recipe_without_flags_has_nothing_to_run():
    with pytest.raises(UserError, match="can only be trained"):
        checked(useful=())


def test_evaluation_has_its_own_defaults():
    assert flags.EVALUATION["num_samples"]["default"] == 600
    assert flags.INFERENCE["num_samples"]["default"] == 1
