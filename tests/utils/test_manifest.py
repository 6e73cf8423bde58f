import json
from pathlib import Path

import pytest

from sonolume.utils.errors import UserError
from sonolume.utils.files import find_sounds
from sonolume.utils.manifest import Row, assign_splits, read_manifest, write_manifest


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_json_and_jsonl_say_the_same(tmp_path: Path):
    rows = [
        {"Dataset": "D", "Uid": "a", "Audio": "x/a.wav", "Caption": "Hello, world", "Split": "val", "Duration": 1.5},
        {"Dataset": "D", "Uid": "b", "Audio": "/abs/b.wav", "Caption": "Zwölf Vögel", "Split": "train", "Duration": 2},
    ]
    write(tmp_path / "m.json", json.dumps(rows))
    write(tmp_path / "m.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    lines = [
        "\ufeffdataset,UID,audio,Caption,split,duration",
        'D,a,x/a.wav,"Hello, world",val,1.5',
        "D,b,/abs/b.wav,Zwölf Vögel,train,2",
    ]
    write(tmp_path / "m.csv", "\r\n".join(lines))
    first = read_manifest(tmp_path / "m.json")
    assert first[0] == Row("D", "a", tmp_path / "x/a.wav", ["Hello, world"], split="valid", duration=1.5)
    assert first[1].audio == Path("/abs/b.wav")
    assert first == read_manifest(tmp_path / "m.jsonl") == read_manifest(tmp_path / "m.csv")


def test_path_is_read_as_audio_and_names_the_uid(tmp_path: Path):
    path = write(tmp_path / "m.json", json.dumps([{"Path": "dog/1.flac"}, {"Audio": "b.wav", "Path": "c"}, {"Uid": 7}]))
    rows = read_manifest(path, "mine")
    assert [(row.dataset, row.uid) for row in rows] == [("mine", "dog/1"), ("mine", "b"), ("mine", "7")]
    assert [row.audio for row in rows] == [tmp_path / "dog/1.flac", tmp_path / "b.wav", None]


def test_several_captions(tmp_path: Path):
    rows = [
        {"Uid": "a", "Caption": "one", "Captions": ["one", " two ", ""]},
        {"Uid": "b", "caption_1": "x", "caption_2": "y"},
        {"Uid": "c", "Caption": None},
    ]
    path = write(tmp_path / "m.json", json.dumps(rows))
    assert [row.captions for row in read_manifest(path)] == [["one", "two"], ["x", "y"], []]


def test_a_folder_with_captions_beside(tmp_path: Path):
    (tmp_path / "dog").mkdir()
    for name in ("bell.wav", "dog/a.b.FLAC", "notes.md"):
        write(tmp_path / name, b"")
    write(tmp_path / "bell.txt", "A bell rings\n\nEine Glocke läutet\n")
    rows = read_manifest(tmp_path)
    assert [(row.uid, row.captions) for row in rows] == [
        ("bell", ["A bell rings", "Eine Glocke läutet"]),
        ("dog/a.b", []),
    ]
    assert rows[0].dataset == tmp_path.name


