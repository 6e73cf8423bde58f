"""Requests to the app as any program can make them."""

import json
from typing import Any

import httpx

API = "/gradio_api"
QUICK = {"num_steps": 1, "num_samples": 1, "random_seed": False, "seed": 0}  # values of parameters by their names


class Api:
    """Client of one session of a running app.

    Args:
        session: its name.
    """

    def __init__(self, url: str, session: str = "a") -> None:
        self.session = session
        self.http = httpx.Client(base_url=url, timeout=120, trust_env=False)

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(path, **more)

    def post(self, path: str, content: Any, **more: Any) -> httpx.Response:
        """Send JSON, in which NaN and infinity are allowed."""
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        return self.http.post(API + path, content=json.dumps(content), headers=headers, **more)

    def endpoints(self) -> dict[str, list[dict[str, Any]]]:
        """Names of the public endpoints, with their parameters."""
        return {name: one["parameters"] for name, one in self.get(f"{API}/info").json()["named_endpoints"].items()}

    def defaults(self, name: str) -> dict[str, Any]:
        """Values of the parameters of an endpoint that make a quick generation."""
        found = {one["parameter_name"]: one.get("parameter_default") for one in self.endpoints()[name]}
        return found | {key: value for key, value in QUICK.items() if key in found}

    def call(self, name: str, **values: Any) -> tuple[int, Any]:
        """Call a public endpoint; return the HTTP status with the refusal, or 200 with the outcome."""
        return self.call_values(name, list((self.defaults(name) | values).values()))

    def call_values(self, name: str, values: list[Any]) -> tuple[int, Any]:
        answer = self.post(f"/call{name}", {"data": values, "session_hash": self.session})
        if answer.status_code != 200:
            return answer.status_code, answer.text
        return 200, self.outcome(name, answer.json()["event_id"])

    def outcome(self, name: str, event: str) -> Any:
        """Wait for the end; return the list of results, or the error."""
        kind = ""
        with self.http.stream("GET", f"{API}/call{name}/{event}") as lines:
            for line in lines.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif kind in ("complete", "error"):
                    return json.loads(line.removeprefix("data: "))
        raise AssertionError("the stream ended early")

    def private(self, number: int, values: Any, queued: bool = True) -> Any:
        """Call an event of the page by its number; return the last message, or the answer."""
        body = {"data": values, "fn_index": number, "session_hash": self.session}
        if not queued:
            return self.post("/run/predict", body)
        answer = self.post("/queue/join", body)
        if answer.status_code != 200:
            return answer
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") in ("process_completed", "unexpected_error"):
                    return message
        raise AssertionError("the stream ended early")

    def upload(self, name: str, content: bytes) -> httpx.Response:
        return self.http.post(f"{API}/upload", files={"files": (name, content)})

    def file(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(f"{API}/file={path}", **more)


def file_data(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}
