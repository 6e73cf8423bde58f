import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from sonolume.config.base import MiniworldConfig
from sonolume.config.speech_pictures import SpeechPicturesConfig
from sonolume.preprocessors import speech_pictures
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.spoken import TRAIN_VOICES, utterances
from sonolume.preprocessors.sound_pictures import pictures_of
from sonolume.preprocessors.speech_pictures import prepare, read_split
from sonolume.utils import audio
from sonolume.utils.errors import ConfigError, UserError
from sonolume.utils.image import open_image
from sonolume.utils.manifest import Row
from tests.flickr8k_tree import IMAGES, SPEAKER, caption, flickr8k_tree, kaggle_tree, photograph, speech

REAL = Path(os.environ.get("SONOLUME_TEST_DATA", "absent"))
FIRST = "1000268201_693b08cb0e"


@pytest.fixture
def config(tmp_path: Path) -> SpeechPicturesConfig:
    return SpeechPicturesConfig(processed_dir=str(tmp_path / "data"), num_workers=0)


@pytest.fixture
def flickr8k(tmp_path: Path) -> Path:
    return flickr8k_tree(tmp_path / "Flickr8k")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder for recordings and pictures: a.wav, a.png and b.png."""
    folder = tmp_path / "own"
    for seed, name in enumerate("ab"):
        photograph(folder / f"{name}.png", seed)
    soundfile.write(folder / "a.wav", speech(), 16000)
    return folder


def save(folder: Path, cells: Sequence[dict[str, Any]]) -> Path:
    (folder / "metadata.json").write_text(json.dumps(cells))
    return folder


def report(tmp_path: Path, dataset: str = "mine") -> dict[str, Any]:
    return json.loads((tmp_path / "data" / dataset / "report.json").read_text(encoding="utf-8"))


def reasons(tmp_path: Path) -> dict[str, str]:
    return {one["uid"]: one["reason"] for one in report(tmp_path)["refusals"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def picture_of(row: Row) -> Image.Image:
    ((time, path),) = pictures_of(row)
    assert time is None
    return open_image(path)


def pictures(rows: Sequence[Row]) -> set[str]:
    return {row.image.name for row in rows if row.image}


def test_flickr8k(tmp_path: Path, config: SpeechPicturesConfig, flickr8k: Path) -> None:
    config.longest_side = 32
    assert prepare(config, "mine", flickr8k) == {"train": 4, "valid": 2, "test": 2}
    assert report(tmp_path) | {"pictures": 4, "low_rate": 0, "longer": 0, "refused": {}} == report(tmp_path)
    rows = read_split(config, ["mine"], "train")
    assert [row.uid for row in rows[:2]] == [f"{FIRST}_0", f"{FIRST}_1"]
    assert rows[0].image == rows[1].image and pictures(rows) == {Path(name).stem for name in list(IMAGES)[:2]}
    assert (rows[1].captions, rows[1].speaker) == ([caption(f"{FIRST}.jpg", 1)], str(SPEAKER))
    assert picture_of(rows[0]).size == (32, 24)
    assert rows[0].audio and soundfile.info(rows[0].audio).samplerate == 16000
    assert rows[0].duration == pytest.approx(0.2)


def test_recordings_of_a_picture_share_its_split(config: SpeechPicturesConfig, tmp_path: Path) -> None:
    config.valid_fraction = 0.4
    prepare(config, "mine", kaggle_tree(tmp_path / "archive"))
    train, valid = (pictures(read_split(config, ["mine"], split)) for split in ("train", "valid"))
    assert train and valid and not train & valid and len(train | valid) == 4


def test_a_manifest(config: SpeechPicturesConfig, recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(recordings / "sub" / "a.jpg")
    one = {"Audio": "a.wav"}
    cells = [
        one | {"Uid": "1", "Image": "a.png", "Captions": ["A dog", "Ein Hund"], "Speaker": "eve", "Label": "dog"},
        one | {"Uid": "2", "Image": "sub/../a.png", "Split": "test"}, one | {"Uid": "3", "Image": "sub/a.jpg"},
        one | {"Uid": "4", "Image": "b.png", "Split": "valid"}, one | {"Uid": "5", "Image": "b.png", "Split": "train"},
        one | {"Uid": "6", "Image": "b.png"},
    ]  # fmt: skip
    config.valid_fraction = 0.0
    assert prepare(config, "mine", save(recordings, cells)) == {"test": 2, "train": 2, "valid": 2}
    assert re.search(r"pictures with recordings in several splits, as .*own has them: 1\n", capsys.readouterr().out)
    rows = {row.uid: row for split in ("train", "valid", "test") for row in read_split(config, ["mine"], split)}
    frames = Path(config.processed_dir) / "mine" / "frames"
    found = {uid: (row.split, row.image.relative_to(frames).as_posix()) for uid, row in rows.items() if row.image}
    assert found == {
        "1": ("test", "a"), "2": ("test", "a"), "3": ("train", "sub/a"),
        "4": ("valid", "b"), "5": ("train", "b"), "6": ("valid", "b"),
    }  # fmt: skip
    assert (rows["1"].captions, rows["1"].speaker, rows["1"].label) == (["A dog", "Ein Hund"], "eve", "dog")


def test_names_of_pictures_are_distinct(config: SpeechPicturesConfig, recordings: Path) -> None:
    names = ["a.png", "a.jpg", "A.jpeg", "a/still.png", ".b c.png"]
    for seed, name in enumerate(names):
        photograph(recordings / name, seed)
    cells = [{"Uid": f"{number}", "Audio": "a.wav", "Image": name, "Split": "train"}
             for number, name in enumerate(names)]  # fmt: skip
    prepare(config, "mine", save(recordings, cells))
    rows = read_split(config, ["mine"], "train")
    assert len(rows) == len({row.image for row in rows}) == 5
    for row, name in zip(rows, names, strict=True):
        np.testing.assert_array_equal(picture_of(row), open_image(recordings / name))


def test_any_sample_rate_and_channels(tmp_path: Path, config: SpeechPicturesConfig, recordings: Path) -> None:
    times = np.arange(8000) / 8000
    tone = 0.3 * np.sin(2 * np.pi * 440 * times)
    soundfile.write(recordings / "low.wav", tone, 8000)
    soundfile.write(recordings / "stereo.flac", np.stack([tone, 0 * tone], axis=1), 8000)
    soundfile.write(recordings / "long.wav", speech(2.0), 16000)
    cells = [{"Audio": name, "Image": "a.png", "Split": "train"} for name in ("low.wav", "stereo.flac", "long.wav")]
    config.seconds = 1.5
    config.input_length = 1.0
    for _ in range(2):  # what was prepared before counts, too
        prepare(config, "mine", save(recordings, cells))
        assert report(tmp_path) | {"low_rate": 2, "longer": 1, "pictures": 1} == report(tmp_path)
    rows = read_split(config, ["mine"], "train")
    assert [row.duration for row in rows] == [1.0, 1.0, 1.5]
    waves = [audio.load(row.audio, 16000) for row in rows if row.audio]
    assert np.abs(np.fft.rfft(waves[0])).argmax() == 440
    np.testing.assert_allclose(waves[1], waves[0] / 2, atol=1e-4)


def test_what_is_left_out(tmp_path: Path, config: SpeechPicturesConfig, recordings: Path) -> None:
    broken = speech()
    broken[5] = np.nan
    for name, wave in {"silent": np.zeros(16000), "short": speech(0.05), "nan": broken}.items():
        soundfile.write(recordings / f"{name}.wav", wave, 16000, subtype="FLOAT")
    content = (recordings / "a.wav").read_bytes()
    (recordings / "cut.wav").write_bytes(content[: len(content) // 3])
    (recordings / "text.wav").write_text("not a sound")
    (recordings / "text.png").write_text("not a picture")
    Image.new("RGB", (40, 40)).save(recordings / "black.png")
    photograph(recordings / "tiny.png", size=(8, 8))
    sounds = {"silent": "silent", "short": "too short", "nan": "NaN", "cut": "truncated", "text": "unreadable",
              "absent": "missing"}  # fmt: skip
    images = {"text": "unreadable picture", "black": "blank picture", "tiny": "tiny picture",
              "absent": "missing picture"}  # fmt: skip
    cells = [{"Uid": f"s_{name}", "Audio": f"{name}.wav", "Image": "a.png"} for name in sounds]
    cells += [{"Uid": f"p_{name}", "Audio": "a.wav", "Image": f"{name}.png"} for name in images]
    cells += [{"Uid": "good", "Audio": "a.wav", "Image": "b.png", "Split": "train"}, {"Uid": "good", "Audio": "a.wav"},
              {"Uid": "deaf", "Image": "a.png"}, {"Uid": "blind", "Audio": "a.wav"}]  # fmt: skip
    assert prepare(config, "mine", save(recordings, cells)) == {"train": 1}
    expected = {f"s_{name}": reason for name, reason in sounds.items()}
    expected |= {f"p_{name}": reason for name, reason in images.items()}
    assert reasons(tmp_path) == expected | {"good": "duplicate Uid", "deaf": "no sound", "blind": "no picture"}
    assert [path.name for path in (tmp_path / "data/mine/frames").iterdir()] == ["b"]


def test_flickr8k_without_some_files(
    tmp_path: Path, config: SpeechPicturesConfig, flickr8k: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (flickr8k / "flickr_audio" / "wavs" / f"{FIRST}_0.wav").unlink()
    (flickr8k / "Flicker8k_Dataset" / "1001773457_577c3a7d70.jpg").unlink()
    photograph(flickr8k / "Flicker8k_Dataset" / "unspoken.jpg")
    assert prepare(config, "mine", flickr8k) == {"train": 1, "valid": 2, "test": 2}
    assert report(tmp_path)["refused"] == {"no speech": 1, "missing": 1, "missing picture": 2}
    assert "left out 4: 2 missing picture, 1 no speech, 1 missing" in capsys.readouterr().out


def test_a_run_continues_where_an_interrupted_one_stopped(
    tmp_path: Path, config: SpeechPicturesConfig, flickr8k: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(config, processed_dir=str(tmp_path / "whole"))
    prepare(whole, "mine", flickr8k)
    save_pictures = speech_pictures.save_pictures

    def stop_at_the_third(found: list, folder: Path, longest_side: int) -> None:
        if folder.name.startswith("1002"):
            raise KeyboardInterrupt
        save_pictures(found, folder, longest_side)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(speech_pictures, "save_pictures", stop_at_the_third)
        prepare(config, "mine", flickr8k)
    capsys.readouterr()
    prepare(config, "mine", flickr8k)
    assert "(6 clips were there already)" in capsys.readouterr().out
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


def test_changed_files_are_prepared_again(config: SpeechPicturesConfig, recordings: Path) -> None:
    cells = [{"Uid": "a", "Audio": "a.wav", "Image": "a.png", "Split": "train"}]
    for seed, seconds in enumerate((0.2, 0.5)):
        soundfile.write(recordings / "a.wav", speech(seconds), 16000)
        photograph(recordings / "a.png", seed=seed)
        prepare(config, "mine", save(recordings, cells))
        (row,) = read_split(config, ["mine"], "train")
        assert row.duration == pytest.approx(seconds)
        np.testing.assert_array_equal(picture_of(row), open_image(recordings / "a.png"))


@pytest.mark.parametrize("setting", [{"seconds": 0.1}, {"longest_side": 20}])
def test_other_settings_are_refused(config: SpeechPicturesConfig, flickr8k: Path, setting: dict[str, float]) -> None:
    prepare(config, "mine", flickr8k)
    for name, value in setting.items():
        setattr(config, name, value)
        with pytest.raises(UserError, match=rf"prepared with other settings: {name} .*\(now {value}\)"):
            prepare(config, "mine", flickr8k)
        for reads in (lambda: read_split(config, ["mine"], "train"), lambda: prepare(config, "mine")):
            with pytest.raises(UserError, match=rf"prepared with {name} .*, not {value}"):
                reads()


def test_a_subset_of_the_pictures(config: SpeechPicturesConfig, recordings: Path) -> None:
    cells = [{"Uid": f"{number}_{part}", "Audio": "a.wav", "Image": f"{number}.png", "Split": "train"}
             for number in range(6) for part in range(2)]  # fmt: skip
    for number in range(6):
        photograph(recordings / f"{number}.png", number)
    prepare(config, "mine", save(recordings, cells))
    held_out = {"Audio": "a.wav", "Image": "b.png", "Split": "valid"}
    prepare(config, "other", save(recordings, [*cells[::-1], held_out]))
    config.subset_images = 3
    chosen = read_split(config, ["mine"], "train")
    assert len(chosen) == 6 and len(pictures(chosen)) == 3
    assert pictures(chosen) == pictures(read_split(config, ["other"], "train")) == {"0", "3", "4"}
    assert len(read_split(config, ["other"], "valid")) == 1
    config.subset_images = 2
    assert pictures(read_split(config, ["mine"], "train")) < pictures(chosen)
    config.subset_images = 7
    with pytest.raises(ConfigError, match=r"preprocess\.subset_images is 7, but mine: train\.json has 6 pictures"):
        read_split(config, ["mine"], "train")


def test_the_miniature_world(tmp_path: Path, config: SpeechPicturesConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config.miniworld = MiniworldConfig(train_scenes=2, valid_scenes=1, captions_per_scene=2)
    assert prepare(config, "world") == {"train": 4, "valid": 2}
    before = contents(tmp_path / "data")
    assert prepare(config, "world") == {"train": 4, "valid": 2}
    assert "(6 clips were there already)" in capsys.readouterr().out
    assert contents(tmp_path / "data") == before
    rows = read_split(config, ["world"], "train")
    scenes = list(world.scenes("train", 2, 1))
    assert [row.uid for row in rows] == [f"{scene.uid}_{number}" for scene in scenes for number in range(2)]
    for number, row in enumerate(rows):
        scene = scenes[number // 2]
        one = utterances(scene, 2, "train")[number % 2]
        assert row.audio and row.image and row.image.name == scene.uid
        assert ([one.text], one.voice) == (row.captions, row.speaker) and one.voice in TRAIN_VOICES
        assert row.scene == scene.to_dict()
        np.testing.assert_allclose(audio.load(row.audio, 16000), one.render(), atol=1e-4)  # 16 bits
        np.testing.assert_array_equal(picture_of(row), world.picture(scene))
    config.miniworld.seed = 2
    with pytest.raises(UserError, match="seed 1, not 2"):
        read_split(config, ["world"], "train")


def test_what_is_no_data_set(tmp_path: Path, config: SpeechPicturesConfig, recordings: Path) -> None:
    with pytest.raises(UserError, match="not prepared yet"):
        prepare(config, "mine")
    with pytest.raises(UserError, match="no such folder or manifest of recordings with pictures"):
        prepare(config, "mine", tmp_path / "absent")
    with pytest.raises(UserError, match=r"own: is neither Flickr8k with its audio \(wavs/\) nor SpokenCOCO"):
        prepare(config, "mine", recordings)
    with pytest.raises(UserError, match="no column 'Image'"):
        prepare(config, "mine", save(recordings, [{"Audio": "a.wav"}]))
    with pytest.raises(UserError, match=r"mine/train\.json: no such file"):
        read_split(config, ["mine"], "train")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs SONOLUME_TEST_DATA")
def test_spoken_digits(tmp_path: Path, config: SpeechPicturesConfig) -> None:
    counts = prepare(config, "digits", REAL / "speech_image" / "fsdd_digits")
    assert sum(counts.values()) == 290 == report(tmp_path, "digits")["pictures"]
    rows = [row for split in counts for row in read_split(config, ["digits"], split)]
    assert {row.label for row in rows} == set("0123456789") and len({row.speaker for row in rows}) > 2
    row = rows[0]
    assert row.audio and soundfile.info(row.audio).samplerate == 16000
    assert picture_of(row).size == (128, 128)
