"""Command lines: parsing with one-line errors, and exit codes.

Exit codes: 0 done; 2 wrong usage, config or input; 1 failure (disk full, out of memory, NaN); 130 interrupted.
SONOLUME_DEBUG=1 shows the traceback of a one-line error.
"""

import argparse
import difflib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sonolume.utils.errors import ComputationError, UserError
from sonolume.utils.files import PARTIAL_WRITE, safetensors_errors

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
RERUN_HINT = "; no partial file was left: run the same command again afterwards"
PERMISSION_HINT = "check its owner and mode, or name another place (log_dir, preprocess.processed_dir, --output_dir)"
WRITE_FAILURES: tuple[tuple[tuple[int, ...], tuple[str, ...], str, str], ...] = (  # errno, message parts, what, remedy
    ((errno.ENOSPC,), ("no space left on device", "pytorchstreamwriter failed"), "no space left on the device",
     f"free some space{RERUN_HINT}"),
    ((errno.EDQUOT,), ("disk quota exceeded",), "disk quota exceeded", f"remove files or ask for more{RERUN_HINT}"),
    ((errno.EFBIG,), ("file too large",), "larger than the largest allowed file",
     f"raise the limit (ulimit -f) or use another file system{RERUN_HINT}"),
    ((), (PARTIAL_WRITE, "unexpected pos"), "could not be written completely",
     f"the disk is full or a limit (quota, ulimit -f) is reached: free some space or raise it{RERUN_HINT}"),
    ((errno.EROFS,), ("read-only file system",), "read-only file system", PERMISSION_HINT),
    ((errno.EACCES, errno.EPERM), (), "permission denied", PERMISSION_HINT),
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are `UserError`s of one line; an unknown flag is answered with the nearest one."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse flags and positional arguments in any order."""
        intermixed = self._subparsers is None
        parse = self.parse_known_intermixed_args if intermixed else self.parse_known_args
        parsed, unknown = parse(args, namespace)
        if unknown and not unknown[0].startswith("-"):
            self.error(f"unexpected argument {unknown[0]!r}")
        if unknown:
            name = unknown[0].split("=")[0].lstrip("-")
            names = [flag.lstrip("-") for flag in self._option_string_actions if flag.startswith("--")]
            near = difflib.get_close_matches(name, names, n=1)
            hint = f", did you mean --{near[0]}?" if near else f"; the flags are --{', --'.join(names)}"
            self.error(f"unknown flag {unknown[0].split('=')[0]}{hint}")
        return parsed


def parser(prog: str, description: str, usage: str | None = None, add_help: bool = True) -> Parser:
    """Build a parser without abbreviations, whose meaning could change with every new flag."""
    return Parser(prog=prog, description=description, usage=usage, allow_abbrev=False, add_help=add_help)


def run(main: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Call `main(argv)` and return the exit code; expected errors become one line on stderr."""
    # Threads that spin while they wait slow everything down on busy cores; OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "60")  # seconds: progress bars do not fill log files
    try:
        main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (UserError, ComputationError, OSError, MemoryError, RuntimeError, *safetensors_errors()) as error:
        message = _describe(error)
        if message is None or os.environ.get("SONOLUME_DEBUG"):
            raise
        _silence_broken_stdout()
        print("error: " + " ".join(message.split()), file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


def _describe(error: BaseException) -> str | None:
    """The message of an expected error or a failure of the machine; None for an error of the program."""
    text = str(error)
    if isinstance(error, UserError | ComputationError):
        return text
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in OUT_OF_MEMORY):
        return f"out of memory: use a smaller batch size, fewer samples or a smaller dtype ({text[:200]})"
    for numbers, signs, what, remedy in WRITE_FAILURES:
        if getattr(error, "errno", None) in numbers or any(sign in text.lower() for sign in signs):
            file = getattr(error, "filename", None) or next(iter(getattr(error, "__notes__", ())), None)  # of `naming`
            return f"{what}{f' for {os.fsdecode(file)}' if isinstance(file, str | bytes) else ''}: {remedy}"
    return None if isinstance(error, RuntimeError) else text or type(error).__name__


def _silence_broken_stdout() -> None:
    """Keep the interpreter from failing again at exit when stdout itself is full or closed."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
