"""The wheel outside of the checkout: the same sound, nothing written into the package, the same files from an sdist."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "tests", "build", "ckpts", "data", "outputs",
                                    "evaluation")  # fmt: skip
SOUND = ["--text", "A bell rings", "--seed", "1"]
pytestmark = pytest.mark.full


def call(*command: Any, cwd: Path, **environment: str) -> str:
    """Run a command without PYTHONPATH and without network, and return its stdout."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SONOLUME"))}
    env |= {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", **environment}
    done = subprocess.run([str(one) for one in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_wheel(source: Path, folder: Path) -> Path:
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    call(sys.executable, "-m", "pip", "wheel", *options, source, cwd=source.parent)
    (wheel,) = folder.glob("sonolume-*.whl")
    return wheel


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, in which builds may leave files."""
    folder = Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("wheel") / "tree", ignore=NOT_COPIED))
    (folder / "build" / "lib" / "sonolume").mkdir(parents=True)
    (folder / "build" / "lib" / "sonolume" / "removed.py").touch()  # left by an earlier build
    return folder


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    return make_wheel(tree, tree.parent / "dist")


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new environment with the wheel; all other packages are those of the running Python, nothing is downloaded."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder)
    python = folder / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    (package,) = folder.glob("lib/*/site-packages/sonolume")
    places = {str(Path(str(one.locate_file(""))).resolve()) for one in importlib.metadata.distributions()}
    (package.parent / "others.pth").write_text("\n".join(sorted(places - {str(ROOT)})))
    inside = [package, *package.rglob("*")]
    for path in inside:
        path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    for path in inside:  # so that pytest can remove it
        path.chmod(path.stat().st_mode | 0o200)


def state(folder: Path) -> set[tuple[str, int]]:
    """Files and their times; root may write in spite of the modes."""
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_the_installed_command_makes_the_sound_of_the_checkout(fresh: Path, tmp_path: Path) -> None:
    (package,) = fresh.glob("lib/*/site-packages/sonolume")
    before = state(package)
    for name in ("installed", "clone"):
        (tmp_path / name).mkdir()
    command = fresh / "bin" / "sonolume"
    call(command, "inference", "tta/audioldm", *SOUND, cwd=tmp_path / "installed")
    script = ROOT / "egs" / "tta" / "audioldm" / "run_inference.sh"
    same_model = ("--checkpoint", ROOT / "pretrained" / "mini" / "text_to_audio")  # whatever was trained in the clone
    call("sh", script, *SOUND, *same_model, cwd=tmp_path / "clone", PYTHON=sys.executable)
    made, expected = ({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
                      for name in ("installed", "clone"))  # fmt: skip
    sound = Path("outputs/A_bell_rings_1.wav")
    assert made.keys() == expected.keys() and made[sound] == expected[sound] and len(made[sound]) > 80_000
    assert f"package            {package} (installed)" in call(command, "info", cwd=tmp_path)
    assert state(package) == before


def test_an_sdist_makes_the_same_wheel(tree: Path, wheel: Path) -> None:
    code = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    call(sys.executable, "-c", code, cwd=tree)
    (sdist,) = (tree / "dist").glob("sonolume-*.tar.gz")
    assert "sonolume/removed.py" not in zipfile.ZipFile(wheel).namelist()
    again = make_wheel(sdist, tree.parent / "again")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
