"""egs/_slurm.sh with substitutes for SLURM's commands, as on a cluster where sbatch runs a copy of the script."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHELL = shutil.which("dash") or "sh"
SRUN = """#!/bin/sh
printf '%s\\n' srun "$@" >>"$CALLS"
if [ -n "${CANCEL:-}" ]; then kill -TERM "$PPID"; fi
exit "${CODE:-0}"
"""
SCONTROL = """#!/bin/sh
printf '%s\\n' scontrol "$@" >>"$CALLS"
"""
TRAIN = "egs/tta/audioldm/run_train.sh"
Submit = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def submit(tmp_path: Path) -> Submit:
    """submit(arguments, NAME=value): run a job; its exit code, the words of its calls, and its messages."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    copy = Path(shutil.copy(ROOT / "egs" / "_slurm.sh", tmp_path / "slurm_script"))

    def run(*arguments: str, **variables: str) -> tuple[int, list[str], str]:
        calls = tmp_path / "calls"
        calls.write_text("")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        path = f"{tmp_path}:{os.environ['PATH']}"
        environment = {**clean, "SLURM_JOB_ID": "7", "CALLS": str(calls), "PATH": path, **variables}
        done = subprocess.run([SHELL, str(copy), *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)
        return done.returncode, calls.read_text().splitlines(), done.stderr

    return run


def test_a_training_gets_the_nodes_of_the_job_and_resumes(submit: Submit):
    code, calls, _ = submit(TRAIN, "exp_name=a b", SLURM_NNODES="4", SLURM_NTASKS_PER_NODE="8")
    assert code == 0
    shape = ["--auto_resume", "train.num_nodes=4", "train.devices=8"]
    assert calls == ["srun", "--kill-on-bad-exit=1", "sh", TRAIN, *shape, "exp_name=a b"]


def test_a_task_of_an_array_gets_its_part(submit: Submit):
    script = "egs/tta/audioldm/run_preprocess.sh"
    task = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "64"}
    _, calls, _ = submit(script, "--dataset", "a b", **task)
    assert calls[2:] == ["sh", script, "--part", "3/64", "--dataset", "a b"]
    _, calls, _ = submit(script, PARTS="100", CODE="143", **task)
    assert calls[2:] == ["sh", script, "--part", "3/100", "scontrol", "requeue", "5_3"]


@pytest.mark.parametrize(
    ("variables", "code", "requeued"),
    [({"CODE": "143"}, 0, True), ({"CODE": "143", "CANCEL": "yes"}, 143, False), ({"CODE": "1"}, 1, False)],
    ids=["time limit", "scancel", "failure"],
)
def test_only_a_job_at_its_time_limit_is_queued_again(
    variables: dict[str, str], code: int, requeued: bool, submit: Submit
):
    found, calls, errors = submit(TRAIN, **variables)
    assert found == code and 128 + signal.SIGTERM == 143
    assert (calls[-3:] == ["scontrol", "requeue", "7"]) == requeued
    assert ("queued again" in errors) == requeued


def test_wrong_use_is_one_line(submit: Submit):
    for arguments, variables in (([], {}), ([TRAIN], {"SLURM_JOB_ID": ""}), (["no such.sh"], {})):
        code, calls, errors = submit(*arguments, **variables)
        assert (code, calls, errors.count("\n")) == (2, [], 1)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    checked = subprocess.run(["shellcheck", "-s", "sh", "egs/_slurm.sh"], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
