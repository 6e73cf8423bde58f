import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sonolume.config.base import MiniworldConfig
from sonolume.config.i2a.im2wav import FilmsConfig
from sonolume.preprocessors.miniworld import pictures, world
from sonolume.preprocessors.sound_pictures import Films, pictures_of, prepare
from sonolume.utils import audio
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, read_manifest
from tests.videos import film

REAL = Path(os.environ.get("SONOLUME_TEST_DATA", "absent"))


def config_for(folder: Path, **more: object) -> FilmsConfig:
    return FilmsConfig(processed_dir=str(folder / "data"), num_workers=0, frames=4, **more)  # type: ignore[arg-type]


def rows_of(folder: Path) -> list[Row]:
    """All prepared rows, sorted by Uid."""
    paths = [folder / f"data/mine/{split}.json" for split in ("train", "valid")]
    rows = [row for path in paths if json.loads(path.read_text()) for row in read_manifest(path)]
    return sorted(rows, key=lambda row: row.uid)


def refused(folder: Path) -> dict[str, int]:
    return json.loads((folder / "data/mine/report.json").read_text())["refused"]


def stereo(path: Path, seconds: float = 2.0, rate: int = 44100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, np.stack([0.4 * np.sin(2000 * time), 0.1 * np.sin(5000 * time)], axis=1), rate)
    return path


def test_videos_stay_files(tmp_path: Path) -> None:
    sources = [film(tmp_path / "films" / f"{name}.mp4") for name in ("a", "b")]
    assert prepare(config_for(tmp_path), "mine", tmp_path / "films", films=Films()) == {"train": 1, "valid": 1}
    rows = rows_of(tmp_path)
    assert [row.video for row in rows] == sources
    assert [row.image for row in rows] == [None, None]
    assert not (tmp_path / "data/mine/frames").exists()
    assert soundfile.info(rows[0].audio).samplerate == 16000
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.*")}
    prepare(config_for(tmp_path), "mine", tmp_path / "films", films=Films())
    assert before == {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.*")}


def test_a_mixed_manifest(tmp_path: Path) -> None:
    for name in ("both", "mute", "black"):
        film(tmp_path / f"{name}.mp4", sound=name != "mute", blank=name == "black")
    stereo(tmp_path / "a.wav")
    stereo(tmp_path / "short.wav", 0.5)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "both.mp4").read_bytes()[:3000])
    lines = ["Uid,Audio,Image,Video", "still,a.wav,a.png,", "both,,a.png,both.mp4", "short,short.wav,a.png,"]
    lines += ["cut,,,cut.mp4", "cut picture,a.wav,,cut.mp4", "mute,,,mute.mp4", "black,a.wav,,black.mp4"]
    lines += ["bare,a.wav,,"]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    prepare(config_for(tmp_path), "mine", tmp_path, films=Films())
    both, still = rows_of(tmp_path)
    assert (both.uid, both.video) == ("both", tmp_path / "both.mp4")
    assert (still.uid, still.video) == ("still", None)
    assert all(pictures_of(row)[0][1].suffix == ".png" for row in (both, still))
    assert refused(tmp_path) == {
        "no picture": 1, "too short": 1, "unreadable": 1, "unreadable video": 1, "no sound track": 1,
        "blank picture": 1,
    }  # fmt: skip


def test_sounds_without_pictures_for_the_vqvae(tmp_path: Path) -> None:
    for name in ("a", "b"):
        stereo(tmp_path / "in" / f"{name}.wav")
    with pytest.raises(UserError, match="not one usable clip"):
        prepare(config_for(tmp_path), "mine", tmp_path / "in", films=Films())
    prepare(config_for(tmp_path), "mine", tmp_path / "in", films=Films(sounds_only=True))
    assert [(row.image, row.video) for row in rows_of(tmp_path)] == [(None, None)] * 2


def test_both_channels_are_kept_on_demand(tmp_path: Path) -> None:
    for name in ("a", "b"):
        stereo(tmp_path / "in" / f"{name}.wav")
    soundfile.write(tmp_path / "in/mono.wav", 0.1 * np.sin(np.arange(32000)), 16000)
    prepare(config_for(tmp_path), "mine", tmp_path / "in", films=Films(stereo=True, sounds_only=True))
    files = [audio.load(row.audio, 16000, mono=False) for row in rows_of(tmp_path) if row.audio]
    assert [wave.shape for wave in files] == [(2, 32000), (2, 32000), (1, 32000)]
    assert np.abs(files[0]).max(axis=1) == pytest.approx([0.4, 0.1], abs=0.01)
    with pytest.raises(UserError, match=r"stereo True \(now False\)"):
        prepare(config_for(tmp_path), "mine", tmp_path / "in", films=Films(sounds_only=True))


