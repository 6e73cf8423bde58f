"""The scripts of egs under dash: any working directory, spaces in every path, and the environment made on first use."""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "egs").rglob("*.sh"))
RUNS = sorted((ROOT / "egs").glob("*/*/run_*.sh"))
BINS = [path.stem for path in sorted((ROOT / "bins").glob("[a-z]*.py"))]
SHELL = shutil.which("dash") or "sh"
BASHISM = re.compile(r"\[\[|(?<!\$)\(\(|\bfunction \w|<\(|\bsource |<<<|\blocal |\bdeclare |&>|\$'|\w+=\(|==")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def sh(script: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**{k: v for k, v in os.environ.items() if k != "PYTHON"}, **environment}
    return subprocess.run([SHELL, str(script), *arguments], capture_output=True, text=True, cwd=cwd, env=env)


def test_every_bin_exists() -> None:
    assert set(BINS) >= {"preprocess", "train", "inference", "evaluate", "build"}


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci/run"], ids=name)
def test_is_posix(script: Path) -> None:
    text = script.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert not BASHISM.findall(code)
    assert subprocess.run([SHELL, "-n", str(script)]).returncode == 0


def test_bashisms_are_found() -> None:
    assert all(
        BASHISM.search(line) for line in ("if [[ a ]]", "a=(1 2)", "source x", "x <(y)", "[ a == b ]", "local a")
    )


@pytest.mark.parametrize("run", RUNS, ids=name)
def test_a_recipe_starts_the_right_bin(run: Path) -> None:
    expected = {"eval": "evaluate"}.get(step := run.stem.removeprefix("run_"), step)
    assert f'run {expected} "$@"' in run.read_text() or run.parent.parent.name == "mini"


def test_help_and_a_wrong_flag_from_elsewhere_with_spaces(tmp_path: Path) -> None:
    """A link with a space is the same checkout, so the environment fits, and every path of the script has the space."""
    link = tmp_path / "a checkout"
    link.symlink_to(ROOT)
    cwd = tmp_path / "some folder"
    cwd.mkdir()
    script = link / "egs/tta/audioldm/run_train.sh"
    helped = sh(script, "--help", cwd=cwd, PYTHON=sys.executable)
    assert helped.returncode == 0 and "--resume" in helped.stdout, helped.stderr
    assert helped.stdout.startswith("usage: run_train.sh ")
    refused = sh(script, "--resmue", cwd=cwd, PYTHON=sys.executable)
    assert refused.returncode == 2
    assert "run_train.sh: unknown flag --resmue, did you mean --resume?" in refused.stderr
    assert refused.stderr.count("\n") == 1
    relative = sh(Path("../a checkout/egs/tta/audioldm/run_train.sh"), "--help", cwd=cwd, PYTHON=sys.executable)
    assert relative.returncode == 0
    assert not list(cwd.iterdir())


def test_a_config_on_the_command_line_wins(tmp_path: Path) -> None:
    done = sh(ROOT / "egs/tta/audioldm/run_train.sh", "--config", "no such.json", cwd=tmp_path, PYTHON=sys.executable)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no such.json: ")


@pytest.mark.skipif(
    subprocess.run(["env", "--block-signal=INT", "true"], capture_output=True).returncode != 0, reason="not GNU env"
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_any_moment_of_the_start_is_no_traceback(number: int, code: int, tmp_path: Path) -> None:
    command = [SHELL, str(ROOT / "egs/tta/audioldm/run_inference.sh"), "--text", "x", "--output_dir", str(tmp_path)]
    env = os.environ | {"PYTHON": sys.executable}
    for seconds in (0.03, 0.12, 0.2, 0.3, 0.6):
        # a test that runs in the background may ignore Ctrl-C, and so would the command
        restore = functools.partial(signal.signal, number, signal.SIG_DFL)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, preexec_fn=restore)
        time.sleep(seconds)
        process.send_signal(number)
        errors = process.communicate()[1]
        assert process.returncode in (code, -number) and errors in ("", "interrupted\n"), (seconds, errors)


# The environment, with substitutes for python and pip, because the real ones need minutes and a network.

FAKE_PYTHON = r"""#!/bin/sh
# Answers the calls of _run.sh: the version, `-P -c` (imports this checkout?), `-m venv`, `-m pip`, a script.
here=$(dirname -- "$0")
case "$*" in
*version_info*) exit 0 ;;
"-P -c"*) [ -e "$here/../sonolume-installed" ] ;;
"-m venv"*)
    for last; do :; done
    echo venv >>"$CALLS"
    mkdir -p "$last/bin" && cp "$0" "$last/bin/python"
    ;;
"-m pip"*)
    echo pip >>"$CALLS"
    for last; do :; done
    echo "Installing $last"
    echo "WARNING: of pip"
    echo "      Successfully uninstalled setuptools"
    if [ -n "${PIP_WAITS:-}" ]; then sleep 2; fi
    if [ -n "${PIP_FAILS:-}" ]; then echo "No space left on device"; exit 1; fi
    : >"$here/../sonolume-installed"
    ;;
*) printf '%s\n' "ran" "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the scripts in a path with spaces, and next to it a folder `path` with the only Python."""
    copy = tmp_path / "my checkout"
    shutil.copytree(ROOT / "egs", copy / "egs")
    path = tmp_path / "path"
    path.mkdir()
    (path / "python3").write_text(FAKE_PYTHON)
    (path / "python3").chmod(0o755)
    for tool in ("sh", "dirname", "mkdir", "rm", "tail", "grep", "cat", "cp", "sleep"):
        (path / tool).symlink_to(str(shutil.which(tool)))
    return copy


