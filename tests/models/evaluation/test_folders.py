"""`bins/evaluate.py --generated` on small folders, and the comparison of two such results."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from sonolume.bins import compare, evaluate
from sonolume.preprocessors.miniworld import world
from sonolume.utils import audio, cli
from tests.videos import film

RATE = 16000


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """real: 8 tones; near: the same, quieter; far: noise. near has sidecars with texts."""
    time, random = np.arange(RATE) / RATE, np.random.default_rng(0)
    for number in range(8):
        tone = 0.5 * np.sin(2 * np.pi * 300 * (number + 1) * time)
        for name, wave in (("real", tone), ("near", 0.9 * tone), ("far", 0.3 * random.standard_normal(RATE))):
            audio.save_wav(tmp_path / name / f"{number}.wav", wave.astype(np.float32), RATE)
        (tmp_path / "near" / f"{number}.json").write_text(json.dumps({"text": f"tone {number}"}))
    return tmp_path


def score(root: Path, generated: str, *more: str) -> int:
    config = str(Path(__file__).parents[3] / "egs/tta/audioldm/tiny.json")
    argv = ["--config", config, "--generated", str(root / generated), "--output_dir", str(root / f"{generated}_scored")]
    return cli.run(evaluate.main, [*argv, "--device", "cpu", *more])


def test_the_nearer_folder_wins_the_comparison(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--reference", str(folders / "real"), "--embedder", "mel:", "--embedder", "mel:"]  # given twice
    for name in ("near", "far"):
        assert score(folders, name, *flags, "--cache_dir", str(folders / "cache")) == 0
    report = json.loads((folders / "near_scored" / "report.json").read_text())
    assert {"FAD mel:", "KID mel:", "cosine to the reference mel:"} <= {row["name"] for row in report["scores"]}
    assert len({row["name"] for row in report["scores"]}) == len(report["scores"])
    assert report["conditions"]["generated"] == report["conditions"]["reference"] == 8
    capsys.readouterr()
    assert cli.run(compare.main, [str(folders / "far_scored"), str(folders / "near_scored")]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| FAD mel:"))
    assert row.split("|")[3].strip().startswith("**")


def test_results_of_other_embedders_are_not_ranked(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, embedder in (("near", "mel:"), ("far", "mini:sound_judge")):
        assert score(folders, name, "--reference", str(folders / "real"), "--embedder", embedder) == 0
    assert cli.run(compare.main, [str(folders / "near_scored"), str(folders / "far_scored")]) == 2
    assert "measured differently" in capsys.readouterr().err


@pytest.fixture
def scenes_folder(tmp_path: Path) -> Path:
    """Eight scenes of the miniature world: real pictures and sounds with captions and labels; made: the pictures anew.

    wrong: the pictures of other scenes.
    """
    rows = []
    scenes = list(world.scenes("test", 8, kinds=["bell", "rain", "dog", "clock"], pairs=False))
    for place, scene in enumerate(scenes):
        for name, shown in (("real", scene), ("made", scene), ("wrong", scenes[place - 3])):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(world.picture(shown)).save(tmp_path / name / f"{scene.uid}.png")
        audio.save_wav(tmp_path / "real" / f"{scene.uid}.wav", world.render(scene), RATE)
        files = {"Image": f"{scene.uid}.png", "Audio": f"{scene.uid}.wav"}
        words = {"Caption": world.captions(scene, 1, "test")[0], "Label": scene.events[0].kind}
        rows.append({"Uid": scene.uid, **files, **words})
    (tmp_path / "real" / "metadata.json").write_text(json.dumps(rows))
    return tmp_path


def test_pictures_are_scored_against_everything_of_their_rows(scenes_folder: Path) -> None:
    found = {}
    for name in ("made", "wrong"):
        (scenes_folder / name / "bad.png").write_text("no picture")
        flags = ["--reference", str(scenes_folder / "real"), "--embedder", "mini:world"]
        assert score(scenes_folder, name, *flags, "--cache_dir", str(scenes_folder / "cache")) == 0
        report = json.loads((scenes_folder / f"{name}_scored" / "report.json").read_text())
        found[name] = {row["name"].removesuffix(" mini:world"): row["value"] for row in report["scores"]}
        assert [Path(entry[0]).name for entry in report["left_out"]] == ["bad", "bad.png"]
    made, wrong = found["made"], found["wrong"]
    assert made["FID"] == pytest.approx(0, abs=1e-5) and made["class accuracy"] == 1
    higher = ("cosine to the reference", "CLIP score", "AIS", "AIS cosine", "IIS", "class accuracy")
    for name in (*higher, "MRR text to picture"):
        assert made[name] > wrong[name], name
    assert {"KID", "IS", "KL softmax", "R@1 sound to picture", "R@5 picture to text"} <= made.keys()
    page = (scenes_folder / "made_scored" / "report.md").read_text()
    for name in ("samples.png", "worst.png"):
        assert f"![]({name})" in page and (scenes_folder / "made_scored" / name).is_file()


def test_conditions_hold_the_content_of_everything_compared(scenes_folder: Path) -> None:
    """Sounds are not ranked with pictures, nor samples of other inputs, captions or references of the same names."""

    def changed(name: str, value: str) -> None:
        manifest = scenes_folder / "real" / "metadata.json"
        rows = json.loads(manifest.read_text())
        manifest.write_text(json.dumps([rows[0] | {name: value}, *rows[1:]]))

    def conditions(name: str, embedder: str = "mini:world") -> dict[str, Any]:
        assert score(scenes_folder, name, "--reference", str(scenes_folder / "real"), "--embedder", embedder) == 0
        return json.loads((scenes_folder / f"{name}_scored" / "report.json").read_text())["conditions"]

    pictures = conditions("made")
    assert conditions("wrong") == pictures  # the samples have no part in it
    audio.save_wav(scenes_folder / "sounds" / "other.wav", np.random.default_rng(0).uniform(-0.1, 0.1, RATE), RATE)
    sounds = conditions("sounds", "mini:world")
    assert {field for field in pictures if pictures[field] != sounds[field]} >= {"compared", "pairs", "pairs_hash"}
    without_captions = conditions("made", "mini:picture_judge")
    changed("Caption", "rain falls")
    assert conditions("made", "mini:picture_judge") == without_captions  # it takes no captions
    with_caption = conditions("made")
    assert with_caption["reference_hash"] != pictures["reference_hash"]
    shown = json.loads((scenes_folder / "real" / "metadata.json").read_text())[0]["Image"]
    Image.new("RGB", (64, 64), "red").save(scenes_folder / "real" / shown)
    assert conditions("made")["reference_hash"] != with_caption["reference_hash"]


def test_a_reference_that_no_embedder_can_use(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "shown").mkdir()
    Image.new("RGB", (64, 64)).save(folders / "shown" / "0.png")
    assert score(folders, "far", "--reference", str(folders / "shown"), "--embedder", "mini:sound_judge") == 2
    assert "holds no sounds, and nothing else that mini:sound_judge@" in capsys.readouterr().err
    assert not (folders / "far_scored").exists()


def test_sounds_are_shown_next_to_their_reference(folders: Path) -> None:
    assert score(folders, "near", "--reference", str(folders / "real"), "--embedder", "mel:") == 0
    with Image.open(folders / "near_scored" / "samples.png") as sheet:
        assert sheet.width > 2 * 2 * 60  # two columns of a second


def test_videos_are_scored_by_sound_track_and_onsets(tmp_path: Path) -> None:
    film(tmp_path / "real" / "a.mp4", sound=True)
    film(tmp_path / "made" / "a.mp4", sound=True)
    assert score(tmp_path, "made", "--reference", str(tmp_path / "real"), "--embedder", "mel:") == 0
    report = json.loads((tmp_path / "made_scored" / "report.json").read_text())
    found = {row["name"]: row["value"] for row in report["scores"]}
    assert found["onset F1"] == 1 and report["conditions"]["onsets"]["tolerance"] == 0.1
    assert found["cosine to the reference mel:"] == pytest.approx(1)


def test_an_embedder_that_gives_nan(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(torch.nn.Module):
        def forward(self, wave: torch.Tensor) -> torch.Tensor:
            return wave.mean(dim=1, keepdim=True) * float("nan")

    torch.jit.script(Broken()).save(str(folders / "broken.pt"))
    assert score(folders, "near", "--embedder", f"torchscript:{folders / 'broken.pt'}@16000") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not one usable generated sound among 8" in error and "its embedding is not finite" in error


def test_sounds_of_nan_and_none_at_all(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(folders / "near" / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    (folders / "near" / "empty.wav").touch()
    assert score(folders, "near", "--reference", str(folders / "real"), "--embedder", "mel:") == 0
    report = json.loads((folders / "near_scored" / "report.json").read_text())
    reasons = {Path(name).name: reason for name, reason in report["left_out"]}
    assert "NaN" in reasons["nan.wav"] and "empty" in reasons["empty.wav"]
    assert report["counts"]["generated without a reference"] == 2
    (folders / "none").mkdir()
    capsys.readouterr()
    assert score(folders, "none", "--embedder", "mel:") == 2
    assert "holds neither sounds nor pictures" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["real", "made"])
def test_an_embedder_of_the_wrong_medium(scenes_folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(scenes_folder, name, "--embedder", "mini:picture_judge" if name == "real" else "mel:") == 2
    assert "choose another embedder" in capsys.readouterr().err
    assert not (scenes_folder / f"{name}_scored").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--generated needs --embedder"),
        (["--embedder", "ears:x"], "unknown kind"),
        (["--embedder", "mel:", "--reference", "nowhere"], "--reference nowhere: no such file or folder"),
    ],
)
def test_bad_input(folders: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    assert score(folders, "near", *more) == 2
    assert message in capsys.readouterr().err
    assert not (folders / "near_scored").exists()
