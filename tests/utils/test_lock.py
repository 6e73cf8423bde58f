import subprocess
import sys
from pathlib import Path

HOLD = """
import sys, pathlib
from sonolume.utils import lock
with lock.alone(pathlib.Path(sys.argv[1]), "counting"):
    print("inside", flush=True)
    sys.stdin.readline()
"""


def test_one_at_a_time_and_the_killed_block_nobody(tmp_path: Path):
    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLD, str(tmp_path / "new folder" / ".lock")]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    first = start()
    assert first.stdout and first.stdout.readline() == "inside\n"
    second = start()
    assert second.stderr and second.stderr.readline() == "another process is counting: waiting for it\n"
    first.kill()
    first.communicate()
    out, _ = second.communicate("go on\n")
    assert (out, second.returncode) == ("inside\n", 0)
