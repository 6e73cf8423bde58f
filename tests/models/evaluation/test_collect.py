"""What belongs together, by names, by manifests and by the json that run_inference.sh writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sonolume.models.evaluation.gathering import gather
from sonolume.models.evaluation.pictures import Pictures
from sonolume.models.evaluation.sounds import Sounds
from sonolume.utils import audio
from sonolume.utils.errors import UserError


def sound(path: Path, **about: Any) -> Path:
    audio.save_wav(path, np.full(3200, 0.1, np.float32), 16000)
    return told(path, **about)


def picture(path: Path, size: int = 20, **about: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size)).save(path)
    return told(path, **about)


def told(path: Path, **about: Any) -> Path:
    if about:
        path.with_suffix(".json").write_text(json.dumps(about))
    return path


def table(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_a_manifest_gives_references_captions_labels_sounds_and_videos(tmp_path: Path) -> None:
    picture(tmp_path / "made/a.png")
    row = {"Uid": "a", "Image": "a.jpg", "Audio": "a.wav", "Caption": "a dog", "Label": "dog", "Video": "a.mp4"}
    found = gather(tmp_path / "made", table(tmp_path / "list.json", row, {"Uid": "b", "Video": "b.mp4"})).files
    assert isinstance(found, Pictures)
    assert found.reference == {"a": tmp_path / "a.jpg"}
    assert found.sounds == {"a": tmp_path / "a.wav", "b": tmp_path / "b.mp4"}
    assert (found.captions, found.labels) == ({"a": "a dog"}, {"a": "dog"})
    sound(tmp_path / "heard/a.wav")
    heard = gather(tmp_path / "heard", tmp_path / "list.json").files
    assert isinstance(heard, Sounds)
    assert heard.reference == found.sounds and heard.pictures == found.reference
    assert heard.videos == {"a": tmp_path / "a.mp4", "b": tmp_path / "b.mp4"}


def test_a_column_path_may_name_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "made/a.png")
    found = gather(tmp_path / "made", table(tmp_path / "list.json", {"Uid": "a", "Path": "images/a.jpg"})).files
    assert isinstance(found, Pictures)
    assert found.reference == {"a": tmp_path / "images/a.jpg"} and not found.sounds


def test_sounds_and_pictures_of_one_name_in_a_folder_are_one_example(tmp_path: Path) -> None:
    picture(tmp_path / "made/deep/a.png")
    picture(tmp_path / "real/deep/a.jpg")
    picture(tmp_path / "real/b.png")
    (tmp_path / "real/b.txt").write_text("a bell\n")
    sound(tmp_path / "real/deep/a.wav")
    gathered = gather(tmp_path / "made", tmp_path / "real")
    found = gathered.files
    assert isinstance(found, Pictures)
    assert set(found.reference) == {"deep/a", "b"} and set(found.sounds) == {"deep/a"}
    assert found.captions == {"b": "a bell"}
    assert gathered.counts == {"references without anything generated": 1}


def test_the_json_beside_a_file_says_what_it_was_made_from(tmp_path: Path) -> None:
    for name in ("dog", "bell", "rain"):
        sound(tmp_path / f"real/{name}.wav")
    rows = [{"Uid": f"u{name}", "Audio": f"real/{name}.wav", "Caption": f"a {name}"} for name in ("dog", "bell")]
    for seed in (0, 1):
        picture(tmp_path / f"made/dog_{seed}.png", audio=str(tmp_path / "real/dog.wav"), seed=seed)
    picture(tmp_path / "made/bell_0.png", audio=str(tmp_path / "real" / ".." / "real" / "bell.wav"), seed=0)
    picture(tmp_path / "made/rain_0.png", audio=str(tmp_path / "real/rain.wav"), seed=0)
    picture(tmp_path / "made/dog_storyboard_0.png", audio=str(tmp_path / "real/dog.wav"), windows=[])
    gathered = gather(tmp_path / "made", table(tmp_path / "list.json", *rows))
    names = {uid: path.name for uid, path in gathered.files.generated.items()}
    assert names == {"udog": "dog_0.png", "ubell": "bell_0.png", "rain_0": "rain_0.png"}
    assert gathered.counts == {"further samples of the same input": 1, "generated without a reference": 1}
    assert [uid for uid, _ in gathered.left_out] == ["rain_0"]


def test_a_text_belongs_to_the_only_row_that_has_it(tmp_path: Path) -> None:
    sound(tmp_path / "made/a_dog_0.wav", text="a dog")
    sound(tmp_path / "made/rain_0.wav", text="rain")
    rows = [{"Uid": "1", "Caption": "a dog"}, {"Uid": "2", "Caption": "rain"}, {"Uid": "3", "Captions": ["rain", "x"]}]
    found = gather(tmp_path / "made", table(tmp_path / "list.json", *rows)).files
    assert {uid: path.name for uid, path in found.generated.items()} == {"1": "a_dog_0.wav", "rain_0": "rain_0.wav"}
    assert found.captions == {"1": "a dog", "2": "rain", "3": "rain", "rain_0": "rain"}


def test_spectrograms_beside_sounds_are_not_scored(tmp_path: Path) -> None:
    sound(tmp_path / "made/a.wav", text="a dog")
    picture(tmp_path / "made/a.png")
    gathered = gather(tmp_path / "made", None)
    assert isinstance(gathered.files, Sounds) and gathered.counts == {"pictures beside the sounds": 1}


def test_pictures_of_another_size_are_counted(tmp_path: Path) -> None:
    for name, size in (("a", 20), ("b", 20), ("c", 30)):
        picture(tmp_path / f"made/{name}.png", size)
    (tmp_path / "made/d.png").write_text("no picture")
    assert gather(tmp_path / "made", None).counts == {"generated not of 20 x 20 pixels": 1}


def test_whole_sets_without_a_pair_are_compared_and_said_to_be(tmp_path: Path) -> None:
    sound(tmp_path / "made/x.wav")
    sound(tmp_path / "real/a.wav")
    assert "none, so whole sets" in gather(tmp_path / "made", tmp_path / "real").facts["pairs"]


def test_rows_that_share_a_uid(tmp_path: Path) -> None:
    sound(tmp_path / "made/a.wav")
    rows = [{"Uid": "a", "Caption": "first"}, {"Uid": "a", "Caption": "second"}]
    gathered = gather(tmp_path / "made", table(tmp_path / "list.json", *rows))
    assert gathered.files.captions == {"a": "first"}
    assert gathered.counts == {"rows of a Uid that was there before": 1}


def test_bad_input(tmp_path: Path) -> None:
    sound(tmp_path / "made/x.wav")
    captions = table(tmp_path / "list.json", {"Uid": "a", "Caption": "a dog"})
    with pytest.raises(UserError, match=r"not one generated file belongs to a row of it: 'x' against 'a'"):
        gather(tmp_path / "made", captions)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--generated .*empty: neither sounds nor pictures in it"):
        gather(tmp_path / "empty", None)
    with pytest.raises(UserError, match="--reference .*empty: no sounds, no pictures, and no manifest in it"):
        gather(tmp_path / "made", tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="neither sounds nor pictures"):
        gather(tmp_path / "notes.txt", None)
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        gather(tmp_path / "nowhere", None)
    sound(tmp_path / "made/x.flac")
    with pytest.raises(UserError, match="same Uid 'x'"):
        gather(tmp_path / "made", None)
