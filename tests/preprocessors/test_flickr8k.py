from pathlib import Path

import pytest

from sonolume.preprocessors.flickr8k import is_published, read
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from tests.flickr8k_tree import IMAGES, SPEAKER, caption, flickr8k_tree, kaggle_tree, photograph

FIRST = "1000268201_693b08cb0e"
SPLITS = {"train": "train", "dev": "valid", "test": "test"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return flickr8k_tree(tmp_path / "Flickr8k")


def by_uid(rows: list[Row]) -> dict[str, Row]:
    return {row.uid: row for row in rows}


def reasons(left_out: list) -> dict[str, str]:
    return {one.uid: one.reason for one in left_out}


def test_as_published(source: Path) -> None:
    rows, left_out = read(source, "mine")
    assert not left_out and len(rows) == 8
    for seed, (image, listed) in enumerate(IMAGES.items()):
        for number in (0, 1):
            row = by_uid(rows)[f"{Path(image).stem}_{number}"]
            assert row.captions == [caption(image, number)]
            assert (row.split, row.speaker) == (SPLITS[listed], str(SPEAKER + seed))
            assert row.image == source / "Flicker8k_Dataset" / image
            assert row.audio == source / "flickr_audio" / "wavs" / f"{row.uid}.wav"


def test_as_on_kaggle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = kaggle_tree(tmp_path / "archive")
    rows, left_out = read(source, "mine")
    assert not left_out and len(rows) == 8 and {row.split for row in rows} == {None}
    assert all(row.captions == [caption(f"{row.uid[:-2]}.jpg", int(row.uid[-1]))] for row in rows)
    assert "no Flickr_8k.trainImages.txt, Flickr_8k.devImages.txt, Flickr_8k.testImages.txt" in capsys.readouterr().out


def test_by_file_names(source: Path) -> None:
    expected, _ = read(source, "mine")
    (source / "flickr_audio" / "wav2capt.txt").unlink()
    (source / "flickr_audio" / "wav2spk.txt").unlink()
    folder = source / "flickr_audio" / "wavs"
    (folder / f"{FIRST}_0.wav").rename(folder / "hello.wav")
    rows, left_out = read(source, "mine")
    assert reasons(left_out) == {"hello": "not listed"}
    found = {uid: (row.image, row.captions, row.split) for uid, row in by_uid(rows).items()}
    assert found == {row.uid: (row.image, row.captions, row.split) for row in expected if row.uid != f"{FIRST}_0"}


def test_sounds_and_pictures_of_two_folders(tmp_path: Path, source: Path) -> None:
    sounds = tmp_path / "elsewhere" / "flickr_audio"
    sounds.parent.mkdir()
    (source / "flickr_audio").rename(sounds)
    assert not is_published(source)
    for pictures, place in ((source, sounds), (sounds, source)):
        rows, left_out = read(pictures, "mine", place)
        assert len(rows) == 8 and not left_out
    (sounds / "wav2capt.txt").unlink()
    assert len(read(source, "mine", sounds / "wavs")[0]) == 8
    with pytest.raises(UserError, match=r"no pictures of Flickr8k in Images/ or Flicker8k_Dataset/"):
        read(sounds, "mine")


def test_files_without_each_other(source: Path) -> None:
    wavs, pictures = source / "flickr_audio" / "wavs", source / "Flicker8k_Dataset"
    (wavs / f"{FIRST}_0.wav").rename(wavs / "extra.wav")
    (pictures / "1001773457_577c3a7d70.jpg").unlink()
    photograph(pictures / "unspoken.jpg")
    photograph(pictures / "._1003163366_44323f5815.jpg")  # of macOS
    (source / "Flickr8k_text" / "Flickr_8k.testImages.txt").write_text("another.jpg\n")
    alignment = source / "flickr_audio" / "wav2capt.txt"
    alignment.write_text(alignment.read_text().replace("a3d70.jpg #1", "a3d70.jpg #-1") + "\n")
    rows, left_out = read(source, "mine")
    assert reasons(left_out) == {
        "extra": "not listed", "unspoken": "no speech",
        "1003163366_44323f5815_0": "no split", "1003163366_44323f5815_1": "no split",
    }  # fmt: skip
    missing = [path.name for row in rows for path in (row.audio, row.image) if path and not path.is_file()]
    assert missing == [f"{FIRST}_0.wav", *["1001773457_577c3a7d70.jpg"] * 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("flickr_audio/wav2capt.txt", "a.wav,a.jpg,0", r"wav2capt\.txt:1: 'a\.wav,a\.jpg,0' is not of the form NAME"),
        ("flickr_audio/wav2capt.txt", "\n", "names no recording"),
        ("flickr_audio/wav2capt.txt", "a.wav a.jpg #0", "none of its 1 recordings is there, such as a.wav"),
        ("flickr_audio/wav2capt.txt", f"{FIRST}_0.wav a.jpg #0", "none of its 1 pictures is there, such as a.jpg"),
        ("flickr_audio/wav2spk.txt", "a.wav", r"wav2spk\.txt:1: 'a\.wav' is not of the form NAME\.wav SPEAKER"),
        ("Flickr8k_text/Flickr8k.token.txt", "a.jpg A dog .", r"token\.txt:1: .* is not of the form IMAGE\.jpg#NUMBER"),
    ],
)  # fmt: skip
def test_files_of_other_forms(source: Path, name: str, content: str, message: str) -> None:
    (source / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read(source, "mine")


def test_recordings_without_captions_and_speakers(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "Flickr8k_text" / "Flickr8k.token.txt").unlink()
    (source / "flickr_audio" / "wav2spk.txt").unlink()
    rows, _ = read(source, "mine")
    assert all(not row.captions and row.speaker is None and row.split for row in rows)
    assert "neither Flickr8k.token.txt nor captions.txt" in capsys.readouterr().out
