"""run_eval.sh --generated of the audio-to-image recipes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sonolume.bins import evaluate
from sonolume.preprocessors.miniworld import SAMPLE_RATE, world
from sonolume.utils import audio, cli


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Real pictures of eight scenes with their sounds, as somebody else's model might have made them."""
    rows = []
    for scene in world.scenes("test", 8, 1, [], False):
        (tmp_path / "made").mkdir(exist_ok=True)
        Image.fromarray(world.picture(scene)).save(tmp_path / "made" / f"{scene.uid}.png")
        Image.fromarray(world.picture(scene)).save(tmp_path / f"{scene.uid}.png")
        audio.save_wav(tmp_path / f"{scene.uid}.wav", world.render(scene), SAMPLE_RATE)
        rows.append({"Uid": scene.uid, "Image": f"{scene.uid}.png", "Audio": f"{scene.uid}.wav",
                     "Label": scene.events[0].kind})  # fmt: skip
    (tmp_path / "test.json").write_text(json.dumps(rows))
    return tmp_path


def run(root: Path, *flags: str) -> int:
    return cli.run(evaluate.main, ["--config", str(root / "egs/a2i/audiotoken/exp_config.json"), *flags])


def test_pictures_that_are_there_are_scored(root: Path, pictures: Path) -> None:
    flags = ["--generated", str(pictures / "made"), "--reference", str(pictures / "test.json")]
    flags += ["--embedder", "mini:world", "--output_dir", str(pictures / "out")]
    assert run(root, *flags) == 0
    report = json.loads((pictures / "out" / "report.json").read_text(encoding="utf-8"))
    scores = {score["name"]: score["value"] for score in report["scores"]}
    assert scores["cosine to the reference mini:world"] == pytest.approx(1)
    assert scores["AIS mini:world"] > 0.8


def test_a_reference_alone_is_refused(root: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--reference", str(pictures / "test.json")) == 2
    assert "--reference needs --generated" in capsys.readouterr().err
