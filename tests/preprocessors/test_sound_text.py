import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonolume.config.base import MiniworldConfig
from sonolume.config.sound_text import SoundTextConfig, TextField
from sonolume.preprocessors.sound_text import prepare, read_split
from sonolume.utils import audio
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from tests.fsd50k_tree import LABELS, SAMPLE_RATE, fsd50k_tree, wave

REAL = Path(os.environ.get("SONOLUME_TEST_DATA", "absent"))


@pytest.fixture
def config(tmp_path: Path) -> SoundTextConfig:
    return SoundTextConfig(processed_dir=str(tmp_path / "data"), num_workers=0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fsd50k_tree(tmp_path / "FSD50K")


def report(tmp_path: Path, name: str = "mine/report.json") -> dict:
    return json.loads((tmp_path / "data" / name).read_text(encoding="utf-8"))


def reasons(tmp_path: Path) -> dict[str, str]:
    return {one["uid"]: one["reason"] for one in report(tmp_path)["refusals"]}


def texts(config: SoundTextConfig, split: str) -> dict[str, list[str]]:
    return {row.uid: row.captions for row in read_split(config, ["mine"], split)}


def test_fsd50k(tmp_path: Path, config: SoundTextConfig, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.seconds = 0.4
    assert prepare(config, "mine", source) == {"train": 4, "valid": 2, "test": 3}
    printed = capsys.readouterr().out
    assert "5 distinct texts (preprocess.text_field=labels)" in printed
    assert "9 of 9 clips are longer than 0.4 s: what follows is left out (preprocess.seconds)" in printed
    assert report(tmp_path) | {"texts": 5, "longer": 9, "low_rate": 0, "refused": {}} == report(tmp_path)
    assert set(texts(config, "test")) == set(LABELS["eval"])
    assert texts(config, "valid")["4931"] == ["Piano Keyboard musical Musical instrument Music"]
    row = read_split(config, ["mine"], "train")[0]
    assert row.audio
    assert (row.uid, row.label, row.duration) == ("64760", "Electric guitar", 0.4)
    info = soundfile.info(row.audio)
    assert (info.samplerate, info.channels, info.frames) == (16000, 1, 6400)
    expected = audio.load(source / "FSD50K.dev_audio" / "64760.wav", 16000)[:6400]
    assert np.abs(audio.load(row.audio, 16000) - expected).max() < 1e-4  # 16 bits


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (TextField.title, "Take 1.wav"),
        (TextField.description, "Recorded in room 1."),
        (TextField.tags, "field-recording take 1"),
        (TextField.template, "a photo of Electric guitar"),
    ],
)
def test_fields_of_fsd50k(config: SoundTextConfig, source: Path, field: TextField, text: str) -> None:
    config.text_field = field
    prepare(config, "mine", source)
    assert texts(config, "train")["16399"] == [text]


def test_a_second_run_reuses_sounds(tmp_path: Path, config: SoundTextConfig, source: Path, capsys) -> None:
    prepare(config, "mine", source)
    first = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.wav")}
    made = (tmp_path / "data/mine/audio/20.wav").stat().st_mtime_ns
    soundfile.write(source / "FSD50K.dev_audio" / "21.wav", wave(0.7), SAMPLE_RATE)
    (tmp_path / "data/mine/audio/22.wav").unlink()
    assert prepare(config, "mine", source) == {"train": 4, "valid": 2, "test": 3}
    assert "(7 clips were there already)" in capsys.readouterr().out
    assert (tmp_path / "data/mine/audio/20.wav").stat().st_mtime_ns == made
    changed = {path.stem for path, content in first.items() if path.read_bytes() != content}
    assert changed == {"21"}
    assert prepare(config, "mine") == {"train": 4, "valid": 2}  # counts what training reads


@pytest.mark.parametrize("setting", [{"text_field": TextField.template}, {"seconds": 0.3}, {"sample_rate": 8000}])
def test_settings_that_shape_files_are_compared(config: SoundTextConfig, source: Path, setting: dict) -> None:
    prepare(config, "mine", source)
    name, value = next(iter(setting.items()))
    setattr(config, name, value)
    with pytest.raises(UserError, match=rf"prepared with other settings: {name} .*\(now {value}\)"):
        prepare(config, "mine", source)
    for reads in (lambda: read_split(config, ["mine"], "train"), lambda: prepare(config, "mine")):
        with pytest.raises(UserError, match=rf"prepared with {name} .*, not {value}"):
            reads()


