"""sonolume publish: what is checked, what is listed, and exactly which files are sent, against a stub of the hub."""

import json
import shutil
import socket
import struct
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from safetensors.numpy import save_file

from sonolume.bins import publish as command
from sonolume.models import card, publish
from sonolume.models.evaluation.samples import weights_version
from sonolume.utils import cli

FILES = {"README.md", "config.json", "mel.json", "model.safetensors"}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A small exported folder with its card."""
    folder = tmp_path / "run" / "pipeline"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL", "ch": 4}')
    (folder / "mel.json").write_text('{"frames": 160}')
    save_file({"weight": np.zeros(3, np.float32)}, folder / "model.safetensors")
    card.write(folder)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a connection")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class Hub:
    """Stands for HfApi; records its calls, and the files that a folder's upload would send."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.sent: set[str] = set()
        self.is_private = True
        self.error: Exception | None = None

    def __call__(self, **_: Any) -> "Hub":
        return self

    def create_repo(self, repo_id: str, **more: Any) -> Any:
        if self.error:
            raise self.error
        self.calls.append(("create_repo", {"repo_id": repo_id, **more}))
        return SimpleNamespace(repo_id=repo_id)

    def repo_info(self, repo_id: str) -> Any:
        return SimpleNamespace(private=self.is_private)

    def create_branch(self, repo_id: str, **more: Any) -> None:
        self.calls.append(("create_branch", more))

    def upload_folder(self, *, folder_path: Path, allow_patterns: list[str], **more: Any) -> Any:
        self.calls.append(("upload_folder", more))
        names = [path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()]
        self.sent = {name for name in names if any(fnmatch(name, pattern) for pattern in allow_patterns)}
        return SimpleNamespace(commit_url="https://hub/commit", pr_url="https://hub/pr")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, with somebody logged in."""
    stub = Hub()
    monkeypatch.setattr(publish, "HfApi", stub)
    monkeypatch.setattr(publish, "get_token", lambda: "token")
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    return stub


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(folder: Path | str, *flags: str, repo: str = "me/bells") -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        code = cli.run(command.main, [str(folder), repo, *flags])
        out, err = capsys.readouterr()
        return code, out, err

    return run


Run = Callable[..., tuple[int, str, str]]


@pytest.mark.usefixtures("no_network")
def test_a_dry_run_lists_and_contacts_nobody(exported: Path, run: Run) -> None:
    (exported / "notes.log").write_text("x")
    (exported / ".secret").write_text("x")
    (exported / "own.py").write_text("x")
    before = {path: path.read_bytes() for path in exported.iterdir()}
    code, out, err = run(exported, "--dry_run", "--license", "mit")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert {row[2] for row in rows if len(row) == 3} == FILES
    assert ["in", "4", "files"] in [row[2:] for row in rows]
    assert {row[2] for row in rows if row[:2] == ["not", "sent"]} == {"notes.log", ".secret", "own.py"}
    assert "nothing was sent" in out
    assert {path: path.read_bytes() for path in exported.iterdir()} == before


def test_exactly_these_files_are_sent(exported: Path, run: Run, hub: Hub) -> None:
    (exported / "pipeline.py").write_text("from .mel import Mel\nfrom torch import nn\n")
    for name in ("mel.py", "own.py", "notes.log", "model[1].png", "model1.png.log"):
        (exported / name).write_text("x")
    (exported / "unet" / ".cache").mkdir(parents=True)
    for name in ("config.json", ".cache/config.json"):
        (exported / "unet" / name).write_text("{}")
    code, out, err = run(exported, "--license", "cc-by-nc-4.0", "--private")
    assert (code, err, out.splitlines()[-1]) == (0, "", "https://hub/commit")
    assert hub.sent == FILES | {"pipeline.py", "mel.py", "unet/config.json", "model[1].png"}
    (created, upload) = hub.calls
    assert created == ("create_repo", {"repo_id": "me/bells", "private": True, "exist_ok": True})
    assert upload[0] == "upload_folder" and upload[1]["revision"] is None and not upload[1]["create_pr"]
    assert ModelCard.load(exported / "README.md").data.license == "cc-by-nc-4.0"
    assert not list(exported.glob(".tmp-*"))
    assert run(exported)[0] == 0  # the licence is set now


def test_pull_requests_and_branches(exported: Path, run: Run, hub: Hub) -> None:
    code, out, _ = run(exported, "--license", "mit", "--pr")
    assert code == 0 and out.splitlines()[-1] == "https://hub/pr" and hub.calls[-1][1]["create_pr"]
    assert run(exported, "--revision", "v1")[0] == 0
    assert hub.calls[-2] == ("create_branch", {"branch": "v1", "exist_ok": True})
    assert hub.calls[-1][1]["revision"] == "v1"
    assert "choose one" in run(exported, "--revision", "v1", "--pr")[2]


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (HTTPError("name resolution failed"), "name resolution"), (OSError("broken pipe"), "broken pipe"),
        (ValueError("token not found"), "token"),
    ],
)  # fmt: skip
def test_the_hub_does_not_answer(error: Exception, named: str, exported: Path, run: Run, hub: Hub) -> None:
    hub.error = error
    assert_mistake(run(exported, "--license", "mit"), named, "me/bells")
    assert issubclass(HfHubHTTPError, HTTPError) and not hub.sent


def test_a_public_repository_is_not_taken_for_a_private_one(exported: Path, run: Run, hub: Hub) -> None:
    hub.is_private = False
    assert_mistake(run(exported, "--license", "mit", "--private"), "public", "--private")
    assert not hub.sent


def test_without_a_login_or_network(exported: Path, run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "get_token", lambda: None)
    assert_mistake(run(exported, "--license", "mit"), "hf auth login", "HF_TOKEN")
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    assert_mistake(run(exported, "--license", "mit"), "HF_HUB_OFFLINE")
    assert not hub.calls and not ModelCard.load(exported / "README.md").data.license


def assert_mistake(result: tuple[int, str, str], *named: str) -> None:
    code, _, err = result
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert all(name in err for name in named), err


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def link(name: str, target: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(target)


def local_header(folder: Path) -> None:
    save_file({"weight": np.zeros(3)}, folder / "model.safetensors", {"base_model": "/home/anna/base"})


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (write("last.ckpt", ""), ("last.ckpt", "safetensors")),
        (write("unet/weights.BIN", ""), ("unet/weights.BIN", "safetensors")),
        (write("optimizer.safetensors", ""), ("optimizer.safetensors", "optimizer")),
        (write("weights.txt", b"\x80\x04\x95"), ("weights.txt", "pickle")),
        (write("tokenizer.model", b"PK\x03\x04rest"), ("tokenizer.model", "zip")),
        (write("model.safetensors", struct.pack("<Q", 99)), ("model.safetensors", "cut")),
        (lambda folder: (folder / "model.safetensors").unlink(), ("no weights",)),
        (write("mel.json", '{"frames"'), ("mel.json", "cannot be read")),
        (write("mel.json", b"\xff"), ("mel.json", "cannot be read")),
        (write("mel.json", '{"a": [{"from": "/srv/models/clip"}]}'), ("mel.json", "a.from", "/srv/models/clip")),
        (write("mel.json", '{"note": "made in /home/anna/x"}'), ("mel.json", "note", "/home/anna/x")),
        (write("mel.json", '{"from": "C:\\\\Users\\\\anna"}'), ("mel.json", "anna")),
        (write("notes.md", "see ~/runs/bells\n"), ("notes.md", "~/runs/bells")),
        (write("notes.txt", f"{Path.home()}/x"), ("notes.txt", str(Path.home()))),
        (write("notes.md", f"hf_{'a' * 34}"), ("notes.md", "access token")),
        (local_header, ("model.safetensors", "base_model", "/home/anna/base")),
        (link("weights.json", "/etc/hostname"), ("weights.json", "link out")),
        (link("gone.json", "nowhere.json"), ("gone.json", "link to nothing")),
        (link("unet", "."), ("unet", "link to a folder")),
        (write("README.md", "# mine\n"), ("README.md", "head")),
        (write("README.md", "---\nlicense: [\n---\n"), ("README.md", "head")),
        (write("README.md", "---\ntags: [a]\n---\n"), ("README.md", "no licence", "--license")),
        (write("README.md", "---\nlicense: other\n---\n"), ("README.md", "license_name")),
        (write("README.md", "---\nlicense: mit\n---\n/home/anna/x"), ("README.md", "/home/anna/x")),
    ],
)
def test_what_is_refused(change: Callable[[Path], object], named: tuple[str, ...], exported: Path, run: Run) -> None:
    is_card = named[0] == "README.md"
    change(exported)
    assert_mistake(run(exported, "--dry_run", *([] if is_card else ["--license", "mit"])), *named)


@pytest.mark.usefixtures("no_network")
def test_several_reasons_are_all_printed(exported: Path, run: Run) -> None:
    (exported / "notes.md").write_text("/home/anna/x")
    (exported / "mel.json").write_text("{")
    code, out, err = run(exported, "--dry_run")
    assert code == 2 and not out and err.count("\n") == 4
    assert all(name in err for name in ("notes.md", "mel.json", "no licence", "3 reasons"))


@pytest.mark.usefixtures("no_network")
def test_wrong_arguments(exported: Path, run: Run, tmp_path: Path) -> None:
    dry = ("--dry_run", "--license", "mit")
    assert_mistake(run(tmp_path / "nowhere", *dry), "no such folder")
    assert_mistake(run(exported / "mel.json", *dry), "is a file")
    assert_mistake(run(tmp_path, *dry), "no exported model")
    (exported.parent / "checkpoints").mkdir()
    assert_mistake(run(exported.parent, *dry), "is a run", str(exported))
    assert_mistake(run(exported, *dry, repo="a/b/c"), "a/b/c", "owner/name")
    assert_mistake(run(exported, "--dry_run", "--license", "MIT"), "--license MIT", "lower case")
    assert_mistake(run(exported, *dry, "--report", str(tmp_path / "none.json")), "none.json")
    assert_mistake(run(exported, *dry, "--report", str(exported / "mel.json")), "not a report")
    assert_mistake(run(exported, *dry, "--token", "x"), "--token")


def test_settings_that_name_folders_which_nobody_else_has(exported: Path, run: Run) -> None:
    (exported / "config.json").unlink()
    settings = {"recipe": "a2i/audiotoken", "beats": "pretrained/beats", "prompt": "a/b <*>"}
    settings |= {"stable_diffusion": "CompVis/stable-diffusion-v1-4", "judge": "pretrained/mini/clip"}
    (exported / "audio_to_image.json").write_text(json.dumps(settings))
    flags = ("--dry_run", "--license", "mit")
    assert_mistake(run(exported, *flags), "beats", "pretrained/beats")
    (exported / "audio_to_image.json").write_text(json.dumps(settings | {"beats": "me/beats"}))
    assert run(exported, *flags)[0] == 0


def test_scores_of_these_weights_and_of_others(exported: Path, run: Run, hub: Hub, tmp_path: Path) -> None:
    score = {"name": "mel L1", "value": 0.27, "better": "down", "low": 0.26, "high": 0.28, "count": 240, "unit": "nats"}
    report: dict[str, Any] = {"scores": [score], "conditions": {"seed": 0}, "facts": {"weights": "0123456789ab"}}
    path, flags = tmp_path / "report.json", ("--license", "mit", "--report", str(tmp_path))
    path.write_text(json.dumps(report))
    assert_mistake(run(exported, *flags), "other weights")
    report["facts"]["weights"] = weights_version(str(exported))
    path.write_text(json.dumps(report))
    assert run(exported, *flags)[::2] == (0, "")
    found = ModelCard.load(exported / "README.md")
    (result,) = found.data.eval_results or []
    assert (found.data.model_name, result.metric_value) == ("bells", 0.27) and "0.27 nats (0.26 to 0.28)" in found.text
    assert run(exported, *flags)[0] == 0  # the card is not part of the weights
    path.write_text(json.dumps(report | {"facts": {"model": "vae"}}))
    code, _, err = run(exported, *flags)
    assert code == 0 and "does not say which weights" in err


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("part", ["text_to_audio", "audiotoken", "audio2img", "wavy", "im2wav", "clip", "hubert"])
def test_the_shipped_parts_could_be_published(part: str, root: Path, run: Run, tmp_path: Path) -> None:
    """A folder without a card gets one."""
    shutil.copytree(root / "pretrained/mini" / part, tmp_path / part)
    code, out, err = run(tmp_path / part, "--dry_run", "--license", "mit")
    assert (code, err) == (0, "") and "README.md" in out and not (tmp_path / part / "README.md").exists()


def test_the_functions_of_the_hub_exist() -> None:
    for name in ("create_repo", "repo_info", "create_branch", "upload_folder"):
        assert callable(getattr(HfApi, name))
