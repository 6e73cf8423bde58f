import errno
import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
from tqdm import tqdm

from sonolume.utils import cli
from sonolume.utils.errors import UserError


def failing(error: BaseException) -> Callable[[list[str]], None]:
    def main(argv: list[str]) -> None:
        raise error

    return main


def test_done_is_zero() -> None:
    seen: list[str] = []
    assert cli.run(seen.extend, ["--a", "b"]) == 0
    assert seen == ["--a", "b"]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("a.json:\n  wrong"), 2, "error: a.json: wrong"),
        (UserError("a\x1b[2J\u202eb\udcff.json"), 2, r"error: a\x1b[2J\u202eb\udcff.json"),
        (OSError(errno.ENOSPC, "No space left on device", "x.wav"), 1, "no space left on the device for x.wav"),
        (PermissionError(errno.EACCES, "Permission denied", "x.wav"), 1, "permission denied for x.wav: check its"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x.npy"), 1, "disk quota exceeded for x.npy: remove files"),
        (OSError(errno.EFBIG, "File too large", "x.npy"), 1, "file for x.npy: raise the limit (ulimit -f)"),
        (OSError(errno.EROFS, "Read-only file system", "runs"), 1, "read-only file system for runs: check its owner"),
        (OSError(errno.EIO, "4 requested and 1 written", "x.npy"), 1, "could not be written completely for x.npy"),
        (OSError(errno.EIO, "Input/output error", "x.npy"), 1, "Input/output error: 'x.npy'"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/3"), 1, "no space left"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), 1, "completely"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "out of memory: use a smaller batch size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "out of memory"),
        (MemoryError(), 1, "out of memory"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x.wav"), 2, "x.wav: file name too long: name another"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/dev/null/x"), 2, "/dev/null/x: not a directory: name"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"), 2, "/proc/x: no such file or"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_line(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SONOLUME_DEBUG", raising=False)
    assert cli.run(failing(error), []) == code
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


def test_a_long_message_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(failing(UserError(f"key: needs a number, got {'9' * 5000}: write one")), []) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: key: needs") and message.endswith("write one\n") and len(message) < 1100


def test_a_full_disk_in_safetensors_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import SafetensorError

    assert cli.run(failing(SafetensorError("I/O error: No space left on device (os error 28)")), []) == 1
    assert "no space left" in capsys.readouterr().err


def test_a_noted_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import SafetensorError

    error = SafetensorError("Error while serializing: I/O error: File too large (os error 27)")
    error.add_note("weights.safetensors")
    assert cli.run(failing(error), []) == 1
    assert "for weights.safetensors: raise the limit (ulimit -f)" in capsys.readouterr().err


def test_a_mistake_in_the_program_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        cli.run(failing(RuntimeError("shape mismatch")), [])


def test_debug_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONOLUME_DEBUG", "1")
    with pytest.raises(UserError):
        cli.run(failing(UserError("x")), [])


def test_a_full_stdout_is_one_line() -> None:
    code = "import sys; from sonolume.utils import cli; sys.exit(cli.run(lambda argv: print('x'), []))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "no space left" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_decides_the_exit_code(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a library makes another error, or an exit, of the interruption."""
    handlers, cleaned = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)], []

    def interrupted(error: BaseException) -> Callable[[list[str]], None]:
        def main(argv: list[str]) -> None:
            try:
                os.kill(os.getpid(), number)
            except BaseException as interruption:
                raise error from interruption
            finally:
                cleaned.append(error)

        return main

    errors = (ImportError("numpy.core failed to import"), SystemExit(1), RuntimeError("x"), KeyboardInterrupt())
    assert [cli.run(interrupted(error), []) for error in errors] == [code] * 4
    assert len(cleaned) == 4
    assert capsys.readouterr().err == "interrupted\n" * 4 * (number == signal.SIGINT)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_an_error_has_its_own_line_after_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str]) -> None:
        bar = tqdm(total=3)
        bar.update(1)
        raise UserError("wrong")

    assert cli.run(main, []) == 2
    assert capsys.readouterr().err.endswith("\nerror: wrong\n")


def test_warnings_and_results_are_printable(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def main(argv: list[str]) -> None:
        print(warnings.formatwarning("a\x1b[2J.wav", UserWarning, "x.py", 1, ""), "\udcff.wav")

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.FileIO(1, "w", closefd=False)))
    assert cli.run(main, []) == 0
    assert capfd.readouterr().out == "x.py:1: UserWarning: a\\x1b[2J.wav\n \\udcff.wav\n"


@pytest.mark.parametrize("main", ["lambda argv: print('x' * 10**6)", "lambda argv: (print('x'), sys.exit(0))"])
def test_a_closed_pipe_is_silent(main: str) -> None:
    code = f"import sys; from sonolume.utils import cli; sys.exit(cli.run({main}, []))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def parser() -> cli.Parser:
    parser = cli.parser("bins/x.py", "does x")
    parser.add_argument("--text")
    parser.add_argument("--num_steps", type=int)
    parser.add_argument("overrides", nargs="*")
    return parser


def test_overrides_stand_anywhere() -> None:
    args = parser().parse_args(["a=1", "--text", "x", "b=2", "--num_steps", "3", "c=3"])
    assert (args.overrides, args.text, args.num_steps) == (["a=1", "b=2", "c=3"], "x", 3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--txet", "x"], "bins/x.py: unknown flag --txet, did you mean --text?"),
        (["--num_step=3"], "bins/x.py: unknown flag --num_step, did you mean --num_steps?"),
        (["--zzzzz"], "bins/x.py: unknown flag --zzzzz (see bins/x.py --help)"),
        (["--num_steps", "many"], "argument --num_steps: invalid int value: 'many'"),
        (["--text"], "argument --text: expected one argument"),
    ],
)
def test_a_wrong_flag_is_a_user_error(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parser().parse_args(argv)
    assert message in str(caught.value)


def test_help_exits_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda argv: parser().parse_args(argv), ["--help"])
    assert caught.value.code == 0
    assert "does x" in capsys.readouterr().out
