"""Imported first by every script: Ctrl-C and SIGTERM end it without a traceback, also while the rest is imported.

Processes that it forks, and those of a distributed training, end with the one that started them. Nothing happens in a
program that only imports the commands, such as a test.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType

from sonolume.utils.allocator import keep_freed_memory

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PARENT_CHECK = 1.0  # seconds between two checks that the parent still lives


def exit_at_once(number: int, frame: FrameType | None = None) -> None:
    """Exit with 128 + signal: before and after the work there is nothing to clean up."""
    if number == signal.SIGINT:
        os.write(2, b"interrupted\n")
    os._exit(128 + number)


def exit_with_parent() -> None:
    """Exit soon after the parent process has ended, also if it is killed, whatever the other threads wait for."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:  # another process adopts the children of one that has ended
        time.sleep(PARENT_CHECK)
    os._exit(1)


def _is_command() -> bool:
    """Test whether this process runs a file of bins/; False in worker processes."""
    main = sys.modules["__main__"]
    folder = os.path.dirname(os.path.realpath(getattr(main, "__file__", None) or ""))
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    return main.__name__ == "__main__" and folder == os.path.join(root, "bins")


def start_command() -> None:
    """Handle signals and the end of the parent in this process, which runs a command, and set its allocator."""
    for number in SIGNALS:
        signal.signal(number, exit_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # egs/_run.sh blocks SIGINT until here
    os.register_at_fork(after_in_child=exit_with_parent)  # data loaders, and train.strategy=ddp_fork
    keep_freed_memory()
    if "LOCAL_RANK" in os.environ:  # started by Lightning or torchrun
        exit_with_parent()


if _is_command():
    start_command()
