import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sonolume.utils import files
from sonolume.utils.errors import UserError


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


def test_a_failed_write_names_the_file_that_was_to_be(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with pytest.raises(OSError) as caught, files.atomic_path(path) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() does
    assert caught.value.filename == str(path)
    with pytest.raises(OSError) as caught, files.atomic_path(path) as temporary:
        raise OSError(errno.EACCES, "Permission denied", str(temporary))  # as open() does
    assert caught.value.filename == str(path)
    with pytest.raises(OSError, match="requested and") as caught, files.atomic_path(path):
        raise OSError("80000 requested and 1234 written")  # as numpy does
    assert (caught.value.filename, caught.value.errno) == (str(path), errno.EIO)
    with pytest.raises(FileNotFoundError) as missing, files.atomic_folder(tmp_path / "f"):
        (tmp_path / "other").read_bytes()
    assert missing.value.filename == str(tmp_path / "other")
    with pytest.raises(RuntimeError) as noted, files.atomic_folder(tmp_path / "f"):
        raise RuntimeError("PytorchStreamWriter failed writing")
    assert noted.value.__notes__ == [str(tmp_path / "f")]
    assert list(tmp_path.iterdir()) == []


def test_the_full_device_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, files.naming(tmp_path / "x"):
        Path("/dev/full").write_bytes(b"x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x"))


def test_unfinished_files_are_found(tmp_path: Path) -> None:
    for name in (".tmp-1.npy", "sub/.tmp-2.npy", "sub/whole.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {path.name for path in files.unfinished(tmp_path)} == {".tmp-1.npy", ".tmp-2.npy"}


@pytest.mark.parametrize("uid", ["", ".", "..", "a\0b", "a\nb", "~/../x", "a/", "./a", ".hidden", "a.npy/b", "../x"])
def test_uids_that_are_no_file_names(uid: str) -> None:
    assert not files.is_safe_uid(uid)


@pytest.mark.parametrize("uid", ["YbkdIkWF5Qs_30", "-dash", "chó sủa – 狗叫", "a b/c.d", "~home", "a.npy"])
def test_uids_that_are_file_names(uid: str) -> None:
    assert files.is_safe_uid(uid)


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


def test_files_of_a_folder_are_as_readable_as_the_folder(tmp_path: Path):
    with files.atomic_folder(tmp_path / "model") as folder:
        (folder / "private").write_text("safetensors writes so")
        (folder / "private").chmod(0o600)
        (folder / "program").write_text("")
        (folder / "program").chmod(0o700)
    wanted = (tmp_path / "model").stat().st_mode & 0o666
    assert (tmp_path / "model" / "private").stat().st_mode & 0o777 == wanted
    assert (tmp_path / "model" / "program").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{,}", "not valid JSON"), (b"[1]", "list"), (b"\xff", "not UTF-8")]
)
def test_read_json_names_the_file_and_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "mel.json"
    with pytest.raises(UserError, match="no such file: expected mel settings"):
        files.read_json(path, what="mel settings")
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"mel\.json:.*{reason}"):
        files.read_json(path)
    files.write_json(path, {"a": 1})
    assert files.read_json(path) == {"a": 1}


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    write = "import os, sys; from sonolume.utils.files import *\nwith atomic_%s(sys.argv[1]) as path: os._exit(9)"
    for kind in ("path", "folder"):
        subprocess.run([sys.executable, "-c", write % kind, str(tmp_path / "killed.json")], check=False)
    assert len(files.unfinished(tmp_path)) == 1  # the folder; of the file not a byte was written
    with files.atomic_path(tmp_path / "running.json") as running:  # of a living process
        running.write_text("half")
        files._cleaned.discard(tmp_path)
        files.write_json(tmp_path / "whole.json", {})
        assert {path.name for path in tmp_path.iterdir()} == {"whole.json", running.name}
