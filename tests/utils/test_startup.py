"""Processes end with the one that started them, also if it is killed."""

import signal
import subprocess
import sys
import time

KILLED = """
import os, signal, time
from sonolume.utils import startup
if os.fork() == 0:
    startup.exit_with_parent()
    print("started", flush=True)
    time.sleep(60)
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_forked_process_ends_with_its_parent() -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)  # waits for both
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "started\n")
    assert time.monotonic() - started < 30
