import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sonolume.config.audio_to_image import PairsConfig
from sonolume.config.base import MiniworldConfig
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.sound_pictures import pictures_of, prepare
from sonolume.utils import audio
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import read_manifest
from tests.videos import film

REAL = Path(os.environ.get("SONOLUME_TEST_DATA", "absent"))


def config_for(folder: Path, **more: object) -> PairsConfig:
    return PairsConfig(processed_dir=str(folder / "data"), num_workers=0, frames=4, **more)  # type: ignore[arg-type]


def report_of(folder: Path, dataset: str = "mine") -> dict[str, object]:
    return json.loads((folder / "data" / dataset / "report.json").read_text(encoding="utf-8"))


def tone(path: Path, seconds: float = 2.0, rate: int = 16000, level: float = 0.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, level * np.sin(0.1 * np.arange(round(seconds * rate))), rate)
    return path


def picture(path: Path, size: tuple[int, int] = (40, 30), flat: bool = False) -> Path:
    noise = np.random.default_rng(0).integers(0, 1 if flat else 255, (size[1], size[0], 3))
    Image.fromarray(noise.astype(np.uint8)).save(path)
    return path


def test_a_folder_of_videos(tmp_path: Path) -> None:
    for name in ("dog/a", "dog/b", "rain_drops/c"):
        film(tmp_path / "films" / f"{name}.mp4", seconds=2, fps=10)
    counts = prepare(config_for(tmp_path), "mine", tmp_path / "films")
    assert counts == {"train": 2, "valid": 1}
    rows = read_manifest(tmp_path / "data/mine/train.json") + read_manifest(tmp_path / "data/mine/valid.json")
    rows.sort(key=lambda row: row.uid)
    labels = {row.uid: row.label for row in rows}
    assert labels == {"dog/a": "dog", "dog/b": "dog", "rain_drops/c": "rain drops"}
    assert [time for time, _ in pictures_of(rows[0])] == pytest.approx([0.2, 0.7, 1.2, 1.7], abs=1e-3)
    assert rows[0].audio is not None
    wave = audio.load(rows[0].audio, 16000)
    assert soundfile.info(rows[0].audio).samplerate == 16000
    assert np.abs(np.fft.rfft(wave[4000:20000])).argmax() == pytest.approx(440, abs=2)


def test_pairs_by_manifest(tmp_path: Path) -> None:
    for uid, rate in (("a", 8000), ("b", 16000)):
        tone(tmp_path / f"{uid}.wav", rate=rate)
        picture(tmp_path / f"{uid}.png")
    cells = [{"Uid": uid, "Audio": f"{uid}.wav", "Image": f"{uid}.png", "Label": "dog", "Split": split}
             for uid, split in (("a", "train"), ("b", "valid"))]  # fmt: skip
    (tmp_path / "metadata.json").write_text(json.dumps(cells))
    assert prepare(config_for(tmp_path), "mine", tmp_path) == {"train": 1, "valid": 1}
    (row,) = read_manifest(tmp_path / "data/mine/train.json")
    ((time, path),) = pictures_of(row)
    assert time is None
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / "a.png")))
    assert report_of(tmp_path)["low_rate"] == 1


def test_refusals_are_counted_and_named(tmp_path: Path) -> None:
    tone(tmp_path / "good.wav")
    tone(tmp_path / "short.wav", 0.5)
    tone(tmp_path / "silent.wav", level=0)
    (tmp_path / "text.wav").write_text("no sound")
    picture(tmp_path / "good.png")
    picture(tmp_path / "tiny.png", (8, 8))
    picture(tmp_path / "flat.png", flat=True)
    (tmp_path / "text.png").write_text("no picture")
    film(tmp_path / "mute.mp4", sound=False)
    film(tmp_path / "black.mp4", blank=True)
    lines = ["Uid,Audio,Image,Video", "fine,good.wav,good.png,", "fine2,good.wav,good.png,", "fine,good.wav,good.png,"]
    lines += [f"{name},{name}.wav,good.png," for name in ("short", "silent", "text", "absent")]
    lines += [f"{name}_picture,good.wav,{name}.png," for name in ("tiny", "flat", "text", "absent")]
    lines += ["mute,,,mute.mp4", "black,,,black.mp4", "alone,good.wav,,", "../out,good.wav,good.png,"]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    assert sum(prepare(config_for(tmp_path), "mine", tmp_path).values()) == 2
    assert report_of(tmp_path)["refused"] == {
        "duplicate Uid": 1, "no picture": 1, "unsafe Uid": 1,
        "too short": 1, "silent": 1, "unreadable": 1, "missing": 1,
        "tiny picture": 1, "blank picture": 2, "unreadable picture": 1, "missing picture": 1, "no sound track": 1,
    }  # fmt: skip


