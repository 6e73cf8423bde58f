"""Command lines: parsing with one-line errors, and exit codes.

Exit codes: 0 done; 2 wrong usage, config or input; 1 failure (disk full, out of memory, NaN); 130 interrupted;
143 ended by SIGTERM; 141 the reader of stdout has ended.
SONOLUME_DEBUG=1 shows the traceback of a one-line error.
"""

import argparse
import contextlib
import difflib
import errno
import io
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from sonolume.utils.errors import ComputationError, UserError
from sonolume.utils.files import PARTIAL_WRITE, safetensors_errors
from sonolume.utils.startup import SIGNALS
from sonolume.utils.text import name_commands, printable

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
LONGEST_MESSAGE = 1000  # characters; longer ones repeat a value that somebody gave
WRONG_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST)
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


_received: list[int] = []  # signals of the running command


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
            hint = f", did you mean --{near[0]}?" if near else ""
            self.error(f"unknown flag {unknown[0].split('=')[0]}{hint}")
        return parsed


def program(script: str) -> str:
    """Name in --help and messages of bins/{script}.py: that of the shell script or subcommand that started it."""
    return os.environ.get("SONOLUME_COMMAND", f"{script}.py")  # set by egs/_run.sh and bins/main.py


def parser(prog: str, description: str, usage: str | None = None, add_help: bool = True) -> Parser:
    """Build a parser without abbreviations, whose meaning could change with every new flag."""
    return Parser(prog=prog, description=description, usage=usage, allow_abbrev=False, add_help=add_help)


def run(main: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Call `main(argv)` and return the exit code; expected errors become one line on stderr."""
    # Threads that spin while they wait slow everything down on busy cores; OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "60")  # seconds: progress bars do not fill log files
    received: list[int] = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an undecodable file name can be printed
    try:
        with _signals(received), _printable_warnings():
            main(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()
        return _interrupted(received[0]) if received else 0
    except BaseException as error:
        if received or isinstance(error, KeyboardInterrupt):  # libraries turn an interruption into other errors
            return _interrupted(received[0] if received else signal.SIGINT)
        if isinstance(error, BrokenPipeError | SystemExit) and _is_pipe_closed():
            _silence_broken_stdout()
            return 128 + signal.SIGPIPE
        message = _describe(error)
        if message is None or os.environ.get("SONOLUME_DEBUG"):
            raise
        _silence_broken_stdout()
        _print_last("error: " + printable(_shorten(name_commands(" ".join(message.split())))))
        return 2 if isinstance(error, UserError) or getattr(error, "errno", None) in WRONG_PATHS else 1


def _shorten(message: str) -> str:
    """Leave out the middle of a very long message."""
    half = LONGEST_MESSAGE // 2
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:half]} ... {message[-half:]}"


def raise_if_interrupted() -> None:
    """Raise the exception of Ctrl-C or SIGTERM again if the imports of a library have swallowed it."""
    if _received:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """Raise an exception at Ctrl-C and SIGTERM, so that temporary files are removed, and note the signal."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        _received.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, interrupt) for number in SIGNALS}
    _received.clear()
    try:
        yield
    finally:
        _received.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _printable_warnings() -> Iterator[None]:
    """Make names of files and other text from outside printable in warnings."""
    original = warnings.formatwarning

    def formatwarning(*given: Any, **more: Any) -> str:
        return "\n".join(map(printable, original(*given, **more).split("\n")))

    warnings.formatwarning = formatwarning
    try:
        yield
    finally:
        warnings.formatwarning = original


def _interrupted(number: int) -> int:
    if number == signal.SIGINT:
        _print_last("interrupted")
    return 128 + number


def _print_last(message: str) -> None:
    """Print the last line of a command on stderr, on a line of its own after unfinished progress bars."""
    with contextlib.suppress(OSError):  # stderr itself is closed
        if "tqdm" in sys.modules:
            for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
                bar.close()
        print(message, file=sys.stderr, flush=True)


def _describe(error: BaseException) -> str | None:
    """The message of an expected error or a failure of the machine; None for an error of the program."""
    if not isinstance(error, (UserError, ComputationError, OSError, MemoryError, RuntimeError, *safetensors_errors())):
        return None
    text = str(error)
    if isinstance(error, UserError | ComputationError):
        return text
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in OUT_OF_MEMORY):
        return f"out of memory: use a smaller batch size, fewer samples or a smaller dtype ({text[:200]})"
    for numbers, signs, what, remedy in WRITE_FAILURES:
        if getattr(error, "errno", None) in numbers or any(sign in text.lower() for sign in signs):
            file = getattr(error, "filename", None) or next(iter(getattr(error, "__notes__", ())), None)  # of `naming`
            return f"{what}{f' for {os.fsdecode(file)}' if isinstance(file, str | bytes) else ''}: {remedy}"
    if isinstance(error, OSError) and error.errno in WRONG_PATHS and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {str(error.strerror).lower()}: name another file or folder"
    return None if isinstance(error, RuntimeError) else text or type(error).__name__


def _silence_broken_stdout() -> None:
    """Keep the interpreter from failing again at exit when stdout itself is full or closed."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_pipe_closed() -> bool:
    """Test whether stdout is a pipe whose reader has ended, such as `head`."""
    poll = select.poll()
    try:
        poll.register(sys.stdout, 0)
    except (OSError, ValueError):  # no file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))
