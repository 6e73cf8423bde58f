"""Windows of a storyboard, and its contact sheet."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonolume.models.a2i.clips import split_windows
from sonolume.models.a2i.generate import format_time, write_sheet


@pytest.mark.parametrize(
    ("seconds", "window", "hop", "found"),
    [
        (0.7, 2.0, 2.0, [(0, 0.7)]),
        (4.0, 2.0, 2.0, [(0, 2), (2, 4)]),
        (4.1, 2.0, 2.0, [(0, 2), (2, 4)]),
        (4.5, 2.0, 2.0, [(0, 2), (2, 4), (4, 4.5)]),
        (3.0, 2.0, 0.5, [(0, 2), (0.5, 2.5), (1, 3)]),
        (5.0, 1.0, 2.0, [(0, 1), (2, 3), (4, 5)]),
        (2.5, 1.0, 2.0, [(0, 1), (2, 2.5)]),
    ],
)
def test_windows_of_a_recording(seconds: float, window: float, hop: float, found: list[tuple[float, float]]) -> None:
    assert split_windows(seconds, window, hop, 0.2) == found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7, "0:07"), (75.5, "1:15.5"), (59.999, "1:00"), (3600, "60:00"), (70, "1:10"), (0.25, "0:00.25")],
)
def test_times(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def test_a_sheet_in_the_order_of_time(tmp_path: Path) -> None:
    pictures: list[Path | None] = []
    for number in range(8):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (16, 16), (30 * number, 0, 0)).save(path)
        pictures.append(path)
    pictures[2] = None
    write_sheet(tmp_path / "sheet.png", pictures, 2.0)
    found = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert found.shape[1] > 6 * 160
    rows = [found[y] for y in range(len(found))]
    reds = [[int(p[0]) for p in row[::4] if p[1] == p[2] == 0] for row in rows]
    orders = list(dict.fromkeys(tuple(dict.fromkeys(row)) for row in reds if len(row) > 20))
    assert orders[0] == (0, 30, 90, 120, 150) and (180, 210) in orders
