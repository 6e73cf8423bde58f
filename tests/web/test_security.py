"""The app against strangers: every row of the list of threats, against a running server.

The server is a process of its own that can connect to this computer only (tests/web/server.py).
"""

import http.client
import io
import json
import os
import re
import signal
import socket
import stat
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import psutil
import pytest
import soundfile

from sonolume.utils.errors import UserError
from sonolume.web.generation import MAX_AGE, Generation
from sonolume.web.settings import Settings
from tests.web.client import API, Api, file_data
from tests.web.server import Server

ROOT = Path(__file__).resolve().parents[2]
MARKUP = "<img src=x onerror=alert(1)>'\"`$(touch pwned)`; [a](javascript:alert(2)) **b** {{7*7}} ${7*7}\\..\\../../x"
STRANGE: list[Any] = [  # values for every parameter
    None, True, -1, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", "x" * 100_000, MARKUP, "\0\x1b]0;a\x07\ud800",
    [], [[1e9, -1e9]], {}, {"a": {"b": []}}, [None] * 100, "/etc/passwd", "http://127.0.0.1:1/a", ["__class__"],
]  # fmt: skip
FOREIGN = [  # files that nobody uploaded
    "/etc/passwd", "/proc/self/environ", "../../../../etc/passwd", "server.log", "", ".", "~/.bashrc",
    str(ROOT / "LICENSE"), "http://127.0.0.1:1/a.wav", "https://169.254.169.254/latest", "file:///etc/passwd",
    "http://localhost:1/a.wav", "ftp://127.0.0.1/a", "HTTP://example.invalid/a.wav", "//example.invalid/a",
    "\\\\host\\share", "a\0b", "x" * 5000,
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, with small limits."""
    pytest.importorskip("gradio")
    one = Server(tmp_path_factory.mktemp("web"), "--max_seconds", "5", "--max_upload_mb", "1", "--max_queue", "3")
    try:
        yield one.wait()
    finally:
        one.end(signal.SIGKILL)


@pytest.fixture
def api(server: Server, request: pytest.FixtureRequest) -> Iterator[Api]:
    """A session of its own."""
    with Api(server.url, session=request.node.name[:40]) as one:
        yield one


def assert_one_line(error: Any) -> None:
    """Check that a refusal is short, in one line, and tells nothing about the server."""
    text = (error if isinstance(error, str) else json.dumps(error)).replace("/etc/passwd", "")  # what was sent
    assert len(text) < 3000, text[:3000]
    assert "Traceback" not in text, text[:3000]
    assert "\\n" not in text, text[:3000]
    assert not re.search(r"(?<![\w<])/(home|work|tmp|usr|root|etc|proc)/", text), text[:3000]


def assert_answer(status: int, outcome: Any) -> None:
    """Check that a call gave results, or was refused in one line."""
    assert status in (200, 400, 404, 413, 422, 500, 503), (status, outcome)
    if status != 200 or not isinstance(outcome, list):
        assert_one_line(outcome)


def text_to_sound(api: Api, **values: Any) -> list[Any]:
    status, outcome = api.call("/text_to_sound", **values)
    assert status == 200, outcome
    assert isinstance(outcome, list), outcome
    return outcome


def wavs(api: Api, outcome: list[Any]) -> list[bytes]:
    paths = [one["path"] for one in outcome[0] if one["path"].endswith(".wav")]
    return [api.file(path).content for path in paths]


# Files


def test_files_of_the_server_are_not_read(api: Api, server: Server) -> None:
    secret, folder = server.folder / "empty" / "secret.txt", server.folders()[0]
    secret.write_text("secret")
    (folder / "link.txt").symlink_to("/etc/passwd")
    for path in (*FOREIGN, "secret.txt", str(secret), f"{folder}/link.txt", str(folder), f"{folder}/../../log.txt",
                 "/proc/self/root/etc/passwd"):  # fmt: skip
        for name in (path, quote(path.replace("\ud800", ""), safe="")):
            answer = api.file(name) if "\0" not in name else api.file(quote(name))
            assert answer.status_code in (403, 404), (name, answer.text)
            assert_one_line(answer.text)
    for path in ("/gradio_api/proxy=https://example.invalid", "/gradio_api/proxy=http://127.0.0.1:1/",
                 "/../../etc/passwd", "/static/../../../../etc/passwd", "/assets/..%2f..%2f..%2fetc/passwd",
                 "/svelte/%2e%2e/%2e%2e/etc/passwd", "/gradio_api/file/etc/passwd",
                 "/gradio_api/custom_component/a/client/component/index.js",
                 "/gradio_api/stream/a/0/1/playlist-file", "/gradio_api/deep_link?session_hash=a"):  # fmt: skip
        answer = raw_get(server, path)
        assert answer in (403, 404), (path, answer)


def raw_get(server: Server, path: str, **headers: str) -> int:
    """Status of a request whose path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", path, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_paths_and_addresses_are_no_inputs(api: Api) -> None:
    """Neither in a parameter, nor in a list, nor as the address of a file, nor in an event of the page."""
    own = api.upload("a.wav", b"x").json()[0]
    foreign = [file_data(path) for path in FOREIGN] + [
        file_data(own, url="http://127.0.0.1:1/a.wav"), file_data(own, url="data:image/png;base64,AAAA"),
        {"path": None, "url": "http://127.0.0.1:1/a.png"}, {"url": "file:///etc/passwd"}, {"path": "/etc/passwd"},
        file_data(own, url=f"http://127.0.0.1/gradio_api/file={own}x"), [{"image": file_data("/etc/passwd")}],
    ]  # fmt: skip
    for one in foreign:
        for path in ("/call/text_to_sound", "/call/v2/text_to_sound", "/queue/join", "/run/predict"):
            body = {"data": [one], "text": one, "session_hash": "a", "fn_index": 1}
            answer = api.post(path, body)
            assert answer.status_code == 400, (path, one, answer.text)
            assert_one_line(answer.text)
    good = file_data(own, url=f"http://any/root/gradio_api/file={quote(own)}")
    assert api.post("/queue/join", {"data": [good], "fn_index": 1}).status_code == 400  # for another reason:
    assert "Session hash" in api.post("/queue/join", {"data": [good], "fn_index": 1}).text


def test_uploads(api: Api, server: Server) -> None:
    page = api.upload("evil.html", b"<script>alert(1)</script>").json()[0]
    for headers in ({}, {"Range": "bytes=0-5"}, {"Range": "bytes=9-1"}, {"Range": "bytes=x"}):
        answer = api.file(page, headers=headers)
        if answer.status_code < 400:
            assert answer.headers["content-type"].startswith("application/octet-stream"), headers
            assert answer.headers["content-disposition"].startswith("attachment"), headers
            assert answer.headers["x-content-type-options"] == "nosniff"
    vector = api.upload("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>").json()[0]
    assert api.file(vector).headers["content-disposition"].startswith("attachment")
    for name in ("../../../tmp/x.wav", "/etc/x.wav", "..\\..\\x.wav", "a/../../x", "..", ".", MARKUP, "x" * 3000, ".a"):
        answer = api.upload(name, b"a")
        assert answer.status_code in (200, 400), (name, answer.text)
        if answer.status_code == 200:
            path = Path(answer.json()[0])
            assert path.resolve().parent.parent == server.folders()[0].resolve(), name
        else:
            assert_one_line(answer.text)
    assert not list(server.folder.rglob("pwned"))


def test_large_requests(api: Api, server: Server) -> None:
    before = sum(1 for _ in server.folders()[0].rglob("*"))
    assert api.upload("a.wav", bytes(3 * 2**20)).status_code == 413
    assert api.upload("a.wav", bytes(2**20 + 5)).status_code == 413  # by Gradio
    assert api.post("/queue/join", {"data": ["x" * 2**20], "fn_index": 1, "session_hash": "a"}).status_code == 413
    chunks = (b"x" * 2**16 for _ in range(100))
    assert api.http.post(f"{API}/queue/join", content=chunks).status_code == 413
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    assert api.http.post(f"{API}/upload", content=iter([b"--b\r\n"]), headers=form).status_code == 411
    both = {**form, "Content-Length": "10", "Transfer-Encoding": "chunked"}  # the second one would decide
    assert api.http.post(f"{API}/upload", content=iter([b"--b\r\n"]), headers=both).status_code in (400, 411)
    with socket.create_connection(("127.0.0.1", server.port)) as one:  # a size, and no bytes: answered at once
        one.sendall(b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n")
        one.settimeout(10)
        assert b" 413 " in one.recv(100)
    for body in (b"[" * 100_000, b"{", b'{"data": 1' + b"0" * 10_000 + b"}", "\ufeff{}".encode(), b"\xff\xfe\x00",
                 b"null", b"[]"):  # fmt: skip
        answer = api.http.post(f"{API}/queue/join", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), (body[:20], answer.text)
    assert sum(1 for _ in server.folders()[0].rglob("*")) == before


# Who asks


def test_requests_of_other_sites(api: Api, server: Server) -> None:
    body = {"data": [], "fn_index": 1, "session_hash": "a"}
    own = f"http://127.0.0.1:{server.port}"
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
                    {"Sec-Fetch-Site": "cross-site", "Origin": own}, {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
        for path in ("/queue/join", "/run/predict", "/call/text_to_sound", "/cancel", "/upload"):
            assert api.post(path, body, headers=headers).status_code == 403, (path, headers)
        answer = api.get("/config", headers=headers)
        assert "evil" not in answer.headers.get("access-control-allow-origin", "")
        assert answer.headers.get("access-control-allow-origin") in (None, "http://127.0.0.1:1", own)
    text = api.post("/queue/join", body, headers={"Content-Type": "text/plain"})  # of a form of another page
    assert text.status_code == 422
    cancel = {"session_hash": "a", "fn_index": 1, "event_id": "b"}
    assert api.post("/cancel", cancel, headers={"Origin": own}).status_code == 200


def test_names_of_the_server(server: Server) -> None:
    for name in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", "", "[::2]", "a b", "["):
        assert raw_get(server, "/config", Host=name) in (400, 403), name
    for name in ("localhost", f"127.0.0.1:{server.port}", "[::1]:80"):
        assert raw_get(server, "/config", Host=name) == 200


def test_closed_addresses(api: Api) -> None:
    for path in ("/monitoring", "/monitoring/summary", "/monitoring/a", "/openapi.json", "/docs", "/redoc",
                 *(API + name for name in ("/docs", "/openapi.json", "/runs", "/dev/reload", "/vibe-code", "/token",
                                           "/profiling/traces", "/mcp", "/mcp/sse"))):  # fmt: skip
        assert api.get(path).status_code == 404, path
    for path in ("/api/text_to_sound", "/run/text_to_sound", "/run/text_to_sound/", "/api/predict",
                 "/component_server", "/process_recording", "/vibe-edit", "/vibe-code", "/stream/a",
                 "/run-history/connect", "/mcp"):  # fmt: skip
        assert api.post(path, {"data": [], "session_hash": "a"}).status_code == 404, path
    for number in queued_events(api):
        assert api.private(number, [], queued=False).status_code == 404, number
    assert api.http.request("TRACE", "/").status_code == 404
    assert api.http.put("/config").status_code == 404
    assert set(api.endpoints()) <= {"/text_to_sound", "/edit_sound", "/sound_to_picture", "/picture_to_sound",
                                    "/speech_to_picture"}  # fmt: skip


def queued_events(api: Api) -> list[int]:
    return [one["id"] for one in api.get("/config").json()["dependencies"] if one["queue"]]


def test_headers(api: Api) -> None:
    for path in ("/", "/config", "/theme.css"):
        headers = api.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'self'" in policy
        assert "*" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_forwarding_headers_count_only_behind_a_proxy(api: Api) -> None:
    for name in ("X-Forwarded-Host", "X-Gradio-Server", "Forwarded"):
        assert "evil.example" not in api.http.get("/config", headers={name: "http://evil.example"}).text
    origin = {"Origin": "http://127.0.0.1:9"}  # a page of another server on this computer
    assert api.http.get("/config", headers=origin).status_code == 403


def test_many_files_in_one_request_are_refused(api: Api) -> None:
    many = {"data": [{"path": "a"}] * 51, "fn_index": 0, "session_hash": "a"}
    assert api.http.post(f"{API}/queue/join", json=many).status_code == 400


def test_pages_tell_nothing_about_the_server(api: Api) -> None:
    for path in ("/", "/config", f"{API}/info", "/theme.css"):
        text = api.get(path).text
        for folder in (str(ROOT), str(Path.home()) + "/"):  # that of the uploads is in the addresses of files
            assert folder not in text, path


# What is sent


def test_strange_values_quickly(api: Api) -> None:
    """A few strange values of each kind for the endpoint that exists in every installation."""
    for name, value in {"num_steps": float("nan"), "seed": 1e308, "num_samples": 10**30, "preset": {}}.items():
        status, outcome = api.call("/text_to_sound", **{name: value})
        assert not isinstance(outcome, list), name
        assert_answer(status, outcome)
    for values in ([], [None] * 50, ["x"]):
        assert_answer(*api.call_values("/text_to_sound", values))


@pytest.mark.full
def test_strange_values(api: Api) -> None:
    """Each strange value for each parameter of each public endpoint: a result, or a refusal of one line."""
    for name, parameters in api.endpoints().items():
        for parameter in parameters:
            for value in [*STRANGE, *map(file_data, FOREIGN[:5])]:
                if parameter["parameter_name"] == "num_steps" and value in (None, True, ""):
                    continue  # a long generation
                assert_answer(*api.call(name, **{parameter["parameter_name"]: value}))
    assert_still_serving(api)


@pytest.mark.full
def test_strange_values_for_events_of_the_page(api: Api) -> None:
    """Events that are not in the documentation can be called by everyone."""
    for event in api.get("/config").json()["dependencies"]:
        count = len(event["inputs"])
        for values in ([], [None] * count, ["x"] * count, [{}] * count, [float("nan")] * count, [MARKUP] * (count + 1),
                       [[]] * count, None, "x", {}, [-1] * count):  # fmt: skip
            for queued in (True, False):
                outcome = api.private(event["id"], values, queued)
                if isinstance(outcome, httpx.Response):
                    assert outcome.status_code in (200, 404, 422, 500), outcome.text
                    outcome = outcome.text
                if "error" in str(outcome):
                    assert_one_line(without_inputs(outcome))
    for number in (-1, 10**9, "x", None, {}):
        outcome = api.private(number, [])  # type: ignore[arg-type]
        assert isinstance(outcome, httpx.Response), number
        assert outcome.status_code >= 400
    assert_still_serving(api)


def without_inputs(outcome: Any) -> str:
    """A message of FastAPI without the value that was sent."""
    return re.sub(r'"input":.*', "", outcome if isinstance(outcome, str) else json.dumps(outcome))


def assert_still_serving(api: Api) -> None:
    assert len(wavs(api, text_to_sound(api))) == 1


@pytest.mark.full
def test_text_stays_text(api: Api, server: Server) -> None:
    """In names of files, in the sidecar, in the zip and in what the page shows; and nobody else gets the results."""
    outcome = text_to_sound(api, text=MARKUP, negative_text=MARKUP, seed=7)
    files, _, status = outcome[:3]
    assert "<img" not in status
    assert [Path(one["path"]).suffix for one in files] == [".wav", ".png", ".json", ".zip"]
    for one in files:
        assert re.fullmatch(r"\w+\.\w+", Path(one["path"]).name), one
        assert Path(one["path"]).resolve().is_relative_to(server.folders()[0].resolve())
    assert "onerror=alert(1)" in json.dumps(api.file(files[2]["path"]).json())
    with zipfile.ZipFile(io.BytesIO(api.file(files[3]["path"]).content)) as archive:
        assert all(re.fullmatch(r"\w+\.\w+", name) for name in archive.namelist())
        sidecar = next(archive.read(name).decode() for name in archive.namelist() if name.endswith(".json"))
    for folder in (ROOT, server.folder, Path.home()):
        assert f"{folder}/" not in sidecar
    assert not list(server.folder.rglob("pwned"))

    shown = next(one["id"] for one in api.get("/config").json()["dependencies"] if one["api_name"] == "apply")
    mine = json.dumps(api.private(shown, [None]))
    assert Path(files[0]["path"]).name in mine
    with Api(server.url, session="somebody else") as other:
        assert Path(files[0]["path"]).name not in json.dumps(other.private(shown, [None]))
        assert Path(files[0]["path"]).name not in json.dumps(other.private(shown, [[{"title": "x"}]]))
        for path in ("/config", f"{API}/info", f"{API}/queue/status"):
            assert api.session not in other.get(path).text


def test_unexpected_errors(api: Api, server: Server) -> None:
    """The log has the traceback; the client a line without it."""
    status, outcome = api.call("/text_to_sound", seed={"a": 1})
    assert_answer(status, outcome)
    assert not isinstance(outcome, list)
    assert "Traceback" in server.log()


def test_no_other_host_is_asked(api: Api, server: Server) -> None:
    for path in ("/", "/config", f"{API}/info"):
        api.get(path)
    assert "FOREIGN" not in server.log()


@pytest.mark.full
def test_no_other_host_is_asked_for_a_generation(api: Api, server: Server) -> None:
    text_to_sound(api)
    assert "FOREIGN" not in server.log()


def test_temporary_folder(server: Server) -> None:
    (folder,) = server.folders()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.getuid()
    assert [one.name for one in (server.folder / "empty").iterdir()] in ([], ["secret.txt"])  # of another test


def test_old_and_refused_results_are_deleted(tmp_path: Path) -> None:
    old, recent = tmp_path / "take-old", tmp_path / "take-recent"
    for folder, age in (old, MAX_AGE + 10), (recent, MAX_AGE - 100):
        folder.mkdir()
        (folder / "a.wav").touch()
        os.utime(folder, (time.time() - age, time.time() - age))

    def refuse(**_: Any) -> None:
        raise UserError("no")

    with pytest.raises(UserError):
        next(Generation(Settings(), tmp_path).run("tta/audioldm", "a", refuse))
    assert list(tmp_path.iterdir()) == [recent]


# Many


@pytest.mark.full
def test_queue_is_bounded(api: Api, server: Server) -> None:
    """Generations beyond --max_queue are refused with one line; those that wait can be cancelled."""
    values = list((api.defaults("/text_to_sound") | {"num_steps": 200}).values())
    answers = [api.post("/call/text_to_sound", {"data": values, "session_hash": f"q{number}"}) for number in range(8)]
    events = [(f"q{number}", one.json()["event_id"]) for number, one in enumerate(answers) if one.status_code == 200]
    refused = [one for one in answers if one.status_code == 503]
    assert len(events) + len(refused) == 8
    assert len(events) <= 5  # those that wait, and one or two that run
    assert_one_line(refused[0].text)
    number = next(one["id"] for one in api.get("/config").json()["dependencies"] if one["api_name"] == "text_to_sound")
    start = time.monotonic()
    for session, event in reversed(events):
        answer = api.post("/cancel", {"session_hash": session, "fn_index": number, "event_id": event})
        assert answer.status_code == 200
    outcome = text_to_sound(api, seed=3)
    assert time.monotonic() - start < 20
    assert len(wavs(api, outcome)) == 1


@pytest.mark.full
def test_stop(api: Api, server: Server) -> None:
    """A cancelled generation ends with its step, and the next one is that of an unused server."""
    gradio_client = pytest.importorskip("gradio_client")
    expected = wavs(api, text_to_sound(api, seed=3))
    client = gradio_client.Client(server.url, verbose=False, download_files=False)
    job = client.submit("A bell rings", num_steps=200, num_samples=8, random_seed=False, api_name="/text_to_sound")
    while "step" not in str(job.outputs()[-1:]):
        time.sleep(0.05)
        assert not job.done()
    takes = set(server.folders()[0].glob("take-*"))
    job.cancel()
    start = time.monotonic()
    while len(set(server.folders()[0].glob("take-*"))) >= len(takes):  # its folder goes when its thread has ended
        time.sleep(0.02)
        assert time.monotonic() - start < 5
    assert wavs(api, text_to_sound(api, seed=3)) == expected
    assert threads(server, "generation") == 0


def threads(server: Server, name: str) -> int:
    """Number of threads of a name."""
    folder = Path(f"/proc/{server.process.pid}/task")
    return sum(name in (one / "comm").read_text() for one in folder.iterdir())


@pytest.mark.full
def test_client_that_leaves(api: Api, server: Server) -> None:
    """The generation of a client that closes its connection ends."""
    values = list((api.defaults("/text_to_sound") | {"num_steps": 200, "num_samples": 8}).values())
    event = api.post("/call/text_to_sound", {"data": values, "session_hash": "leaves"}).json()["event_id"]
    with httpx.stream("GET", f"{server.url}{API}/call/text_to_sound/{event}", timeout=20) as lines:
        next(lines.iter_lines())
    start = time.monotonic()
    assert len(wavs(api, text_to_sound(api, seed=3))) == 1
    assert time.monotonic() - start < 20


@pytest.mark.full
def test_three_clients_at_once(server: Server) -> None:
    """Each gets what it gets alone."""
    def generate(number: int, session: str) -> list[bytes]:
        with Api(server.url, session=f"{session}{number}") as one:
            return wavs(one, text_to_sound(one, text=f"A bell rings {number}", seed=number, num_steps=3, num_samples=2))

    alone = [generate(number, "alone") for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(generate, range(3), ["together"] * 3))
    assert together == alone
    assert len({one for files in alone for one in files}) == 6
    assert all(np.abs(soundfile.read(io.BytesIO(one))[0]).max() > 0 for files in alone for one in files)


@pytest.mark.full
def test_memory(server: Server) -> None:
    """200 requests, good ones and others, of many sessions."""
    process = psutil.Process(server.process.pid)

    def requests(count: int, name: str) -> None:
        for number in range(count):
            with Api(server.url, session=f"{name}{number}") as one:
                if number % 2:
                    text_to_sound(one, seed=number)
                else:
                    assert_answer(*one.call("/text_to_sound", seed=-number - 1))
                one.upload("a.wav", bytes(1000 + number))

    requests(30, "warm")
    before = process.memory_info().rss
    requests(200, "many")
    assert process.memory_info().rss - before < 50 * 2**20
    assert process.num_threads() < 60


# Start and end


def with_users(folder: Path, *lines: str) -> Path:
    path = folder / "users.txt"
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    return path


@pytest.mark.full
def test_login(tmp_path: Path) -> None:
    server = Server(tmp_path, "--auth_file", str(with_users(tmp_path, "ann:correct horse", "bob:b:c")))
    try:
        server.wait()
        with Api(server.url) as one:
            for path in ("/config", *(API + name for name in ("/info", "/queue/status", "/queue/data?session_hash=a"))):
                assert one.get(path).status_code == 401, path
            assert one.file("/etc/passwd").status_code == 401
            for path in ("/queue/join", "/call/text_to_sound", "/run/predict", "/upload", "/cancel"):
                assert one.post(path, {"data": [], "session_hash": "a", "fn_index": 1}).status_code == 401, path
            assert one.get(f"{API}/heartbeat/a").status_code == 401
            assert one.get(f"{API}/startup-events").status_code == 200  # of the health check
            page = one.get("/").text  # Gradio tells the names and defaults of the API, which are those of our source
            assert '"auth_required":true' in page
            assert '"components":[],"dependencies":[]' in page
            for name, password in ("ann", "wrong"), ("ann", ""), ("", ""), ("bob", "b"), ("ann", "x" * 9999):
                answer = one.http.post("/login", data={"username": name, "password": password})
                assert answer.status_code in (400, 422), (name, answer.text)
                assert one.get("/config").status_code == 401
            answer = one.http.post("/login", data={"username": "bob", "password": "b:c"})
            assert answer.status_code == 200
            assert all("httponly" in cookie.lower() for cookie in answer.headers.get_list("set-cookie"))
            assert one.get("/config").status_code == 200
        for secret in ("correct horse", "b:c"):
            assert secret not in server.log()
            assert secret not in " ".join(psutil.Process(server.process.pid).cmdline())
    finally:
        server.end()


@pytest.mark.full
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_end_during_a_generation(tmp_path: Path, number: int, code: int) -> None:
    """The temporary folder is removed, soon, and also when a page is open and a model is at work."""
    server = Server(tmp_path).wait()
    with Api(server.url) as one:
        values = list((one.defaults("/text_to_sound") | {"num_steps": 200, "num_samples": 8}).values())
        one.post("/call/text_to_sound", {"data": values, "session_hash": "a"})
        listening = threading.Thread(target=listen, args=(server,))
        listening.start()
        while "0/200" not in server.log() and "/200" not in server.log():
            time.sleep(0.05)
        assert server.folders()
        start = time.monotonic()
        assert server.end(number) == code, server.log()[-3000:]
    listening.join()
    assert time.monotonic() - start < 30
    assert not server.folders()
    assert "Traceback" not in server.log()


def listen(server: Server) -> None:
    """Stay connected as an open page does."""
    try:
        with httpx.stream("GET", f"{server.url}{API}/heartbeat/a", timeout=60) as lines:
            list(lines.iter_lines())
    except httpx.HTTPError:
        pass


@pytest.mark.full
def test_folders_of_killed_servers(tmp_path: Path) -> None:
    """They go with the next start; those of running servers stay."""
    killed = Server(tmp_path).wait()
    killed.end(signal.SIGKILL)
    (left,) = killed.folders()
    (tmp_path / "next").mkdir()
    following = Server(tmp_path / "next", temporary=tmp_path / "temporary").wait()
    (tmp_path / "last").mkdir()
    last = Server(tmp_path / "last", temporary=tmp_path / "temporary").wait()
    assert not left.exists()
    assert len(killed.folders()) == 2
    assert following.end() == last.end() == 143
    assert not killed.folders()


@pytest.mark.full
def test_port_in_use(tmp_path: Path, server: Server) -> None:
    other = Server(tmp_path, "--port", str(server.port))
    assert other.process.wait(60) == 2
    assert len(other.log().strip().splitlines()) == 1, other.log()
    assert str(server.port) in other.log()
    assert not other.folders()
