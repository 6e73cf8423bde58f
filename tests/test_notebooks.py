"""The cells of the notebooks run without Jupyter, with small parameters; their outputs are not stored."""

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from sonolume.models.runtime import SILENCE_PEAK
from sonolume.models.tta.audioldm.task import Task
from sonolume.utils import audio

EGS = Path(__file__).resolve().parent.parent / "egs"
NOTEBOOKS = sorted(EGS.rglob("*.ipynb"))
SMALL = {"TRAIN_SCENES": 16, "VALID_SCENES": 4, "STEPS": 2, "SOUNDS": 1, "DRAWING_STEPS": 1}  # of train_me.ipynb


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def run(path: Path, parameters: dict[str, Any], last: str = "") -> dict[str, Any]:
    """Run the cells in one namespace, up to that with the id `last`.

    `parameters` replace those of the cell that is tagged so.
    """
    names: dict[str, Any] = {}
    for cell in code_cells(path):
        exec(compile("".join(cell["source"]), f"{path.name} {cell['id']}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= names.keys()
            names |= parameters
        if cell["id"] == last:
            break
    return names


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Everything that cells display, in place of Jupyter's own functions: pictures, and keywords of `Audio`."""
    found: list[Any] = []
    display: Any = ModuleType("IPython.display")
    display.Audio = lambda data=None, **keywords: {"data": data} | keywords
    display.display = lambda *objects: found.extend(objects)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return found


def check_wav(path: Path, seconds: float) -> None:
    wave = audio.load(path, 16000)
    assert len(wave) == round(seconds * 16000) and abs(wave).max() > SILENCE_PEAK


def check_picture(path: Path) -> None:
    with Image.open(path) as picture:
        assert min(picture.size) > 100 and len(set(picture.convert("L").tobytes())) > 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_cleared(path: Path) -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_cells(path))


def test_audio2img_is_trained_in_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(EGS / "a2i/audio2img/train_me.ipynb", {**SMALL, "FOLDER": str(tmp_path)})
    assert found["curves"]["val/contrastive"][-1][0] + 1 == SMALL["STEPS"]
    assert found["after"]["E_mse"] != found["before"]["E_mse"] and found["after"]["R@1_audio_to_text"] <= 1
    assert found["config"].run_dir.parent == tmp_path and (found["config"].run_dir / "pipeline").is_dir()
    for name in ("one_sound.png", "pictures.png"):
        check_picture(tmp_path / name)
    assert "by chance ln 8 = 2.079" in capsys.readouterr().out


def test_words_become_sounds(tmp_path: Path, shown: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    small = {"FOLDER": str(tmp_path), "STEPS": 2, "SEEDS": [0, 1], "SCALES": [1, 4]}
    found = run(EGS / "tta/audioldm/words_to_sound.ipynb", small)
    for name, seconds in (("bell", 2.56), ("rain", 2.56), ("rain_then_bell", 2.56), ("long_rain", 7.68)):
        check_wav(tmp_path / f"{name}.wav", seconds)
        check_picture(tmp_path / f"{name}.png")
    for name in ("seeds.png", "strengths.png"):
        check_picture(tmp_path / name)
    first, second = found["barks"][4].audios
    assert abs(first - second).max() > SILENCE_PEAK and abs(found["barks"][1].audios[0] - first).max() > SILENCE_PEAK
    assert "the beginning is unchanged: True" in capsys.readouterr().out
    assert not (found["changed"].audios == found["rain"].audios).all()
    assert sum(isinstance(one, dict) for one in shown) == 4 + 2 + 1  # players


OWN_SOUNDS = EGS / "tta/audioldm/your_own_sounds.ipynb"


def test_the_example_is_learned_from(tmp_path: Path, shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "_preview", lambda task: None)  # 20 steps of denoising at every validation
    found = run(OWN_SOUNDS, {"FOLDER": str(tmp_path), "STEPS": 2, "SEEDS": [0], "DENOISING_STEPS": 2})
    assert (len(found["rows"]), found["text"]) == (12, "A backward bell")
    assert len(found["losses"]) == 3 and all(map(math.isfinite, found["losses"]))
    assert found["losses"][-1] < found["losses"][0]
    assert found["exported"] == tmp_path / "backward_bells_run" / "pipeline"
    check_wav(tmp_path / "after_0.wav", 2.56)
    assert (found["after"].audios != found["before"].audios).any()
    for name in ("recording.png", "sounds.png"):
        check_picture(tmp_path / name)


def test_own_sounds_are_prepared(tmp_path: Path, shown: list[Any]) -> None:
    mine = tmp_path / "my sounds"
    mine.mkdir()
    source = EGS / "s2i/wavy/examples/a bell rings.wav"
    for number in range(2):
        (mine / f"{number}.wav").write_bytes(source.read_bytes())
        (mine / f"{number}.txt").write_text("Somebody speaks\n")
    found = run(OWN_SOUNDS, {"FOLDER": str(tmp_path / "run"), "SOUNDS": str(mine)}, last="cell-06")
    assert (len(found["rows"]), found["text"]) == (2, "Somebody speaks")
    assert found["config"].run_dir == tmp_path / "run" / "my sounds_run"
    assert found["mel"].shape[0] == 80
    check_picture(tmp_path / "run/recording.png")


def test_a_sound_becomes_pictures(tmp_path: Path, shown: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    found = run(EGS / "a2i/audiotoken/sound_to_picture.ipynb", {"FOLDER": str(tmp_path), "STEPS": 2})
    check_wav(tmp_path / "dog.wav", 2.56)
    check_wav(tmp_path / "story.wav", 4 * 2.56)
    assert found["tags"][0][0] == "dog" and "dog.wav, 2.56 s: dog " in capsys.readouterr().out
    for name in ("pictures.png", "words.png", "mix.png", "storyboard.png"):
        check_picture(tmp_path / name)
    assert len({picture.tobytes() for (picture,) in found["columns"]}) == len(found["columns"])
    assert len(found["windows"]) == 4 and len(shown) == 5
