"""What reaches Gradio: known addresses, bodies of bounded size, files that were uploaded, pages of this server."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sonolume.utils.errors import UserError
from sonolume.web.page import log_unexpected
from sonolume.web.settings import LOOPBACK, Settings
from sonolume.web.uploads import check_upload

MEGABYTE = 2**20
MAX_BODY = MEGABYTE  # bytes of a request that is no upload
MAX_TEXT = 2000  # characters of one text; Gradio's messages repeat what it cannot use
MAX_FORMS = MEGABYTE  # bytes of an upload besides its files
MAX_UPLOADS = 100  # largest uploads that the folder of uploads and results may hold
MIN_DISK_SPACE = 500 * MEGABYTE  # bytes that uploads leave free
API = "/gradio_api/"
FILE = API + "file="

# Gradio has more: it fetches addresses (proxy=), saves sessions (deep_link), and runs ffmpeg (process_recording).
PAGES = {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/logout"}
READ = PAGES | {API + name for name in (
    "app_id", "info", "login_check", "queue/data", "queue/status", "startup-events", "theme.css", "upload_progress",
    "user",
)}  # fmt: skip
READ_BELOW = ("/assets/", "/static/", "/svelte/", API + "call/", API + "heartbeat/")
WRITE = {"/login", *(API + name for name in ("cancel", "queue/join", "reset", "upload"))}
WRITE_BELOW = (API + "call/", API + "run/")
ASKS_FOR_LOGIN = (*WRITE_BELOW, API + "heartbeat/", API + "file", API + "queue/")

# The page and all that it shows come from this server. Gradio's page needs inline scripts, functions made of text, and
# for videos a script that the page itself has made.
CONTENT_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}


FORWARDED = (b"forwarded", b"x-forwarded-", b"x-gradio-server")  # beginnings of the names of headers
MAX_FILES = 50  # objects in one request that may be files


class Refused(Exception):
    """A request that is not served; `status` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """ASGI middleware that refuses requests which the page and its API do not need.

    Args:
        folder: of uploads and results, GRADIO_TEMP_DIR.
    """

    def __init__(self, app: ASGIApp, settings: Settings, folder: Path) -> None:
        self.app, self.settings, self.folder = app, settings, folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if not (self.settings.root_path or self.settings.allowed_host):  # there is no proxy that has written them
            scope = {**scope, "headers": [one for one in scope["headers"] if not one[0].lower().startswith(FORWARDED)]}
        try:
            if scope["type"] != "http":
                raise Refused(404, "no such address")
            receive = await self._checked(scope, Headers(scope=scope), receive)
        except Refused as refused:
            response = JSONResponse({"detail": str(refused)}, refused.status)
            await response(scope, receive, self._with_headers(send))
            return
        await self._serve(scope, receive, self._with_headers(send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio answer; an unexpected error becomes one line."""
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except Exception as error:
            text = log_unexpected(error)
            if not started:
                await JSONResponse({"detail": text}, 500)(scope, receive, send)

    async def _checked(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Return what the request is to be read from; raises Refused."""
        path, writes = scope["path"].rstrip("/") or "/", scope["method"] not in ("GET", "HEAD")
        check_host(headers, self.settings)
        check_address(path, scope["method"])
        check_login(path, scope)
        if path.startswith(FILE):
            check_read(scope["path"].removeprefix(FILE))
        check_origin(headers, writes)
        if not writes:
            return receive
        if path == API + "upload":
            check_upload_size(headers, self.settings, self.folder)
            return receive
        body = await read_body(headers, receive)
        if path.startswith(API):
            check_files(body)
        return _replay(body, receive)

    def _with_headers(self, send: Send) -> Send:
        frames = "" if self.settings.is_public else "; frame-ancestors 'self'"  # Spaces show the app in a frame

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update({**HEADERS, "Content-Security-Policy": CONTENT_POLICY + frames})
            await send(message)

        return send_with_headers


def check_host(headers: Headers, settings: Settings) -> None:
    """Refuse foreign names of a local server: a page from elsewhere may have its name point here (DNS rebinding)."""
    allowed = {*settings.allowed_host, *LOOPBACK}
    name = _split("//" + headers.get("host", "")).hostname
    if name not in allowed and (settings.allowed_host or not settings.is_public):
        raise Refused(403, "this server does not go by that name: start it with --allowed_host NAME")


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError as error:
        raise Refused(400, "not a name of a server") from error


def check_address(path: str, method: str) -> None:
    """Refuse what is neither part of the page nor of the API."""
    if method in ("GET", "HEAD"):
        known = path in READ or path.startswith((*READ_BELOW, FILE))
    else:
        known = method == "POST" and (path in WRITE or path.startswith(WRITE_BELOW))
    if not known:
        raise Refused(404, "no such address")


def check_login(path: str, scope: Scope) -> None:
    """Refuse those who are not logged in also where Gradio does not ask, such as at cancel and heartbeat."""
    app = scope["app"]
    if app.auth is None or path not in WRITE and not path.startswith(ASKS_FOR_LOGIN):
        return
    cookies = cookie_parser(Headers(scope=scope).get("cookie", ""))
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    if path != "/login" and not any(cookies.get(name) in app.tokens for name in names):
        raise Refused(401, "not logged in")


def check_read(path: str) -> None:
    """Refuse files outside the folder of uploads and results; whether they exist is not told."""
    try:
        check_upload(path, "file")
    except UserError as error:
        raise Refused(403, "no such file") from error


def check_origin(headers: Headers, writes: bool) -> None:
    """Refuse requests that another page sends in the name of the user who visits it, and that it reads.

    A link on another page sends no origin.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and writes:
        foreign = site not in ("same-origin", "none")
    else:  # browsers tell only secure and local servers; programs send neither
        hosts = (headers.get("host"), headers.get("x-forwarded-host"))
        foreign = origin is not None and _split(origin).netloc not in hosts
    if foreign:
        raise Refused(403, "a page of another site sent this request")


def check_upload_size(headers: Headers, settings: Settings, folder: Path) -> None:
    """Refuse uploads that are too large, or for which there is no space."""
    length, largest = headers.get("content-length", ""), settings.max_upload_mb * MEGABYTE
    if not length.isascii() or not length.isdigit() or "transfer-encoding" in headers:
        raise Refused(411, "an upload must tell its size")
    if int(length) > largest + MAX_FORMS:
        raise Refused(413, f"the upload is larger than {settings.max_upload_mb} MB")
    stored = sum(file.stat().st_size for file in _files(folder))
    if stored + int(length) > MAX_UPLOADS * largest or shutil.disk_usage(folder).free < MIN_DISK_SPACE + int(length):
        raise Refused(507, "the server has no space for uploads at the moment")


def _files(folder: Path) -> Iterator[Path]:
    return (Path(place, name) for place, _, names in os.walk(folder) for name in names if Path(place, name).is_file())


async def read_body(headers: Headers, receive: Receive) -> bytes:
    """Read a whole request of at most `MAX_BODY` bytes."""
    length = headers.get("content-length", "0")
    too_large = Refused(413, f"the request is larger than {MAX_BODY} bytes")
    if length.isascii() and length.isdigit() and int(length) > MAX_BODY:
        raise too_large
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused(400, "the request ended early")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise too_large
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Receive the body that was read, then what comes after it."""
    rest = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return rest.pop() if rest else await receive()

    return receive_again


def check_files(body: bytes) -> None:
    """Refuse JSON in which a file is an address, or not in the folder of uploads and results."""
    if not body.strip():
        return
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the request is not JSON") from error
    pending, objects = [content], 0
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            objects += "path" in one or "url" in one
            if objects > MAX_FILES:
                raise Refused(400, f"the request names more than {MAX_FILES} files")
            check_file(one.get("path"), one.get("url"))
            pending += one.values()
        elif isinstance(one, list):
            pending += one
        elif isinstance(one, str) and len(one) > MAX_TEXT:
            raise Refused(400, f"a text has {len(one)} characters, at most {MAX_TEXT} are read: shorten it")


def check_file(path: Any, url: Any) -> None:
    """Check an object that may be a file: its path, and its address on this server, which must be that of the path."""
    if isinstance(url, str) and url:
        _, own, named = url.partition(FILE)
        if not own or not isinstance(path, str) or unquote(named) != path:
            raise Refused(400, "addresses are not read: upload the file")
    if isinstance(path, str):
        try:
            check_upload(path, "file")
        except UserError as error:
            raise Refused(400, str(error)) from error