def first_use(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = checkout / "egs/tta/audioldm/run_inference.sh"
    path = str(checkout.parent / "path")
    return sh(script, *arguments, cwd=checkout.parent, PATH=path, CALLS=str(checkout / "calls"), **environment)


def calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().split()


def test_first_use_makes_the_environment_once(checkout: Path) -> None:
    done = first_use(checkout, "--text", "a b")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "ran",
        f"{checkout}/bins/inference.py",
        "--config",
        f"{checkout}/egs/tta/audioldm/exp_config.json",
        "--text",
        "a b",
    ]
    assert f"first use: creating {checkout}/.venv" in done.stderr
    again = first_use(checkout)
    assert (again.returncode, again.stderr) == (0, "")
    assert calls(checkout) == ["venv", "pip"]
    assert not (checkout / ".venv-lock").exists()


def test_a_failed_installation_shows_why_and_is_made_anew(checkout: Path) -> None:
    failed = first_use(checkout, PIP_FAILS="1")
    assert failed.returncode == 1
    assert "No space left on device" in failed.stderr
    assert f"{checkout}/.venv-setup.log" in failed.stderr
    leftover = checkout / ".venv/half"
    leftover.touch()
    assert first_use(checkout).returncode == 0
    assert not leftover.exists()
    assert calls(checkout) == ["venv", "pip", "venv", "pip"]


def test_an_environment_of_the_user_is_added_to(checkout: Path) -> None:
    own = checkout / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    own.write_text(FAKE_PYTHON)
    own.chmod(0o755)
    assert first_use(checkout).returncode == 0
    assert calls(checkout) == ["pip"]


def test_the_set_up_reports_its_progress(checkout: Path) -> None:
    sleep = checkout.parent / "path/sleep"
    real = sleep.resolve()
    sleep.unlink()
    sleep.write_text(f'#!/bin/sh\ncase $1 in 1) exec {real} 0.01 ;; *) exec {real} "$1" ;; esac\n')
    sleep.chmod(0o755)
    lines = first_use(checkout, PIP_WAITS="1").stderr.splitlines()
    assert re.fullmatch(rf"sonolume: +10 s: Installing {re.escape(str(checkout))[:20]}.*", lines[2])
    assert lines[3].startswith("sonolume:   20 s: Installing")


def test_two_at_once_make_one_environment(checkout: Path) -> None:
    command = [SHELL, str(checkout / "egs/tta/audioldm/run_inference.sh")]
    env = {"PATH": str(checkout.parent / "path"), "CALLS": str(checkout / "calls"), "PIP_WAITS": "1"}
    both = [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert calls(checkout) == ["venv", "pip"]


def test_an_interrupted_set_up_leaves_no_lock(checkout: Path) -> None:
    command = [SHELL, str(checkout / "egs/tta/audioldm/run_inference.sh")]
    env = {"PATH": str(checkout.parent / "path"), "CALLS": str(checkout / "calls"), "PIP_WAITS": "1"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (checkout / "calls").exists() or calls(checkout) != ["venv", "pip"]:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert not (checkout / ".venv-lock").exists()
    assert (checkout / ".venv/unfinished").exists()


def test_a_lock_of_a_killed_process_is_taken_over(checkout: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    (checkout / ".venv-lock").mkdir()
    (checkout / ".venv-lock/pid").write_text(f"{dead.pid}\n")
    assert first_use(checkout).returncode == 0


def test_no_python(checkout: Path) -> None:
    (checkout.parent / "path/python3").unlink()
    done = first_use(checkout)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Python >= 3.11 found") and done.stderr.count("\n") == 1


def test_a_python_of_another_checkout_is_refused(checkout: Path) -> None:
    wrong = first_use(checkout, PYTHON=sys.executable)  # it has this checkout, not the copy
    assert wrong.returncode == 2
    assert "does not have this sonolume" in wrong.stderr and f'-m pip install -e "{checkout}"' in wrong.stderr
    missing = first_use(checkout, PYTHON="/no/python")
    assert missing.returncode == 2
    assert "PYTHON=/no/python is not a Python >= 3.11" in missing.stderr


def test_an_environment_of_before_the_package_had_an_init_is_renewed(tmp_path: Path) -> None:
    (tmp_path / "sonolume").mkdir()
    (tmp_path / "sonolume" / "utils").symlink_to(ROOT / "utils")
    script = ROOT / "egs/tta/audioldm/run_train.sh"
    refused = sh(script, "--help", cwd=tmp_path, PYTHON=sys.executable, PYTHONPATH=str(tmp_path))
    assert refused.returncode == 2 and "does not have this sonolume" in refused.stderr