def test_a_folder_of_links_and_videos(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    for name in ("elsewhere/b.mp4", "elsewhere/b.wav", "data/a.webm", "data/c.M4A"):
        write(tmp_path / name, b"")
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/linked/up").symlink_to(tmp_path / "data")  # never ends
    rows = read_manifest(tmp_path / "data")
    assert [row.uid for row in rows] == ["c", "linked/b", "a", "linked/b"]  # sounds come before videos
    assert [row.video is not None for row in rows] == [False, False, True, True]
    assert find_sounds(tmp_path / "data") == [row.audio for row in rows]


def test_files_of_a_manifest_may_lie_elsewhere(tmp_path: Path):
    path = write(tmp_path / "m.csv", "file_name,caption_1,caption_2\na.wav,x,y\n/abs/b.wav,z,\n")
    rows = read_manifest(path, files_in=tmp_path / "wav")
    assert [row.audio for row in rows] == [tmp_path / "wav/a.wav", Path("/abs/b.wav")]
    assert {row.dataset for row in rows} == {tmp_path.name}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: contains none of captions\.csv"):
        read_manifest(tmp_path / "empty", files_in=tmp_path)


def test_one_of_two_columns_is_enough(tmp_path: Path):
    path = write(tmp_path / "m.json", json.dumps([{"Uid": "a", "Video": "a.mp4"}]))
    assert read_manifest(path, require=("Audio|Video",))[0].video == tmp_path / "a.mp4"
    with pytest.raises(UserError, match="no column 'Audio'"):
        read_manifest(path, require=("Audio",))


def test_a_folder_with_a_manifest(tmp_path: Path):
    write(tmp_path / "bell.wav", b"")
    write(tmp_path / "captions.csv", "file_name,caption\nbell.wav,ding\n")
    assert read_manifest(tmp_path, "D") == [Row("D", "bell", tmp_path / "bell.wav", ["ding"])]


def test_writing_and_reading_give_the_same_rows(tmp_path: Path):
    rows = [
        Row("D", "a", tmp_path / "wav" / "a.wav", ["one", "two"], split="train", duration=1.0),
        Row("D", "ü", Path("/elsewhere/u.wav"), ["x"], label="bell", split="valid", scene={"uid": "ü"}),
    ]
    write_manifest(rows, tmp_path / "train.json")
    content = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    assert content[0] == {
        "Dataset": "D",
        "Uid": "a",
        "Caption": "one",
        "Captions": ["one", "two"],
        "Audio": "wav/a.wav",
        "Split": "train",
        "Duration": 1.0,
    }
    assert read_manifest(tmp_path / "train.json") == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.json", b'[{"Uid": "\xff"}]', r"m\.json:1: not UTF-8 \(byte 0xff\)"),
        ("m.csv", b"Uid,Caption\na,ok\nb,caf\xe9\n", r"m\.csv:3: not UTF-8"),
        ("m.json", '[{"Uid": "a"},\n {"Uid": }]', r"m\.json:2: not valid json"),
        ("m.json", "[" * 100000, r"m\.json:1: not valid json"),
        ("m.json", "{}", r"m\.json:1: expected a list of rows, found dict"),
        ("m.json", '[{"Uid": "a"}, 5]', r"m\.json: row 2: expected an object"),
        ("m.jsonl", '{"Uid": "a"}\nnope', r"m\.jsonl:2: not valid json"),
        ("m.csv", "Uid,Caption\na,one, two\n", r"m\.csv:2: more cells than columns"),
        ("m.csv", 'Uid,Caption\na,"open', r"m\.csv:\d+: not valid csv"),
        ("m.csv", "Uid,Caption\n", r"m\.csv: holds no rows"),
        ("m.csv", "id,text\na,b\n", r"m\.csv:1: no column 'Uid'.*known columns: Dataset"),
        ("m.json", '[{"Uid": "a", "Caption": 3}]', r"row 1: Caption is 3"),
        ("m.json", '[{"Uid": ["a"]}]', r"row 1: Uid is \['a'\], expected text"),
        ("m.json", '[{"Caption": "a"}]', r"row 1: neither Uid nor Audio"),
        ("m.csv", "Uid,Duration\na,long\n", r"m\.csv:2: Duration is 'long'"),
        ("m.csv", "Uid,Duration\na,1e400\n", r"m\.csv:2: Duration is '1e400'"),
        ("m.json", '[{"Uid": "a", "Duration": NaN}]', r"row 1: Duration is nan"),
        ("m.json", f'[{{"Uid": "a", "Duration": 1{"0" * 400}}}]', r"row 1: Duration is 1000"),
        ("m.json", f'[{{"Uid": "a", "Duration": {"1" * 5000}}}]', r"m\.json:1: not valid json"),
        ("m.jsonl", '{"Uid": "a"}\n{"Uid": ' + "1" * 5000 + "}", r"m\.jsonl:2: not valid json"),
        ("m.xml", "", r"m\.xml: a manifest is a folder or one of \.csv"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path: Path, name: str, content: str | bytes, message: str):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        read_manifest(path)


def test_a_required_column_may_not_be_absent(tmp_path: Path):
    path = write(tmp_path / "m.csv", "Uid,Autio,Caption\na,b.wav,c\n")
    with pytest.raises(UserError, match=r"m\.csv:1: no column 'Audio' \(is it 'autio'\?\)"):
        read_manifest(path, require=("Audio",))


def test_missing_and_empty_sources(tmp_path: Path):
    with pytest.raises(UserError, match="no such manifest or folder"):
        read_manifest(tmp_path / "gone.json")
    with pytest.raises(UserError, match=r"holds neither sound files nor any of captions\.csv"):
        read_manifest(tmp_path)


def test_a_sidecar_that_is_not_utf8_is_named(tmp_path: Path):
    write(tmp_path / "a.wav", b"")
    write(tmp_path / "a.txt", b"fine\ncaf\xe9")
    with pytest.raises(UserError, match=r"a\.txt:2: not UTF-8"):
        read_manifest(tmp_path)


def test_splits_by_hash_are_stable_and_of_the_asked_size():
    def valid(fraction: float, count: int = 4000) -> set[str]:
        rows = [Row("D", f"clip {number}") for number in range(count)]
        assign_splits(rows, fraction)
        return {row.uid for row in rows if row.split == "valid"}

    assert 0.08 < len(valid(0.1)) / 4000 < 0.12
    assert valid(0.1) <= valid(0.2) and valid(0.1, 2000) <= valid(0.1)
    assert not valid(0.0)


def test_missing_splits_are_filled_and_some_row_is_validated_on():
    rows = [Row("D", "a"), Row("D", "b"), Row("D", "c", split="test")]
    assign_splits(rows, 1e-9)
    assert sorted(str(row.split) for row in rows) == ["test", "train", "valid"]
    given = [Row("D", "a", split="train"), Row("D", "b", split="train")]
    assign_splits(given, 0.5)
    assert [row.split for row in given] == ["train", "train"]


@pytest.mark.parametrize("column", ["Caption", "caption_2", "Label"])
def test_half_a_character_is_one_line(tmp_path: Path, column: str) -> None:
    rows = [{"Uid": "a", "Caption": "b"}, {"Uid": "b", column: "dog \ud83d"}]
    (tmp_path / "m.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"m.json: row 2: .*ud83d"):
        read_manifest(tmp_path / "m.json")


def test_thousands_of_captions_of_one_clip(tmp_path: Path) -> None:
    captions = [f"caption {number % 30_000}" for number in range(60_000)]
    (tmp_path / "m.json").write_text(json.dumps([{"Uid": "a", "Captions": captions}]))
    assert read_manifest(tmp_path / "m.json")[0].captions == captions[:30_000]
