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
        if unknown:
            self.error(self._describe_unknown(unknown[0]))
        return parsed

    def _describe_unknown(self, argument: str) -> str:
        flag = argument.split("=")[0]
        if not flag.startswith("-"):
            return f"unexpected argument {argument!r}"
        near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        return f"unknown flag {flag}" + (f", did you mean {near[0]}?" if near else "")


def parser(prog: str, description: str, usage: str | None = None, add_help: bool = True) -> Parser:
    """Build a parser without abbreviations, whose meaning could change with every new flag."""
    return Parser(prog=prog, description=description, usage=usage, allow_abbrev=False, add_help=add_help)


def run(main: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Call `main(argv)` and return the exit code; expected errors become one line on stderr."""
    # Threads that spin while they wait slow everything down on busy cores; OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except UserError as error:
        return _report(error, str(error), 2)
    except ComputationError as error:
        return _report(error, str(error), 1)
    except (OSError, MemoryError, RuntimeError, *safetensors_errors()) as error:
        line = _failure(error)
        if line is None:
            raise
        return _report(error, line, 1)


def _report(error: BaseException, message: str, code: int) -> int:
    if os.environ.get("SONOLUME_DEBUG"):
        raise error
    _silence_broken_stdout()
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def _failure(error: BaseException) -> str | None:
    """Describe a failure of the machine in one line; None for an error of the program, which keeps its traceback."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in OUT_OF_MEMORY):
        return f"out of memory: use a smaller batch size, fewer samples or a smaller dtype ({text[:200]})"
    for numbers, signs, what, remedy in WRITE_FAILURES:
        if getattr(error, "errno", None) in numbers or any(sign in text.lower() for sign in signs):
            file = _file_of(error)
            return f"{what}{f' for {file}' if file else ''}: {remedy}"
    return None if isinstance(error, RuntimeError) else text or type(error).__name__


def _file_of(error: BaseException) -> str | None:
    """The file name of an OSError, or the one added by `files.naming`."""
    name = getattr(error, "filename", None) or next(iter(getattr(error, "__notes__", ())), None)
    return os.fsdecode(name) if isinstance(name, str | bytes) else None


def _silence_broken_stdout() -> None:
    """Keep the interpreter from failing again at exit when stdout itself is full or closed."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
