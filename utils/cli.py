"""What every command line shares: one-line errors, exit codes, and flags that are spelled right or refused.

Exit codes: 0 done; 2 wrong usage, config or input; 1 failure (disk full, out of memory, NaN); 130 interrupted.
SONOLUME_DEBUG=1 shows the traceback behind a one-line error.
"""

import argparse
import difflib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sonolume.utils.errors import ComputationError, UserError
from sonolume.utils.files import PARTLY, safetensors_errors

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
KEPT = "; nothing was half-written: run the same command again afterwards"
ELSEWHERE = "check its owner and mode, or name another place (log_dir, preprocess.processed_dir, --output_dir)"
UNWRITTEN: tuple[tuple[tuple[int, ...], tuple[str, ...], str, str], ...] = (  # errno, words of libraries, what, remedy
    ((errno.ENOSPC,), ("no space left on device", "pytorchstreamwriter failed"), "no space left on the device",
     f"free some{KEPT}"),
    ((errno.EDQUOT,), ("disk quota exceeded",), "disk quota exceeded", f"remove files or ask for more{KEPT}"),
    ((errno.EFBIG,), ("file too large",), "over the largest size of a file",
     f"raise the limit (ulimit -f) or use another file system{KEPT}"),
    ((), (PARTLY, "unexpected pos"), "could not be written in full",
     f"the disk is full or a limit (quota, ulimit -f) is reached: free some or raise it{KEPT}"),
    ((errno.EROFS,), ("read-only file system",), "read-only file system", ELSEWHERE),
    ((errno.EACCES, errno.EPERM), (), "permission denied", ELSEWHERE),
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse whose errors are `UserError`s of one line; an unknown flag names the nearest right one."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Overrides (`key=value`) may stand before, between and after flags."""
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


def parser(prog: str, description: str, add_help: bool = True) -> Parser:
    """A parser without abbreviations: `--num` is an error today, so it cannot change its meaning tomorrow."""
    return Parser(prog=prog, description=description, allow_abbrev=False, add_help=add_help)


def run(main: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Calls `main(argv)` and returns the exit code; errors that a person can mend become one line on stderr."""
    # Threads that wait by spinning make all many times slower when the cores are busy. Read when torch is loaded.
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
    """One line for a failure of the machine, None for one of the program (which deserves its traceback)."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in OUT_OF_MEMORY):
        return f"out of memory: use a smaller batch size, fewer samples or a smaller dtype ({text[:200]})"
    for numbers, signs, what, remedy in UNWRITTEN:
        if getattr(error, "errno", None) in numbers or any(sign in text.lower() for sign in signs):
            where = _place(error)
            return f"{what}{f' for {where}' if where else ''}: {remedy}"
    return None if isinstance(error, RuntimeError) else text or type(error).__name__


def _place(error: BaseException) -> str | None:
    """The file that an error is about, or that `files.naming` has noted."""
    where = getattr(error, "filename", None) or next(iter(getattr(error, "__notes__", ())), None)
    return os.fsdecode(where) if isinstance(where, str | bytes) else None


def _silence_broken_stdout() -> None:
    """When stdout itself is full or closed, the interpreter must not fail once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
