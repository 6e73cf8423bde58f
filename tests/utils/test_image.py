import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonolume.utils.errors import UserError
from sonolume.utils.image import (
    CELL,
    colours,
    open_image,
    picture_grid,
    spectrogram_grid,
    spectrogram_png,
)

RED, BLUE = (200, 0, 0), (0, 0, 200)


def plain(colour: tuple[int, int, int], width: int = 64, height: int = 64) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def places(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """First and last row, first and last column of a colour."""
    rows, columns = (np.abs(sheet - np.array(colour)).sum(-1) == 0).nonzero()
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def test_a_column_a_source_and_a_row_a_sample(tmp_path: Path) -> None:
    green = (0, 200, 0)
    picture_grid(tmp_path / "a.png", [[plain(RED), plain(green)], [plain(BLUE)]], ["real", "generated"])
    sheet = read(tmp_path / "a.png")
    red, below, blue = (places(sheet, colour) for colour in (RED, green, BLUE))
    assert red[1] - red[0] + 1 == 3 * 64 and red[3] < blue[2] and red[:2] == blue[:2]  # enlarged three times
    assert below[0] > red[1] and below[2:] == red[2:]
    empty = sheet[below[0] : below[1], blue[2] : blue[3]]
    assert (empty == empty[0, 0]).all() and 200 < empty[0, 0].mean() < 255  # grey where there is no picture


def test_titles_stand_above_their_columns(tmp_path: Path) -> None:
    picture_grid(tmp_path / "a.png", [[plain(RED)], [plain(BLUE)]], ["", "generated"])
    sheet = read(tmp_path / "a.png")
    above = sheet[: places(sheet, RED)[0]]
    middle = CELL + 14  # where the second column begins
    assert (above[:, :middle] == 255).all() and (above[:, middle:] < 128).any()


def test_labels_stand_above_their_rows(tmp_path: Path) -> None:
    columns = [[plain(RED), plain(BLUE)]]
    picture_grid(tmp_path / "a.png", columns, [""], ["", "a dog barks twice"])
    sheet = read(tmp_path / "a.png")
    between = sheet[places(sheet, RED)[1] + 1 : places(sheet, BLUE)[0]]
    assert (between < 128).any()


def test_large_and_long_pictures_are_fitted(tmp_path: Path) -> None:
    picture_grid(tmp_path / "a.png", [[plain(RED, 1000, 250)], [plain(BLUE, 3, 900)]], ["a", "b"])
    red, blue = (places(read(tmp_path / "a.png"), colour) for colour in (RED, BLUE))
    assert red[3] - red[2] + 1 == CELL and red[1] - red[0] + 1 == CELL // 4
    assert blue[1] - blue[0] + 1 == CELL and blue[2] == blue[3]


def test_a_long_title_does_not_run_into_the_next(tmp_path: Path) -> None:
    picture_grid(tmp_path / "a.png", [[plain(RED)], [plain(BLUE)]], ["W" * 400, ""])
    sheet = read(tmp_path / "a.png")
    assert (sheet[: places(sheet, BLUE)[0], CELL + 12 :] == 255).all()


@pytest.mark.parametrize(
    ("columns", "titles", "labels"),
    [([], [], []), ([[], []], ["a", "b"], []), ([[1]], [], []), ([[1]], ["a"], ["b", "c"])],
)
def test_what_is_no_grid_is_refused(tmp_path: Path, columns: list, titles: list[str], labels: list[str]) -> None:
    pictures = [[plain(RED) for _ in column] for column in columns]
    with pytest.raises(ValueError, match="no pictures|titles"):
        picture_grid(tmp_path / "a.png", pictures, titles, labels)
    assert list(tmp_path.iterdir()) == []


def test_open_image_rotates_by_exif_and_puts_transparency_on_white(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    plain(RED, 64, 32).save(tmp_path / "turned.png", exif=exif)
    assert open_image(tmp_path / "turned.png").size == (32, 64)
    for mode in ("RGBA", "LA", "P"):
        image = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
        image.save(tmp_path / "clear.png", **({"transparency": image.getpixel((0, 0))} if mode == "P" else {}))
        assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255), mode


def test_open_image_names_the_file_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG no more")
    for name in ("a.png", "b.png"):
        with pytest.raises(UserError, match=name):
            open_image(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_and_odd_modes_keep_their_brightness(tmp_path: Path, suffix: str) -> None:
    grey = np.full((4, 6), 128, np.uint8)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    deep.save(tmp_path / f"deep{suffix}")
    Image.fromarray(grey).convert("P").save(tmp_path / f"palette{suffix}")
    Image.fromarray(grey).convert("1", dither=Image.Dither.NONE).save(tmp_path / f"bits{suffix}")
    if suffix == ".tif":
        Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "unit.tif")
        Image.fromarray(grey.astype(np.float32)).save(tmp_path / "float.tif")
        Image.fromarray(grey.astype(np.int32)).save(tmp_path / "wide.tif")
    for path in tmp_path.iterdir():
        image = open_image(path)
        assert image.mode == "RGB" and image.size == (6, 4)
        assert image.getpixel((0, 0)) == ((255,) * 3 if path.stem == "bits" else (128,) * 3), path.name


def test_cmyk_and_one_pixel(tmp_path: Path) -> None:
    plain((200, 20, 20)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.allclose(open_image(tmp_path / "a.jpg").getpixel((5, 5)), (200, 20, 20), atol=12)
    plain(RED, 1, 1).save(tmp_path / "b.png")
    assert open_image(tmp_path / "b.png").size == (1, 1)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_very_large_pictures_are_reduced(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sonolume.utils.image.MAX_PIXELS", 20_000)
    plain(RED, 2000, 170).save(tmp_path / f"a{suffix}")
    found = open_image(tmp_path / f"a{suffix}")
    assert found.width * found.height <= 20_000 and found.width / found.height == pytest.approx(2000 / 170, 0.1)
    assert np.allclose(found.getpixel((found.width // 2, 5)), RED, atol=4)


def test_a_decompression_bomb_is_one_line(tmp_path: Path) -> None:
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)), (b"IDAT", b"0")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png: too large"):
        open_image(tmp_path / "a.png")


def test_low_frequencies_are_at_the_bottom_and_time_runs_right(tmp_path: Path):
    log_mel = np.full((80, 160), -11.5, np.float32)
    log_mel[:20, 80:] = 0.0  # low and late
    spectrogram_png(tmp_path / "a.png", log_mel)
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("L"), dtype=float)
    plot = picture[22:-22, 44:-16]
    height, width = plot.shape
    low_late = plot[-height // 8 :, -width // 4 :].mean()
    assert low_late > 200
    assert plot[: height // 2].max() < 60
    assert plot[:, : width // 3].max() < 60


def test_axes_are_drawn(tmp_path: Path):
    spectrogram_png(tmp_path / "a.png", np.zeros((80, 625), np.float32))
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert (picture[:, :44] < 100).sum() > 100  # Hz labels
    assert (picture[-16:] < 100).sum() > 60  # seconds


@pytest.mark.parametrize(("bands", "frames"), [(80, 160), (80, 625), (8, 40), (64, 3000)])
def test_sheets_have_axes_whose_labels_do_not_overlap(tmp_path: Path, bands: int, frames: int) -> None:
    clips = np.full((1, bands, frames), -11.5, np.float32)
    spectrogram_grid(tmp_path / "a.png", [clips, clips], ["one"])
    sheet = (read(tmp_path / "a.png").max(-1) < 100) & (read(tmp_path / "a.png").min(-1) >= 35)  # ink, not the plots
    left = sheet[-(2 * bands + 30) : -8, 8:44]
    assert left.any(1).sum() >= 8 and not left.any(1).all()  # labels in Hz, with gaps between them
    below = sheet[-24:-8, 8 : 2 * frames + 68]
    gaps = (~below.any(0)).astype(int)
    assert below.any() and (np.convolve(gaps, np.ones(4), "valid") == 4).sum() > 0


def test_colours_grow_brighter_and_silence_is_dark():
    ramp = colours(np.linspace(-11.5, 2.0, 50)[None]).astype(float).sum(-1)[0]
    assert (np.diff(ramp) >= 0).all()
    assert ramp[-1] - ramp[0] > 500
    assert colours(np.full((4, 4), -11.5)).max() < 40


@pytest.mark.parametrize("wrong", [np.zeros(5), np.zeros((80, 0)), np.full((2, 2), np.nan)])
def test_what_is_no_spectrogram_is_refused(tmp_path: Path, wrong: np.ndarray):
    with pytest.raises(ValueError, match="bands, frames"):
        spectrogram_png(tmp_path / "a.png", wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_grid_of_spectrograms_shows_each_value_twice_as_large(tmp_path: Path) -> None:
    log_mel = np.full((8, 40), -11.5, np.float32)
    log_mel[0, 0] = 0.0
    spectrogram_grid(tmp_path / "a.png", [np.stack([log_mel, log_mel]), np.zeros((2, 8, 40))], ["one", "two"])
    sheet = read(tmp_path / "a.png")
    bright = places(sheet[:, : sheet.shape[1] // 2], tuple(colours(log_mel)[0, 0].tolist()))
    dark = places(sheet, tuple(colours(log_mel)[1, 1].tolist()))
    assert bright[3] - bright[2] == 1 and bright[2] == dark[2] and dark[3] - dark[2] == 79
