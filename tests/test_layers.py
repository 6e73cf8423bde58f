"""Import rules: utils <- config <- modules <- preprocessors <- models <- web <- bins; all packages are declared."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["utils", "config", "modules", "preprocessors", "models", "web", "bins"]
HEAVY = ["torch", "numpy", "transformers", "diffusers", "pytorch_lightning", "librosa", "scipy"]
START_UP = ["sonolume.utils.errors", "sonolume.utils.cli", "sonolume.utils.paths", "sonolume.utils.files"]
START_UP += ["sonolume.utils.manifest", "sonolume.config.command"]
IMPORT_NAMES = {"pytorch-lightning": "pytorch_lightning", "hydra-core": "hydra", "pillow": "PIL", "pyyaml": "yaml"}
INDIRECT = {"accelerate", "tensorboard", "s3fs", "gcsfs"}  # used by other packages on our behalf


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward(layer: str, names: Iterator[str]) -> list[str]:
    """Imports of a higher layer, or of a folder by its bare name."""
    higher = LAYERS[LAYERS.index(layer) + 1 :]
    parts = [name.split(".") for name in names]
    wrong = [p for p in parts if (p[0] == "sonolume" and p[1] in higher) or p[0] in LAYERS]
    return [".".join(p) for p in wrong]


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_downward(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {str(file.relative_to(ROOT)): upward(layer, imports(ast.parse(file.read_text()))) for file in files}
    assert not {file: names for file, names in wrong.items() if names}


def requirements() -> set[str]:
    """Import names of all packages in setup.py except the development tools."""
    (call,) = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
               if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"]  # fmt: skip
    values = {one.arg: one.value for one in call.keywords}
    extras = ast.literal_eval(values["extras_require"])
    used = extras.keys() - {"dev", "full"}
    lists = [ast.literal_eval(values["install_requires"]), *(extras[extra] for extra in used)]
    names = {re.split(r"[<>=\[]", requirement)[0] for names in lists for requirement in names}
    return {IMPORT_NAMES.get(name, name) for name in names}


def test_imported_packages_are_declared_and_declared_ones_imported() -> None:
    files = [file for layer in LAYERS for file in (ROOT / layer).rglob("*.py")]
    imported = {name.split(".")[0] for file in files for name in imports(ast.parse(file.read_text()))}
    third_party = imported - set(sys.stdlib_module_names) - {"sonolume", "environment"}  # a file of bins/
    assert third_party == requirements() - INDIRECT


def test_an_upward_import_is_found() -> None:
    source = "from sonolume.models import tta\nfrom sonolume.utils import audio\nimport config.base\nimport json"
    assert upward("config", imports(ast.parse(source))) == ["sonolume.models.tta", "config.base"]


def test_egs_holds_no_python() -> None:
    assert not list((ROOT / "egs").rglob("*.py"))


def test_start_up_imports_nothing_heavy() -> None:
    """--help and config errors appear in well under a second."""
    recipes = sorted(f"sonolume.config.{f.parent.name}.{f.stem}" for f in (ROOT / "config").glob("*/[a-z]*.py"))
    assert recipes
    code = f"import sys, {', '.join(START_UP + recipes)}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_inference_imports_no_trainer() -> None:
    files = [f for name in ("pipeline", "inference") for f in (ROOT / "models").rglob(f"{name}.py")]
    assert files
    wrong = [f for f in files if any("lightning" in name for name in imports(ast.parse(f.read_text())))]
    assert not wrong