def test_running_again_reuses_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        film(tmp_path / "films" / f"{name}.mp4")
    config = config_for(tmp_path)
    prepare(config, "mine", tmp_path / "films")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data/mine").rglob("*.[wj][ap][vg]")}
    assert len(before) + len(list((tmp_path / "data/mine").rglob("*.png"))) == 2 + 2 * 4
    killed = tmp_path / "data/mine/frames/.tmp-0123456789ab"  # as SIGKILL leaves it
    killed.mkdir()
    (killed / "000.500.png").touch()
    prepare(config, "mine", tmp_path / "films")
    assert not killed.exists()
    assert "2 clips were there already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "data/mine").rglob("*.[wj][ap][vg]")}
    with pytest.raises(UserError, match=r"prepared with other settings: frames 4 \(now 2\)"):
        prepare(replace(config, frames=2), "mine", tmp_path / "films")


def test_vggsound_with_best_frames(tmp_path: Path) -> None:
    uids = ["aaaaaaaaaaa_0_10000", "bbbbbbbbbbb_0_10000", "ccccccccccc_0_10000"]
    for uid in uids:
        film(tmp_path / "VGG/video" / f"{uid}.mp4", seconds=2, fps=10)
    (tmp_path / "VGG/vggsound.csv").write_text("\n".join(
        f"{uid[:11]},0,rain,{split}" for uid, split in zip(uids, ("train", "train", "test"), strict=True)
    ))  # fmt: skip
    (tmp_path / "VGG/best_frames.json").write_text(json.dumps({uid: [[3, 12]] for uid in uids}))
    assert prepare(config_for(tmp_path, valid_fraction=0.0), "VGGSound", tmp_path / "VGG") == {"test": 1, "train": 2}
    train, test = (read_manifest(tmp_path / f"data/VGGSound/{split}.json")[0] for split in ("train", "test"))
    assert [time for time, _ in pictures_of(train)] == pytest.approx([0.3, 1.2], abs=0.06)
    assert len(pictures_of(test)) == 4


def test_the_miniature_world_comes_without_loss(tmp_path: Path) -> None:
    mini = MiniworldConfig(train_scenes=3, valid_scenes=2)
    assert prepare(config_for(tmp_path, miniworld=mini), "world") == {"train": 3, "valid": 2}
    (row, *_) = read_manifest(tmp_path / "data/world/train.json")
    scene = next(iter(world.scenes("train", 1, mini.seed)))
    ((_, path),) = pictures_of(row)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), world.picture(scene))
    np.testing.assert_allclose(audio.load(row.audio, 16000), np.clip(world.render(scene), -1, 1), atol=1e-4)  # type: ignore[arg-type]


def test_nothing_to_prepare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not prepared yet"):
        prepare(config_for(tmp_path), "mine")
    with pytest.raises(UserError, match="no such folder or manifest"):
        prepare(config_for(tmp_path), "mine", tmp_path / "absent")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs SONOLUME_TEST_DATA")
def test_real_pairs(tmp_path: Path) -> None:
    assert prepare(config_for(tmp_path), "imagebind", REAL / "audio_image" / "imagebind") == {"train": 2}
    with pytest.raises(UserError, match="not one usable clip"):
        prepare(config_for(tmp_path), "odd", REAL / "odd_formats")


def test_uids_that_are_folders_of_others_lose_no_pictures(tmp_path: Path) -> None:
    """ "dog" and "dog/1" share a folder of pictures, "cat" and "cat.wav/1" a file, "Dog" and "dog" on some systems."""
    uids = ["dog/1", "dog/2", "dog", "Dog", "cat.wav/1", "cat"]
    sounds = [str(tone(tmp_path / f"{number}.wav", 1 + number / 10)) for number in range(len(uids))]
    rows = [{"Uid": uid, "Audio": sound, "Image": str(picture(tmp_path / "a.png")), "Split": "train"}
            for uid, sound in zip(uids, sounds, strict=True)]  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(rows))
    for _ in range(2):  # written, then reused
        assert prepare(config_for(tmp_path), "mine", tmp_path / "m.json") == {"train": 6}
        found = read_manifest(tmp_path / "data/mine/train.json")
        assert [row.uid for row in found] == ["dog/1", "dog/2", "dog-2", "Dog-3", "cat.wav/1", "cat-2"]
        assert [len(pictures_of(row)) for row in found] == [1] * 6
        lengths = [round(soundfile.info(row.audio).duration, 1) for row in found if row.audio]
        assert lengths == [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
        assert report_of(tmp_path)["renamed"] == {"dog": "dog-2", "Dog": "Dog-3", "cat": "cat-2"}
