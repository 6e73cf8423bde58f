"""The cells of the notebooks run without Jupyter, with small parameters; their outputs are not stored."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

EGS = Path(__file__).resolve().parent.parent / "egs"
NOTEBOOKS = sorted(EGS.rglob("*.ipynb"))
SMALL = {"TRAIN_SCENES": 16, "VALID_SCENES": 4, "STEPS": 2, "SOUNDS": 1, "DRAWING_STEPS": 1}  # of train_me.ipynb


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def run(path: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run the cells in one namespace; `parameters` replace those of the cell that is tagged so."""
    names: dict[str, Any] = {}
    for cell in code_cells(path):
        exec(compile("".join(cell["source"]), f"{path.name} {cell['id']}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= names.keys()
            names |= parameters
    return names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_cleared(path: Path) -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_cells(path))


def test_audio2img_is_trained_in_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(EGS / "a2i/audio2img/train_me.ipynb", {**SMALL, "FOLDER": str(tmp_path)})
    assert found["curves"]["val/contrastive"][-1][0] + 1 == SMALL["STEPS"]
    assert found["after"]["E_mse"] != found["before"]["E_mse"] and found["after"]["R@1_audio_to_text"] <= 1
    assert found["config"].run_dir.parent == tmp_path and (found["config"].run_dir / "pipeline").is_dir()
    for name in ("one_sound.png", "pictures.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
    assert "by chance ln 8 = 2.079" in capsys.readouterr().out
