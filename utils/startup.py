"""Imported first by every command: Ctrl-C and SIGTERM end it without a traceback, also while the rest is imported.

Nothing happens in a program that only imports the commands, such as a test.
"""

import os
import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_at_once(number: int, frame: FrameType | None = None) -> None:
    """Exit with 128 + signal: before and after the work there is nothing to clean up."""
    if number == signal.SIGINT:
        os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _is_command() -> bool:
    """Test whether this process runs a file of bins/; False in worker processes."""
    main = sys.modules["__main__"]
    folder = os.path.dirname(os.path.realpath(getattr(main, "__file__", None) or ""))
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    return main.__name__ == "__main__" and folder == os.path.join(root, "bins")


if _is_command():
    for _number in SIGNALS:
        signal.signal(_number, exit_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # egs/_run.sh blocks SIGINT until here
