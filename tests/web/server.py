"""The app in a process of its own, as users run it, that can reach nothing but this computer."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Connections and look-ups of names other than this computer's are written to the log, and fail.
START = """
import runpy, socket, sys
LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", None, b"localhost", b"127.0.0.1")
def only_local(function, address):
    def call(*given, **more):
        target = address(*given)
        if target not in LOCAL:
            print("FOREIGN", target, file=sys.stderr, flush=True)
            raise OSError("no network")
        return function(*given, **more)
    return call
def of_socket(one, to, *given):
    return to[0] if one.family in (socket.AF_INET, socket.AF_INET6) else None
def of_message(one, *given):
    return of_socket(one, given[-1])
socket.socket.connect = only_local(socket.socket.connect, of_socket)
socket.socket.connect_ex = only_local(socket.socket.connect_ex, of_socket)
socket.socket.sendto = only_local(socket.socket.sendto, of_message)
socket.getaddrinfo = only_local(socket.getaddrinfo, lambda host, *given, **more: host)
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Server:
    """A running `bins/web.py`.

    Args:
        folder: of its log and its temporary files.
        flags: of the command line, besides --port and --no_browser.
        temporary: parent of the folder of uploads and results.
    """

    def __init__(self, folder: Path, *flags: str, temporary: Path | None = None) -> None:
        self.folder, self.log_file = folder, folder / "log.txt"
        self.temporary = temporary or folder / "temporary"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "empty").mkdir()
        command = [sys.executable, "-c", START, str(ROOT / "bins" / "web.py"), "--no_browser", "--port", str(self.port)]
        # what users may have set must not open the app
        foreign = {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_SHARE": "True", "GRADIO_ANALYTICS_ENABLED": "True"}
        environment = {**os.environ, **foreign, "GRADIO_TEMP_DIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen([*command, *flags], cwd=folder / "empty", env=environment, stdout=log,
                                            stderr=log)  # fmt: skip

    def wait(self, seconds: float = 60) -> "Server":
        """Wait until it serves."""
        end = time.monotonic() + seconds
        while "Ctrl-C ends it" not in self.log():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.05)
        return self

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def folders(self) -> list[Path]:
        """Folders of uploads and results."""
        return list(self.temporary.iterdir())

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
