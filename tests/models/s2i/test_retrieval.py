"""run_inference.sh --embed and --search: vectors of recordings and pictures, and the pictures nearest to speech."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.bins import inference
from sonolume.models.a2i import loading
from sonolume.models.s2i.wavy import retrieval
from sonolume.utils import cli
from tests.models.s2i import tiny

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
Infer = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stage 1."""
    folder = tmp_path_factory.mktemp("parts")
    return tiny.make_encoder(folder / "encoder", tiny.make_hubert(folder / "hubert"), tiny.make_clip(folder / "clip"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures, a damaged one, and one that is too small."""
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (70, 40), colour).save(folder / "deeper" / f"{name}.png")
    Image.new("RGB", (9, 40)).save(folder / "narrow.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Two recordings of half a second and a shorter one, a silent one, and one of more than 30 s."""
    folder = tmp_path / "sounds"
    for number, seconds in enumerate((0.5, 0.3, 0.5)):
        tiny.write_sound(folder / f"{number}.wav", seconds, number)
    tiny.write_sound(folder / "long.wav", 30.5)
    shutil.copy(folder / "0.wav", folder / "silent.wav")
    (folder / "silent.wav").write_bytes((folder / "0.wav").read_bytes()[:44] + bytes(16000))
    return folder


@pytest.fixture
def infer(
    root: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Infer:
    """infer(flags ...) -> exit code, stdout, stderr; no Stable Diffusion can be loaded."""
    monkeypatch.delattr(loading, "load_stable_diffusion")

    def run(*flags: object) -> tuple[int, str, str]:
        given = ["--config", str(root / "egs/s2i/wavy/tiny_encoder.json"), "--checkpoint", str(exported)]
        capsys.readouterr()
        given += ["--device", "cpu", "--output_dir", str(tmp_path / "out"), *map(str, flags)]
        code = cli.run(inference.main, given)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_vectors_of_recordings_and_pictures(
    infer: Infer, exported: Path, sounds: Path, pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "vectors.npz"
    code, out, err = infer("--audio", sounds, "--embed", path, "--images", pictures)
    assert (code, out) == (0, f"{path}\n")
    assert "long.wav: 30.5 s long, at most 30 s are encoded: --span START-END chooses a part" in err
    assert "2 of 5 recordings were left out: 1 too long, 1 silent" in err
    assert "2 of 5 pictures were left out: 1 unreadable, 1 too small" in err
    with np.load(path) as found:
        audio, images = found["audio"], found["images"]
        names = [Path(name).name for name in found["audio_files"]]
        assert names == ["0.wav", "1.wav", "2.wav"]
        assert [Path(name).stem for name in found["image_files"]] == ["blue", "green", "red"]
    assert audio.shape == images.shape == (3, tiny.WIDTH) and audio.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm([audio, images], axis=-1), 1, rtol=1e-5)
    encoder, _ = retrieval.load(str(exported), torch.device("cpu"))
    alone = [retrieval.encode_recordings(encoder, [sounds / name])[0][0] for name in names]
    np.testing.assert_allclose(audio, torch.stack(alone), atol=1e-5)
    code, _, err = infer("--audio", sounds / "long.wav", "--embed", path, "--span", "1-1.5")
    assert code == 0 and "1-1.5 of 30.5 s are used" in err
    with np.load(path) as found:
        assert found["audio"].shape == (1, tiny.WIDTH) and "images" not in found


def test_search_prints_the_best_pictures_and_writes_a_sheet(
    infer: Infer, sounds: Path, pictures: Path, tmp_path: Path
) -> None:
    code, out, _ = infer("--audio", sounds, "--search", pictures, "--top", "2")
    lines = out.splitlines()
    assert code == 0 and [Path(lines[number]).name for number in (0, 3, 6)] == ["0.wav", "1.wav", "2.wav"]
    sheet = Path(lines[-1])
    assert sheet == tmp_path / "out" / "search_pictures_0.png" and len(lines) == 10
    content = json.loads(sheet.with_suffix(".json").read_text())
    for number, row in enumerate(content["results"]):
        cosines = [found["cosine"] for found in row["found"]]
        assert cosines == sorted(cosines, reverse=True) and len(cosines) == 2
        for line, found in zip(lines[3 * number + 1 : 3 * number + 3], row["found"], strict=True):
            assert line == f"  {found['cosine']:6.3f}  {found['picture']}"
    assert content["count"] == 3 and content["results"][1]["seconds"] == [0, 0.3]
    first = Path(content["results"][0]["found"][0]["picture"]).stem
    with Image.open(sheet) as image:  # columns: name, and two pictures
        assert image.width > 3 * 192
        assert COLOURS[first] in {colour for _, colour in image.getcolors(10**6) or []}


def test_nearest_rows_of_vectors() -> None:
    angles = torch.tensor([0.0, 1.0, 2.0, 3.5])
    among = torch.stack([angles.cos(), angles.sin()], dim=1)
    ((first, second),) = retrieval.nearest(among[2:3], among, 2)
    assert first == (2, pytest.approx(1)) and second == (1, pytest.approx(np.cos(1)))
    assert [number for number, _ in retrieval.nearest(among[:1], among[[1, 1, 0]], 9)[0]] == [2, 0, 1]


def test_requests_that_cannot_be_met(infer: Infer, sounds: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    both = ("--embed", tmp_path / "a.npz", "--search", pictures)
    for message, *flags in [
        ("is a speech encoder without a head and cannot draw: train a head, or use --embed or --search",),
        ("empty: contains no pictures", "--search", tmp_path / "empty"),
        ("empty: contains no pictures", "--embed", tmp_path / "a.npz", "--images", tmp_path / "empty"),
        ("choose one of them", *both),
        ("--images needs --embed", "--images", pictures),
        ("--search draws no pictures and needs no --prompt", "--search", pictures, "--prompt", "a <*>"),
        ("vectors.txt: name a file that ends in .npz", "--embed", tmp_path / "vectors.txt"),
        ("--average: speech is read whole", "--average"),
    ]:  # fmt: skip
        code, out, err = infer("--audio", sounds / "0.wav", *flags)
        assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1, (flags, err)
    code, _, err = infer("--audio", sounds / "silent.wav", "--search", pictures)
    assert code == 2 and "silent.wav: silent" in err
