"""The command sonolume, whose subcommands are the other files of this folder: sonolume inference tta/audioldm --help

A subcommand is a file with a function `main`; its help is the first line of the file. Nothing is registered.
"""

import ast
import difflib
import importlib
import os
import sys
from pathlib import Path

try:
    import sonolume.utils.startup  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.utils import cli
from sonolume.utils.errors import UserError

ABOUT = "Sound from words and pictures, pictures from sound and speech."
USAGE = "sonolume COMMAND [RECIPE] [--flag VALUE ...] [key=value ...]"
EXAMPLE = 'For example: sonolume inference tta/audioldm --text "A bell rings". Each command has its own --help.'


def commands() -> dict[str, str]:
    """Find the subcommands: name -> help."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        code = ast.parse(file.read_text(encoding="utf-8"))
        is_command = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in code.body)
        if is_command and file.stem != "main":
            first_line = (ast.get_docstring(code) or "").partition("\n")[0]
            found[file.stem] = first_line.partition(": python bins/")[0].rstrip(".")
    return found


def main(argv: list[str]) -> None:
    found = commands()
    if not argv or argv[0].startswith("-"):
        _main_flags(argv, found)
        return
    name, *rest = argv
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        raise UserError(f"sonolume: no command {name!r}" + (f", did you mean {near[0]}?" if near else "")
                        + f" (there are: {', '.join(found)})")  # fmt: skip
    os.environ["SONOLUME_COMMAND"] = f"sonolume {name}"  # the name in --help and error messages
    importlib.import_module(f"sonolume.bins.{name}").main(rest)


def _main_flags(argv: list[str], found: dict[str, str]) -> None:
    """Answer --help, --version, or no argument at all."""
    parser = cli.parser("sonolume", ABOUT, USAGE)
    parser.epilog = EXAMPLE
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    listed = parser.add_subparsers(title="commands", metavar="COMMAND [RECIPE]")
    for name, about in found.items():
        listed.add_parser(name, help=about.replace("%", "%%"), add_help=False)
    if parser.parse_args(argv).version:
        print(f"sonolume {sonolume.__version__}")
    else:
        parser.print_help()


def command_line() -> int:
    """Run the installed command; returns the exit code."""
    sonolume.utils.startup.start_command()
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(cli.run(main))
