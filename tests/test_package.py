"""`import sonolume`, and what a wheel holds."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import sonolume

ROOT = Path(__file__).resolve().parent.parent


def test_the_names_of_the_package() -> None:
    from sonolume import AudioToImagePipeline, Im2WavPipeline, TextToAudioPipeline

    assert [kind.__name__ for kind in (AudioToImagePipeline, Im2WavPipeline, TextToAudioPipeline)] == sorted(
        name for name in sonolume.__all__ if name != "__version__"
    )
    assert set(sonolume.__all__) <= set(dir(sonolume))
    assert sonolume.__version__ == version("sonolume")
    with pytest.raises(AttributeError, match="has no attribute 'Im2Wave'"):
        sonolume.Im2Wave  # noqa: B018


def test_importing_it_loads_nothing() -> None:
    code = "import sys, sonolume; dir(sonolume); print(*{'torch', 'numpy', 'diffusers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_a_wheel_holds_the_package_its_configs_and_the_shipped_parts(tmp_path: Path) -> None:
    """`build_py` collects the files; tests/test_wheel.py builds the wheel itself."""
    arguments = ["pip", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    code = f"import sys; sys.argv = {arguments}; __file__ = 'setup.py'; exec(open(__file__).read())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {str(path.relative_to(tmp_path / "sonolume")) for path in tmp_path.rglob("*") if path.is_file()}
    layers = ("bins", "config", "models", "modules", "preprocessors", "utils", "web")
    assert {name.split("/")[0] for name in names} == {"__init__.py", "egs", "pretrained", *layers}
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "egs").rglob("*.json")}
    assert {name for name in names if name.startswith("egs/")} == configs
    parts = {str(path.relative_to(ROOT)) for path in (ROOT / "pretrained/mini").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("pretrained/")} == parts
    present = {str(path.relative_to(ROOT)) for layer in layers for path in (ROOT / layer).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == present | {"__init__.py"}
    assert {Path(name).suffix for name in names if name.split("/")[0] in layers} <= {".py", ".txt", ".js", ".css"}