def test_labels_and_clips_without_each_other(tmp_path: Path, config: SoundTextConfig, source: Path, capsys) -> None:
    (source / "FSD50K.dev_audio" / "20.wav").unlink()
    soundfile.write(source / "FSD50K.dev_audio" / "99.wav", wave(0.5), SAMPLE_RATE)
    table = source / "FSD50K.ground_truth" / "dev.csv"
    content = table.read_text().replace('"Rain,Water"', '""') + '64760,"Rain",/m/1,train\n../x,Rain,/m/1,val\n'
    table.write_text(content)
    assert prepare(config, "mine", source) == {"train": 2, "valid": 2, "test": 3}
    assert reasons(tmp_path) == {
        "20": "missing", "99": "no labels", "21": "no text", "64760": "duplicate Uid", "../x": "unsafe Uid",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "left out 5: 1 no labels, 1 no text, 1 duplicate Uid, 1 unsafe Uid, 1 missing" in printed
    missing = next(one for one in report(tmp_path)["refusals"] if one["uid"] == "20")
    assert missing["audio"] == str(source / "FSD50K.dev_audio" / "20.wav")


def test_empty_and_absent_fields_are_counted(tmp_path: Path, config: SoundTextConfig, source: Path) -> None:
    path = source / "FSD50K.metadata" / "dev_clips_info_FSD50K.json"
    info = json.loads(path.read_text())
    info["20"]["title"], info["21"]["title"], info["22"] = " \n", None, {}
    del info["16399"]
    path.write_text(json.dumps(info))
    config.text_field = TextField.title
    assert prepare(config, "mine", source) == {"train": 1, "valid": 1, "test": 3}
    assert reasons(tmp_path) == dict.fromkeys(["16399", "20", "21", "22"], "no text")
    assert "text_field=title" in report(tmp_path)["refusals"][0]["detail"]


def test_unusable_sounds_are_counted(tmp_path: Path, config: SoundTextConfig, source: Path) -> None:
    folder = source / "FSD50K.dev_audio"
    broken = wave(0.5)
    broken[100] = np.nan
    for uid, samples in {"20": np.zeros(SAMPLE_RATE), "21": broken, "22": wave(0.19)}.items():
        soundfile.write(folder / f"{uid}.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    content = (folder / "64760.wav").read_bytes()
    (folder / "64760.wav").write_bytes(content[: len(content) // 2])
    (folder / "16399.wav").write_text("not a sound")
    assert prepare(config, "mine", source) == {"valid": 1, "test": 3}
    expected = {"20": "silent", "21": "NaN", "22": "too short", "64760": "truncated", "16399": "unreadable"}
    assert reasons(tmp_path) == expected
    with pytest.raises(UserError, match=r"train\.json: holds no rows"):
        read_split(config, ["mine"], "train")


def save_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def save_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


@pytest.mark.parametrize(("name", "save"), [("metadata.csv", save_csv), ("metadata.jsonl", save_jsonl)])
def test_a_folder_copy_of_the_hubs_columns(tmp_path: Path, config: SoundTextConfig, name: str, save: Callable) -> None:
    folder = fsd50k_tree(tmp_path / "copy")
    rows = [
        {"file_name": f"FSD50K.dev_audio/{uid}.wav", "title": f"{uid}.wav", "description": "", "tags": "a,b", "labels":
         labels, "mids": "/m/1", "license": "CC0", "uploader": "x", "split": "val" if uid == "22" else "train"}
        for uid, labels in LABELS["dev"].items()
    ]  # fmt: skip
    save(folder / name, rows)
    assert prepare(config, "mine", folder) == {"train": 5, "valid": 1}
    assert texts(config, "valid") == {"FSD50K.dev_audio/22": ["Thunder Thunderstorm"]}
    config.text_field = TextField.tags
    prepare(config, "tags", folder)
    assert read_split(config, ["tags"], "valid")[0].captions == ["a b"]
    config.text_field = TextField.description
    with pytest.raises(UserError, match=r"not one usable clip \(6 no text\)"):
        prepare(config, "descriptions", folder)


def test_parquet_is_named(tmp_path: Path, config: SoundTextConfig) -> None:
    path = tmp_path / "hub" / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1")
    for source in (tmp_path / "hub", path):
        with pytest.raises(UserError, match=r"parquet files are not read: .*egs/DATA\.md"):
            prepare(config, "mine", source)


def test_audiocaps_and_clotho_have_captions(tmp_path: Path, config: SoundTextConfig) -> None:
    tables = {
        "train": "audiocap_id,youtube_id,start_time,caption\n1,abc,30,A dog barks",
        "clotho": "file_name,caption_1,caption_2\nabc_30.wav,Rain falls,It rains",
    }
    for name, table in tables.items():
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "abc_30.wav", wave(0.5), SAMPLE_RATE)
        (tmp_path / name / f"{name}.csv").write_text(table)
        prepare(config, name, tmp_path / name / f"{name}.csv")
    assert read_split(config, ["train"], "train")[0].captions == ["A dog barks"]
    assert read_split(config, ["clotho"], "train")[0].captions == ["Rain falls", "It rains"]


def test_vggsound_has_labels(tmp_path: Path, config: SoundTextConfig) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "vggsound.csv").write_text('abcdefghijk,30,"playing violin, fiddle",test\n')
    (tmp_path / "low_quality_videos.txt").write_text("abcdefghijk")  # of its pictures
    soundfile.write(tmp_path / "audio" / "abcdefghijk_30_40.wav", wave(0.5), SAMPLE_RATE)
    assert prepare(config, "mine", tmp_path) == {"test": 1}
    assert texts(config, "test") == {"abcdefghijk_30_40": ["playing violin fiddle"]}


def test_the_miniature_world(tmp_path: Path, config: SoundTextConfig) -> None:
    config.miniworld = MiniworldConfig(train_scenes=8, valid_scenes=4)
    for _ in range(2):
        assert prepare(config, "mine") == {"train": 8, "valid": 4}
    rows = read_split(config, ["mine"], "train")
    assert {row.duration for row in rows} == {2.56} and all(row.scene for row in rows)
    single = [row for row in rows if len((row.scene or {})["events"]) == 1]
    assert 0 < len(single) < 8
    for row in rows:
        assert (row.captions == [row.label]) if row in single else (row.label is None and len(row.captions) == 3)
    config.text_field = TextField.description
    prepare(config, "captions")
    assert all(len(row.captions) > 1 for row in read_split(config, ["captions"], "train"))
    config.miniworld.seed = 2
    with pytest.raises(UserError, match="seed 1, not 2"):
        read_split(config, ["captions"], "train")


def test_nothing_to_prepare(tmp_path: Path, config: SoundTextConfig) -> None:
    with pytest.raises(UserError, match="not prepared yet"):
        prepare(config, "mine")
    with pytest.raises(UserError, match="no such folder or manifest of sounds"):
        prepare(config, "mine", tmp_path / "absent")
    with pytest.raises(UserError, match=r"mine/train\.json: no such file"):
        read_split(config, ["mine"], "train")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs SONOLUME_TEST_DATA")
def test_real_recordings(tmp_path: Path, config: SoundTextConfig) -> None:
    assert prepare(config, "esc10", REAL / "text_audio" / "esc10") == {"train": 160, "valid": 80}
    labels = {text for row in read_split(config, ["esc10"], "valid") for text in row.captions}
    assert len(labels) == 10 and "dog bark" in labels
    config.text_field = TextField.description
    assert prepare(config, "misc", REAL / "text_audio" / "misc") == {"train": 24, "valid": 4}
    rows: list[Row] = read_split(config, ["misc"], "train")
    assert next(row for row in rows if row.uid == "max_birds1").captions == ["Birds chirp and sing outdoors"]
    assert prepare(config, "clotho", REAL / "text_audio" / "clotho")["train"] == 4
    assert all(len(row.captions) == 5 for row in read_split(config, ["clotho"], "train"))
