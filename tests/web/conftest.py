"""A running app for the tests of one file."""

import signal
from collections.abc import Iterator

import pytest

from tests.web.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a free port of this computer, with small limits."""
    pytest.importorskip("gradio")
    one = Server(tmp_path_factory.mktemp("web"), "--max_seconds", "5", "--max_upload_mb", "1", "--max_queue", "3")
    try:
        yield one.wait()
    finally:
        one.end(signal.SIGKILL)
