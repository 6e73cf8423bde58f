"""What belongs together, by names, by manifests and by the json that run_inference.sh writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sonolume.models.evaluation.folders import by_uid, collect
from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.samples import PICTURE, SOUND, Samples
from sonolume.utils import audio
from sonolume.utils.errors import UserError


def gather(generated: Path, reference: Path | None) -> tuple[Samples, Report]:
    report = Report({})
    return collect(generated, reference, report), report


def sound(path: Path, **about: Any) -> Path:
    audio.save_wav(path, np.full(3200, 0.1, np.float32), 16000)
    return described(path, **about)


def picture(path: Path, size: int = 20, **about: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size)).save(path)
    return described(path, **about)


def described(path: Path, **about: Any) -> Path:
    if about:
        path.with_suffix(".json").write_text(json.dumps(about))
    return path


def table(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_a_manifest_gives_references_captions_labels_sounds_and_videos(tmp_path: Path) -> None:
    picture(tmp_path / "made/a.png")
    row = {"Uid": "a", "Image": "a.jpg", "Audio": "a.wav", "Caption": "a dog", "Label": "dog", "Video": "a.mp4"}
    found, _ = gather(tmp_path / "made", table(tmp_path / "list.json", row, {"Uid": "b", "Video": "b.mp4"}))
    assert found.medium is PICTURE
    assert found.reference == {"a": tmp_path / "a.jpg"}
    assert found.inputs == {"a": tmp_path / "a.wav", "b": tmp_path / "b.mp4"}
    assert (found.captions, found.labels) == ({"a": "a dog"}, {"a": "dog"})
    sound(tmp_path / "sounds/a.wav")
    sounds, _ = gather(tmp_path / "sounds", tmp_path / "list.json")
    assert sounds.medium is SOUND
    assert sounds.reference == found.inputs and sounds.inputs == found.reference
    assert sounds.videos == {"a": tmp_path / "a.mp4", "b": tmp_path / "b.mp4"}


def test_a_column_path_may_name_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "made/a.png")
    found, _ = gather(tmp_path / "made", table(tmp_path / "list.json", {"Uid": "a", "Path": "images/a.jpg"}))
    assert found.medium is PICTURE
    assert found.reference == {"a": tmp_path / "images/a.jpg"} and not found.inputs


def test_sounds_and_pictures_of_one_name_in_a_folder_are_one_example(tmp_path: Path) -> None:
    picture(tmp_path / "made/deep/a.png")
    picture(tmp_path / "real/deep/a.jpg")
    picture(tmp_path / "real/b.png")
    (tmp_path / "real/b.txt").write_text("a bell\n")
    sound(tmp_path / "real/deep/a.wav")
    found, report = gather(tmp_path / "made", tmp_path / "real")
    assert found.medium is PICTURE
    assert set(found.reference) == {"deep/a", "b"} and set(found.inputs) == {"deep/a"}
    assert found.captions == {"b": "a bell"}
    assert report.counts == {"references without anything generated": 1}


def test_the_sidecar_names_the_source_of_a_file(tmp_path: Path) -> None:
    for name in ("dog", "bell", "rain"):
        sound(tmp_path / f"real/{name}.wav")
    rows = [{"Uid": f"u{name}", "Audio": f"real/{name}.wav", "Caption": f"a {name}"} for name in ("dog", "bell")]
    for seed in (0, 1):
        picture(tmp_path / f"made/dog_{seed}.png", audio=str(tmp_path / "real/dog.wav"), seed=seed)
    picture(tmp_path / "made/bell_0.png", audio=str(tmp_path / "real" / ".." / "real" / "bell.wav"), seed=0)
    picture(tmp_path / "made/rain_0.png", audio=str(tmp_path / "real/rain.wav"), seed=0)
    picture(tmp_path / "made/dog_storyboard_0.png", audio=str(tmp_path / "real/dog.wav"), windows=[])
    found, report = gather(tmp_path / "made", table(tmp_path / "list.json", *rows))
    names = {uid: path.name for uid, path in found.generated.items()}
    assert names == {"udog": "dog_0.png", "ubell": "bell_0.png", "rain_0": "rain_0.png"}
    assert report.counts == {"further samples of the same input": 1, "generated without a reference": 1}
    assert [uid for uid, _ in report.left_out] == ["rain_0"]


def test_a_text_belongs_to_the_only_row_that_has_it(tmp_path: Path) -> None:
    sound(tmp_path / "made/a_dog_0.wav", text="a dog")
    sound(tmp_path / "made/rain_0.wav", text="rain")
    rows = [{"Uid": "1", "Caption": "a dog"}, {"Uid": "2", "Caption": "rain"}, {"Uid": "3", "Captions": ["rain", "x"]}]
    found, _ = gather(tmp_path / "made", table(tmp_path / "list.json", *rows))
    assert {uid: path.name for uid, path in found.generated.items()} == {"1": "a_dog_0.wav", "rain_0": "rain_0.wav"}
    assert found.captions == {"1": "a dog", "2": "rain", "3": "rain", "rain_0": "rain"}


def test_spectrograms_next_to_sounds_are_not_scored(tmp_path: Path) -> None:
    sound(tmp_path / "made/a.wav", text="a dog")
    picture(tmp_path / "made/a.png")
    found, report = gather(tmp_path / "made", None)
    assert found.medium is SOUND and report.counts == {"pictures next to the sounds, not scored": 1}


def test_pictures_of_another_size_are_counted(tmp_path: Path) -> None:
    for name, size in (("a", 20), ("b", 20), ("c", 30)):
        picture(tmp_path / f"made/{name}.png", size)
    (tmp_path / "made/d.png").write_text("no picture")
    assert gather(tmp_path / "made", None)[1].counts == {"generated not of 20 x 20 pixels": 1}


def test_whole_sets_are_compared_without_pairs(tmp_path: Path) -> None:
    sound(tmp_path / "made/x.wav")
    sound(tmp_path / "real/a.wav")
    assert "none, so whole sets" in gather(tmp_path / "made", tmp_path / "real")[1].facts["pairs"]


def test_rows_that_share_a_uid(tmp_path: Path) -> None:
    sound(tmp_path / "made/a.wav")
    rows = [{"Uid": "a", "Caption": "first"}, {"Uid": "a", "Caption": "second"}]
    found, report = gather(tmp_path / "made", table(tmp_path / "list.json", *rows))
    assert found.captions == {"a": "first"}
    assert report.counts == {"further rows of the same Uid": 1}


def test_bad_input(tmp_path: Path) -> None:
    sound(tmp_path / "made/x.wav")
    captions = table(tmp_path / "list.json", {"Uid": "a", "Caption": "a dog"})
    with pytest.raises(UserError, match=r"no generated file belongs to a row: 'x' against 'a'"):
        gather(tmp_path / "made", captions)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--generated .*empty: holds neither"):
        gather(tmp_path / "empty", None)
    with pytest.raises(UserError, match="--reference .*empty: holds no sounds"):
        gather(tmp_path / "made", tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="holds neither"):
        gather(tmp_path / "notes.txt", None)
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        gather(tmp_path / "nowhere", None)
    sound(tmp_path / "made/x.flac")
    with pytest.raises(UserError, match="same Uid 'x'"):
        gather(tmp_path / "made", None)
    with pytest.raises(UserError, match="same Uid 'a'"):
        by_uid([Path("r/a.wav"), Path("r/a.flac")], Path("r"))
