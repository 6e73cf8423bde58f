import json
from pathlib import Path

import pytest

from sonolume.utils import files


def test_atomic_path_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(OSError, match="half"), files.atomic_path(path) as temporary:
        assert temporary.suffix == ".json" and temporary.parent == path.parent
        temporary.write_text("half")
        raise OSError("half")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_atomic_folder_replaces_the_whole_folder(tmp_path: Path) -> None:
    path = tmp_path / "pipeline"
    for name in ("old", "new"):
        with files.atomic_folder(path) as temporary:
            (temporary / name).touch()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_folder_keeps_the_old_folder_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "pipeline"
    with files.atomic_folder(path) as temporary:
        (temporary / "old").touch()
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(path) as temporary:
        (temporary / "new").touch()
        raise KeyboardInterrupt
    assert [p.name for p in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_write_json_keeps_letters_and_survives_undecodable_arguments(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"text": "日本 \udcff"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "日本" in text and json.loads(text) == {"text": "日本 \udcff"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A bell rings twice, then rain falls", "A_bell_rings_twice_then_rain_falls"),
        ("../../etc/passwd", "etc_passwd"),
        ("a/b\\c:d\n\0e", "a_b_c_d_e"),
        ("ｆｕｌｌ", "full"),
        ("日本の雨", "日本の雨"),
        ("हिन्दी", "हिन्दी"),
        ("--flag", "flag"),
        ("", "unnamed"),
        ("/./..\U0001f514\ufe0f", "unnamed"),
        ("x" * 10_000, "x" * 80),
    ],
)
def test_safe_name(text: str, name: str) -> None:
    assert files.safe_name(text) == name


def test_safe_name_fits_into_a_file_system(tmp_path: Path) -> None:
    name = files.safe_name("\U00020000" * 200)  # four bytes each
    assert 0 < len(name.encode()) <= files.MAX_NAME_BYTES
    (tmp_path / f"{name}-12.spectrogram.png").touch()


def test_free_path(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = files.free_path(tmp_path, "a", ".wav")
        path.touch()
        names.append(path.name)
    assert names == ["a.wav", "a-2.wav", "a-3.wav"]
