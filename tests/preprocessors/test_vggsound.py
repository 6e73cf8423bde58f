import json
import pickle
from pathlib import Path

import pytest

from sonolume.config.audio_to_image import PairsConfig
from sonolume.preprocessors import vggsound
from sonolume.utils.errors import UserError

IDS = ["-_gaZzFfzDQ", "3YOH4c9HXpo", "aaaaaaaaaaa", "bbbbbbbbbbb"]
PUBLISHED = "\n".join(
    [
        f"{IDS[0]},517,people marching,test",
        f'{IDS[1]},290,"dog, barking",train',
        f"{IDS[1]},290,dog growling,train",
        f"{IDS[2]},0,rain,train",
        f"{IDS[3]},0,rain,train",
    ]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Empty files: reading the layout opens none."""
    for uid in ("-_gaZzFfzDQ_517000_527000", "3YOH4c9HXpo_290000_300000", "aaaaaaaaaaa_0_10000", "unknownnnnn_0_10000"):
        for kind, suffix in (("video", ".mp4"), ("audio", ".wav")):
            path = tmp_path / kind / f"{uid}{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    (tmp_path / "video" / "bbbbbbbbbbb_0_10000.mp4").touch()  # its sound was not extracted
    (tmp_path / "vggsound.csv").write_text(PUBLISHED)
    return tmp_path


def test_the_table_as_published(folder: Path) -> None:
    found, _, _ = vggsound.read(folder, "VGGSound", PairsConfig())
    rows = {row.uid: row for row in found}
    assert [uid[:11] for uid in rows] == IDS
    dog = rows["3YOH4c9HXpo_290000_300000"]
    assert dog.label == "dog, barking"  # the first of two
    assert (dog.audio, dog.video) == (folder / "audio" / f"{dog.uid}.wav", folder / "video" / f"{dog.uid}.mp4")
    assert [row.split for row in found] == ["test", None, None, None]
    alone = rows["bbbbbbbbbbb_0_10000"]
    assert alone.audio == alone.video  # its sound track


def test_with_the_header_that_audiotoken_added(folder: Path) -> None:
    rows = [f"0,train,{IDS[1]},dog barking", f"1,test,{IDS[0]},people marching"]
    (folder / "vggsound.csv").write_text("\n".join([",set,ytid,class", *rows]))
    rows, _, _ = vggsound.read(folder / "vggsound.csv", "VGGSound", PairsConfig())
    assert [(row.label, row.split) for row in rows] == [("people marching", "test"), ("dog barking", None)]


@pytest.mark.parametrize("suffix", [".txt", ".pkl"])
def test_lists_leave_out_train_videos_only(folder: Path, suffix: str) -> None:
    lists = {"unmatch_videos": IDS[:2], "low_quality_videos": [IDS[2]]}
    (folder / "constants").mkdir()
    for name, ids in lists.items():
        path = folder / "constants" / f"{name}{suffix}"
        path.write_bytes(pickle.dumps(ids) if suffix == ".pkl" else "\n".join(ids).encode())
    rows, left_out, _ = vggsound.read(folder, "VGGSound", PairsConfig())
    assert [row.uid[:11] for row in rows] == [IDS[0], IDS[3]]
    assert {one.reason for one in left_out} == {f"listed in {name}" for name in lists}
    config = PairsConfig(filter_unmatch_videos=False, filter_low_quality_imgs=False)
    assert len(vggsound.read(folder, "VGGSound", config)[0]) == 4


def test_best_frames(folder: Path) -> None:
    uid = "aaaaaaaaaaa_0_10000"
    (folder / "best_frames.json").write_text(json.dumps({uid: [[10, 250], 0.7], "other": [[]], "broken": "x"}))
    assert vggsound.read(folder, "VGGSound", PairsConfig())[2] == {uid: [10, 250]}
    assert not vggsound.read(folder, "VGGSound", PairsConfig(filter_frames=False))[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{IDS[0]},0,rain", r"vggsound\.csv:1: 3 cells, expected at least 4"),
        ("short,0,rain,train", r"vggsound\.csv:1: 'short' is no YouTube id"),
        (f"{IDS[0]},0,rain,maybe", r"vggsound\.csv:1: the set is 'maybe', expected train or test"),
        ("", "holds no rows"),
        ("ccccccccccc,0,rain,train", r"holds no file of the 1 videos of .*vggsound\.csv: expected video/"),
    ],
)
def test_bad_tables(folder: Path, content: str, message: str) -> None:
    (folder / "vggsound.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        vggsound.read(folder, "VGGSound", PairsConfig())


def test_a_list_that_is_none(folder: Path) -> None:
    (folder / "unmatch_videos.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match=r"unmatch_videos\.pkl: expected a list of YouTube ids"):
        vggsound.read(folder, "VGGSound", PairsConfig())