def test_sounds_and_videos_in_two_folders(tmp_path: Path) -> None:
    for name in ("x/a", "x/b", "y/b", "c", "d"):
        stereo(tmp_path / "sounds" / f"{name}.wav")
    for name in ("x/b", "y/b", "deep/a", "one/c", "two/c"):
        film(tmp_path / "videos" / f"{name}.mp4")
    prepare(config_for(tmp_path), "mine", tmp_path / "sounds", films=Films(video_dir=tmp_path / "videos"))
    found = {row.uid: row.video.relative_to(tmp_path).as_posix() for row in rows_of(tmp_path) if row.video}
    assert found == {"x/a": "videos/deep/a.mp4", "x/b": "videos/x/b.mp4", "y/b": "videos/y/b.mp4"}
    assert refused(tmp_path) == {"ambiguous video": 1, "no picture": 1}
    with pytest.raises(UserError, match="contains no videos"):
        prepare(config_for(tmp_path), "mine", tmp_path / "sounds", films=Films(video_dir=tmp_path / "sounds"))


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_image_vectors_in_place_of_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = {"a": np.ones((60, 8), np.float32), "b": np.ones((60, 8), np.float16), "bad": Harm(), "empty": []}
    (tmp_path / "vectors").mkdir()
    for name, content in contents.items():
        stereo(tmp_path / "sounds" / f"{name}.wav")
        (tmp_path / "vectors" / f"{name}.pickle").write_bytes(pickle.dumps({name: content}))
    prepare(config_for(tmp_path), "mine", tmp_path / "sounds", films=Films(vectors_dir=tmp_path / "vectors"))
    assert [row.video for row in rows_of(tmp_path)] == [tmp_path / f"vectors/{name}.pickle" for name in "ab"]
    assert refused(tmp_path) == {"unreadable image vectors": 2}
    assert "executed" not in capsys.readouterr().out


def test_the_miniature_world_has_films(tmp_path: Path) -> None:
    config = config_for(tmp_path, miniworld=MiniworldConfig(train_scenes=3, valid_scenes=2, pairs=False))
    assert prepare(config, "mine", films=Films()) == {"train": 3, "valid": 2}
    for row in rows_of(tmp_path):
        assert row.audio and row.video and row.scene
        scene, rate = world.Scene.from_dict(row.scene), 16000
        np.testing.assert_allclose(audio.load(row.audio, rate), pictures.delayed_wave(scene), atol=1e-4)
        assert row.video.read_bytes() == pictures.encode_film(pictures.film(scene))
        np.testing.assert_array_equal(np.asarray(Image.open(pictures_of(row)[0][1])), world.picture(scene))
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.*")}
    next((tmp_path / "data/mine/films").iterdir()).unlink()
    assert prepare(config, "mine", films=Films()) == {"train": 3, "valid": 2}
    assert before == {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.*")}
    with pytest.raises(UserError, match="films None"):
        (tmp_path / "data/mine/pairs.json").unlink()
        prepare(config, "mine")
        prepare(config, "mine", films=Films())


def test_scenes_for_the_vqvae_have_no_films(tmp_path: Path) -> None:
    """Unless another stage had them drawn, which still needs them."""
    config = config_for(tmp_path, miniworld=MiniworldConfig(train_scenes=2, valid_scenes=1, pairs=False))
    prepare(config, "mine", None, films=Films(sounds_only=True))
    assert {(row.image, row.video) for row in rows_of(tmp_path)} == {(None, None)}
    prepare(config, "mine", None, films=Films())
    both = rows_of(tmp_path)
    assert all(row.image and row.video and row.video.is_file() for row in both)
    prepare(config, "mine", None, films=Films(sounds_only=True))
    assert [(row.image, row.video) for row in rows_of(tmp_path)] == [(row.image, row.video) for row in both]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs SONOLUME_TEST_DATA")
def test_a_real_video(tmp_path: Path) -> None:
    cells = [{"Uid": name, "Video": str(REAL / "video" / f"vas_dog_video_{name}.mp4")} for name in ("02677", "02754")]
    (tmp_path / "metadata.json").write_text(json.dumps(cells))
    prepare(config_for(tmp_path), "mine", tmp_path, films=Films(stereo=True))
    assert [row.duration for row in rows_of(tmp_path)] == pytest.approx([6.0, 10.0], abs=0.1)
