import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sonolume.config.base import MiniworldConfig, PreprocessConfig
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors import parallel, text_audio
from sonolume.preprocessors.prepared import screen
from sonolume.preprocessors.text_audio import Plan, prepare
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, read_manifest

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("SONOLUME_TEST_DATA", ROOT.parent / "shared" / "data"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no recordings: set SONOLUME_TEST_DATA to their folder")


def noise(seconds: float, seed: int = 0, sample_rate: int = 16000) -> np.ndarray:
    return 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * sample_rate)).astype(np.float32)


def record(
    folder: Path, name: str, wave: np.ndarray, caption: str | None = "a sound", sample_rate: int = 16000
) -> Path:
    path = folder / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, sample_rate, subtype="FLOAT")
    if caption:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path) -> PreprocessConfig:
    return PreprocessConfig(processed_dir=str(tmp_path / "data"), frames=64, num_workers=1, valid_fraction=0.2)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five usable clips: 1.5 s, of which 64 frames are 1.024 s."""
    for number in range(5):
        record(tmp_path / "raw sounds", f"clip {number}", noise(1.5, number), f"caption {number}")
    return tmp_path / "raw sounds"


def features(tmp_path: Path, uid: str) -> np.ndarray:
    return np.load(tmp_path / "data" / "mine" / "mel" / f"{uid}.npy")


def report(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "data" / "mine" / "report.json").read_text(encoding="utf-8"))


def test_the_rest_of_longer_clips_is_reported(
    tmp_path: Path, source: Path, config: PreprocessConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    record(source, "short", noise(1.02, 9))
    prepare(config, "mine", source)
    assert "5 of 6 clips are longer than 1.024 s" in capsys.readouterr().out and report(tmp_path)["longer"] == 5
    config.windows = 2
    prepare(config, "all", source)
    assert "longer than" not in capsys.readouterr().out


def test_recordings_become_features_and_manifests(tmp_path: Path, source: Path, config: PreprocessConfig):
    counts = prepare(config, "mine", source)
    folder = tmp_path / "data" / "mine"
    train, valid = read_manifest(folder / "train.json"), read_manifest(folder / "valid.json")
    assert counts == {"train": len(train), "valid": len(valid)}
    assert len(train) + len(valid) == 5
    assert valid
    row = next(row for row in train + valid if row.uid == "clip 3")
    assert (row.dataset, row.captions, row.audio) == ("mine", ["caption 3"], source / "clip 3.wav")
    assert row.duration == pytest.approx(1.024)
    expected = MelSpectrogram()(torch.from_numpy(noise(1.5, 3))[None])[0, :, :64]
    np.testing.assert_allclose(features(tmp_path, "clip 3"), expected.numpy(), atol=1e-4)
    assert features(tmp_path, "clip 3").dtype == np.float32
    assert report(tmp_path)["refused"] == {}


def test_the_second_run_computes_only_what_is_new(tmp_path: Path, source: Path, config: PreprocessConfig, capsys):
    prepare(config, "mine", source)
    marker = np.zeros((80, 64), np.float32)
    np.save(tmp_path / "data/mine/mel/clip 1.npy", marker)
    record(source, "new", noise(0.5))
    changed = record(source, "clip 2", noise(1.5, 99))
    os.utime(changed, (2e9, 2e9))
    prepare(config, "mine", source)
    assert "4 clips were there already" in capsys.readouterr().out
    assert (features(tmp_path, "clip 1") == marker).all()
    assert features(tmp_path, "new").shape == (80, 31)
    expected = MelSpectrogram()(torch.from_numpy(noise(1.5, 99))[None])[0, :, :64]
    np.testing.assert_allclose(features(tmp_path, "clip 2"), expected.numpy(), atol=1e-4)


def test_features_of_other_settings_are_not_mixed(tmp_path: Path, source: Path, config: PreprocessConfig):
    prepare(config, "mine", source)
    config.hop_size, config.frames = 128, 128
    with pytest.raises(UserError, match=r"hop_size 256 \(now 128\), frames 64 \(now 128\); remove .*mel"):
        prepare(config, "mine", source)
    with pytest.raises(UserError, match="hop_size 256"):
        prepare(config, "mine")
    config.hop_size, config.frames = 256, 64
    with pytest.raises(UserError, match=r"input .*raw sounds \(now .*others\)"):
        record(tmp_path / "others", "clip 1", noise(1))
        prepare(config, "mine", tmp_path / "others")


def test_features_of_unknown_settings_are_not_mixed(tmp_path: Path, source: Path, config: PreprocessConfig):
    (tmp_path / "data/mine/mel").mkdir(parents=True)
    np.save(tmp_path / "data/mine/mel/old.npy", np.zeros((80, 64)))
    with pytest.raises(UserError, match=r"settings\.json: no such file.*remove"):
        prepare(config, "mine", source)


def test_a_prepared_data_set_needs_no_input(source: Path, config: PreprocessConfig, capsys):
    counts = prepare(config, "mine", source)
    assert prepare(config, "mine") == counts
    assert "prepared before" in capsys.readouterr().out


def test_unusable_clips_are_counted_and_left_out(tmp_path: Path, source: Path, config: PreprocessConfig, capsys):
    (source / "broken.wav").write_bytes(b"RIFF nonsense")
    broken_caption = source / "broken.txt"
    broken_caption.write_text("broken")
    record(source, "empty", np.zeros(0, np.float32))
    record(source, "silent", np.zeros(16000, np.float32))
    record(source, "short", noise(0.05))
    record(source, "nan", np.where(np.arange(16000) == 500, np.nan, noise(1)))
    record(source, "mute", noise(1), caption=None)
    counts = prepare(config, "mine", source)
    assert sum(counts.values()) == 5
    reasons = {item["uid"]: item["reason"] for item in report(tmp_path)["refusals"]}
    assert reasons == {
        "broken": "unreadable",
        "empty": "empty",
        "silent": "silent",
        "short": "too short",
        "nan": "NaN",
        "mute": "no caption",
    }
    assert "left out 6: " in capsys.readouterr().out
    assert len(list((tmp_path / "data/mine/mel").glob("*.npy"))) == 5


def test_bad_uids_never_leave_the_folder(tmp_path: Path, config: PreprocessConfig):
    record(tmp_path, "a", noise(1))
    uids = ["ok/nested.x", "../up", "/abs", "a/../../b", "C:\\x", "x" * 300, ".", "good", "good", "a//b"]
    rows = [{"Uid": uid, "Audio": "a.wav", "Caption": "c", "Split": "train"} for uid in uids]
    (tmp_path / "m.json").write_text(json.dumps([*rows, {"Uid": "none", "Caption": "c"}]))
    assert prepare(config, "mine", tmp_path / "m.json") == {"train": 2}
    assert report(tmp_path)["refused"] == {"unsafe Uid": 7, "duplicate Uid": 1, "no sound": 1}
    written = {path.relative_to(tmp_path / "data/mine/mel").as_posix() for path in tmp_path.glob("**/*.npy")}
    assert written == {"ok/nested.x.npy", "good.npy"}


def test_the_first_of_two_equal_uids_is_kept():
    rows = [Row("D", "a", Path("1.wav"), ["x"]), Row("D", "a", Path("2.wav"), ["y"])]
    kept, left_out = screen(rows)
    assert kept == rows[:1]
    assert [(one.uid, one.reason) for one in left_out] == [("a", "duplicate Uid")]


def test_windows_of_one_clip_follow_each_other(tmp_path: Path, config: PreprocessConfig):
    config.windows = 3
    for number in range(3):
        record(tmp_path / "in", f"c{number}", noise((5.0, 2.0, 1.06)[number], number))
    for _ in range(2):  # computed, then reused
        prepare(config, "mine", tmp_path / "in")
        rows = [row for name in ("train", "valid") for row in read_manifest(tmp_path / f"data/mine/{name}.json")]
        lengths = {row.uid: features(tmp_path, row.uid).shape[1] for row in rows}
        assert lengths == {"c0_w0": 64, "c0_w1": 64, "c0_w2": 64, "c1_w0": 64, "c1_w1": 61, "c2_w0": 64}
        assert len({row.split for row in rows if row.uid.startswith("c0")}) == 1
    whole = MelSpectrogram()(torch.from_numpy(noise(5.0))[None])[0].numpy()
    parts = np.concatenate([features(tmp_path, f"c0_w{index}") for index in range(3)], axis=1)
    np.testing.assert_allclose(parts, whole[:, :192], atol=1e-4)


def test_a_clip_that_became_shorter_loses_its_last_windows(tmp_path: Path, config: PreprocessConfig):
    config.windows = 4
    for seconds, windows in ((4.0, 4), (2.0, 2)):
        record(tmp_path / "in", "a", noise(seconds))
        for _ in range(2):  # computed, then reused
            assert prepare(config, "mine", tmp_path / "in") == {"train": windows}
    assert sorted(path.name for path in (tmp_path / "data/mine/mel").glob("*.npy")) == ["a_w0.npy", "a_w1.npy"]


def test_a_replaced_clip_is_seen_even_with_an_old_time(tmp_path: Path, source: Path, config: PreprocessConfig):
    prepare(config, "mine", source)
    before = features(tmp_path, "clip 1")
    replaced = record(source, "clip 1", noise(1.5, 99))
    os.utime(replaced, (1e9, 1e9))  # as cp -p and tar do
    prepare(config, "mine", source)
    assert np.abs(features(tmp_path, "clip 1") - before).max() > 0.1


def test_sounds_of_a_manifest_lie_elsewhere(tmp_path: Path, config: PreprocessConfig, capsys):
    """As in Clotho: file_name and five captions, the sounds in a folder of their own."""
    record(tmp_path / "development", "Santa Motor", noise(1), caption=None)
    table = tmp_path / "clotho_captions_development.csv"
    table.write_text("file_name,caption_1,caption_2\nSanta Motor.wav,A machine,A motor\ngone.wav,x,y\n")
    assert prepare(config, "clotho", table, audio_dir=tmp_path / "development") == {"train": 1}
    (row,) = read_manifest(tmp_path / "data/clotho/train.json")
    assert (row.uid, row.captions) == ("Santa Motor", ["A machine", "A motor"])
    assert "1 of 2 clips are missing: listed in report.json" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"audio_dir None \(now .*development"):
        mel = tmp_path / "data/clotho/mel/settings.json"
        mel.write_text(mel.read_text().replace(json.dumps(str(tmp_path / "development")), "null"))
        prepare(config, "clotho", table, audio_dir=tmp_path / "development")


def test_a_video_column_gives_its_sound_track(tmp_path: Path, config: PreprocessConfig):
    record(tmp_path, "film", noise(1)).rename(tmp_path / "film.mp4")  # libsndfile reads any suffix
    (tmp_path / "m.json").write_text(json.dumps([{"Uid": "a", "Video": "film.mp4", "Caption": "c", "Label": "dog"}]))
    assert prepare(config, "mine", tmp_path / "m.json") == {"train": 1}
    (row,) = read_manifest(tmp_path / "data/mine/train.json")
    assert (row.audio, row.video, row.label) == (tmp_path / "film.mp4", tmp_path / "film.mp4", "dog")


def test_without_pyav_the_extra_is_named(tmp_path: Path, source: Path, config: PreprocessConfig, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    for name in ("a.m4a", "b.mp4"):
        (source / name).write_bytes(b"\0\0\0 ftyp")
        (source / name).with_suffix(".txt").write_text("c")
    assert sum(prepare(config, "mine", source).values()) == 5
    out = capsys.readouterr().out
    assert "2 needs PyAV" in out
    assert out.count("-m pip install -e ") == 1 and '[video]"' in out


def test_prepared_rows_without_features_are_counted(tmp_path: Path, source: Path, config: PreprocessConfig, capsys):
    counts = prepare(config, "mine", source)
    (tmp_path / "data/mine/mel/clip 2.npy").unlink()
    assert sum(prepare(config, "mine").values()) == sum(counts.values()) - 1
    assert "rows without features, such as clip 2" in capsys.readouterr().out
    for path in (tmp_path / "data/mine/mel").glob("*.npy"):
        path.unlink()
    with pytest.raises(UserError, match="no usable rows"):
        prepare(config, "mine")


def test_a_prepared_uid_that_leads_out_of_the_folder(tmp_path: Path, source: Path, config: PreprocessConfig):
    prepare(config, "mine", source)
    (tmp_path / "data/mine/train.json").write_text(json.dumps([{"Uid": "../../etc/x", "Caption": "c"}]))
    with pytest.raises(UserError, match=r"Uid '\.\./\.\./etc/x' is not a file name inside"):
        prepare(config, "mine")


def test_nothing_left_to_train_on_is_an_error(tmp_path: Path, source: Path, config: PreprocessConfig):
    rows = [{"Uid": "a", "Audio": "clip 0.wav", "Caption": "c", "Split": "valid"}]
    (source / "only.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="all clips went to validation"):
        prepare(config, "mine", source / "only.json")
    assert not (tmp_path / "data" / "mine" / "train.json").exists()


def test_clips_without_a_caption_serve_where_none_is_needed(tmp_path: Path, source: Path, config: PreprocessConfig):
    record(source, "silent words", noise(1.5, 9), caption=None)
    assert sum(prepare(config, "mine", source).values()) == 5
    assert sum(prepare(config, "all", source, captions=False).values()) == 6


def test_given_splits_are_kept(tmp_path: Path, source: Path, config: PreprocessConfig):
    splits = ["train", "val", "test", "train", "test"]
    rows = [{"Uid": f"clip {n}", "Audio": f"clip {n}.wav", "Caption": "c", "Split": s} for n, s in enumerate(splits)]
    (source / "metadata.json").write_text(json.dumps(rows))
    assert prepare(config, "mine", source) == {"train": 2, "valid": 1, "test": 2}
    assert [row.uid for row in read_manifest(tmp_path / "data/mine/test.json")] == ["clip 2", "clip 4"]


def test_nothing_usable_is_an_error_that_counts(tmp_path: Path, config: PreprocessConfig):
    record(tmp_path / "in", "a", noise(1), caption=None)
    record(tmp_path / "in", "b", np.zeros(16000, np.float32))
    with pytest.raises(UserError, match=r"not one usable clip \(1 no caption, 1 silent\); see .*report\.json"):
        prepare(config, "mine", tmp_path / "in")
    assert not (tmp_path / "data/mine/train.json").exists()
    record(tmp_path / "other", "a", noise(1))  # and the folder is still free for another input
    assert prepare(config, "mine", tmp_path / "other") == {"train": 1}


def test_a_missing_input_says_how_to_get_data(tmp_path: Path, config: PreprocessConfig):
    for source in (None, tmp_path / "gone"):
        with pytest.raises(UserError, match=r"no such folder or manifest.*--input.*autoencoderkl/tiny\.json"):
            prepare(config, "mine", source)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dataset", ["../x", "a/b", "", ".."])
def test_a_data_set_is_one_folder(config: PreprocessConfig, dataset: str):
    with pytest.raises(UserError, match="not the name of a folder"):
        prepare(config, dataset)


def test_the_raw_folder_is_the_default_input(tmp_path: Path, config: PreprocessConfig):
    record(tmp_path / "data/mine/raw", "a", noise(1))
    assert prepare(config, "mine") == {"train": 1}


def test_processes_give_the_same_outcomes_in_order(tmp_path: Path, source: Path, monkeypatch):
    """Two processes take over after the first of four clips."""
    rows = [Row("D", f"clip {n}", source / f"clip {n}.wav") for n in (4, 0, 9, 2)]
    plans = [Plan(tmp_path / name, text_audio.MelSettings(), 64, 1) for name in ("one", "two")]
    monkeypatch.setattr(parallel, "_cores", lambda: 2)
    monkeypatch.setattr(parallel.Workers, "are_ready", lambda _: True)
    monkeypatch.setattr(parallel, "processes_worth", lambda seconds, *_: min(2, 1 + len(seconds)))
    one = text_audio.compute(rows, plans[0], {})
    assert one == text_audio.compute(rows, plans[1], {}, num_workers=2)
    assert [outcome.left_out and outcome.left_out.reason for outcome in one] == [None, None, "missing", None]
    for path in (tmp_path / "one").glob("*.npy"):
        np.testing.assert_array_equal(np.load(path), np.load(tmp_path / "two" / path.name))


def test_the_miniature_world_needs_no_recordings(tmp_path: Path, config: PreprocessConfig):
    config.frames, config.miniworld = 160, MiniworldConfig(train_scenes=6, valid_scenes=2, captions_per_scene=2)
    assert prepare(config, "mine") == {"train": 6, "valid": 2}
    rows = read_manifest(tmp_path / "data/mine/train.json")
    assert all(row.scene and row.scene["uid"] == row.uid and row.captions for row in rows)
    mel = features(tmp_path, rows[0].uid)
    assert mel.shape == (80, 160)
    assert mel.max() > -6
    config.miniworld.train_scenes = 8
    assert prepare(config, "mine")["train"] == 8
    config.miniworld.seed = 5
    with pytest.raises(UserError, match=r"seed 1 \(now 5\)"):
        prepare(config, "mine")


def test_mistakes_about_the_miniature_world(config: PreprocessConfig):
    config.miniworld = MiniworldConfig(train_scenes=1, kinds=["unicorn"])
    with pytest.raises(UserError, match=r"preprocess\.miniworld: .*unicorn"):
        prepare(config, "mine")
    config.sample_rate = 22050
    with pytest.raises(UserError, match="sample_rate 22050"):
        prepare(config, "mine")


@needs_real
def test_real_recordings(tmp_path: Path, config: PreprocessConfig):
    rows = json.loads((REAL / "text_audio/esc10/metadata.json").read_text(encoding="utf-8"))[::13]
    for row in rows:
        row["Path"] = str(REAL / "text_audio/esc10" / row["Path"])
    (tmp_path / "m.json").write_text(json.dumps(rows))
    config.frames = 624
    counts = prepare(config, "mine", tmp_path / "m.json")
    assert counts == {split: sum(row["Split"] == split for row in rows) for split in ("train", "valid")}
    assert all(counts.values())
    assert features(tmp_path, rows[0]["Uid"]).shape == (80, 312)  # 5.0 s


@needs_real
def test_real_odd_files(tmp_path: Path, config: PreprocessConfig):
    rows = json.loads((REAL / "odd_formats/metadata.json").read_text(encoding="utf-8"))
    for row in rows:
        row |= {"Path": str(REAL / "odd_formats" / row["Path"]), "Caption": "c", "Split": "train"}
    (tmp_path / "m.json").write_text(json.dumps(rows))
    prepare(config, "mine", tmp_path / "m.json")
    reasons = {item["uid"]: item["reason"] for item in report(tmp_path)["refusals"]}
    assert reasons == {
        "silence.wav": "silent",
        "ten_ms.wav": "too short",
        "truncated.wav": "truncated",
        "empty.wav": "empty",
        "text_not_audio.wav": "unreadable",
        "video_without_audio.mp4": "no sound track",
        "rgba.png": "unreadable",
        "gray.png": "unreadable",
        "truncated.jpg": "unreadable",
    }
