import os
from pathlib import Path

import numpy as np
import pytest

from sonolume.utils import video
from sonolume.utils.video import VideoError
from tests.videos import film

REAL = Path(os.environ.get("SONOLUME_TEST_DATA", "absent")) / "video"


def bar(picture: object) -> float:
    """Where the bright bar stands, in px."""
    columns = np.asarray(picture, np.float64).mean(axis=(0, 2))
    return float((columns * np.arange(len(columns))).sum() / columns.sum())


def test_pictures_come_by_their_time_in_the_asked_order(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", seconds=2, fps=10)
    late, early, middle = video.frames_at(path, [1.75, 0.0, 1.05])
    assert [round(frame.seconds, 3) for frame in (late, early, middle)] == [1.7, 0.0, 1.0]
    assert late.picture.size == (64, 48)
    for frame in (late, early, middle):
        number = round(frame.seconds * 10)
        assert bar(frame.picture) == pytest.approx(60 * number // 20 + 1.5, abs=1.5)


def test_past_the_end_is_the_last_picture(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", seconds=1, fps=10)
    assert round(video.frames_at(path, [1.0])[0].seconds, 3) == 0.9  # the official code fails here
    assert round(video.frames_at(path, [99.0])[0].seconds, 3) == 0.9


def test_jumping_ahead_finds_the_same_picture_as_decoding_all(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", seconds=8, fps=10)
    all_of_them = video.frames_at(path, [0.0, 7.05])
    assert video.frames_at(path, [7.05])[0].seconds == all_of_them[1].seconds
    assert round(all_of_them[1].seconds, 3) == 7.0


def test_facts(tmp_path: Path) -> None:
    facts = video.probe(film(tmp_path / "a.mp4", seconds=2, fps=10, sound=False))
    assert facts == video.Facts(pytest.approx(2.0), 10.0, 64, 48, has_sound=False)  # type: ignore[arg-type]
    assert video.probe(film(tmp_path / "b.mp4")).has_sound


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("#EXTM3U\nhttp://somewhere/a.ts\n")
    with pytest.raises(VideoError, match=r"text\.mp4: damaged") as caught:
        video.probe(tmp_path / "text.mp4")
    assert caught.value.reason == "unreadable video"
    with pytest.raises(VideoError, match=r"none\.mp4: no such video"):
        video.frames_at(tmp_path / "none.mp4", [0.0])


def test_a_film_that_was_cut(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"a\.mp4: "):
        video.frames_at(path, [0.0])


@pytest.mark.skipif(not REAL.is_dir(), reason="needs SONOLUME_TEST_DATA")
def test_real_videos() -> None:
    for path in sorted(REAL.glob("*.mp4"))[:4]:
        facts = video.probe(path)
        found = video.frames_at(path, [0.5, facts.seconds])
        assert found[0].picture.size == (facts.width, facts.height)
        assert abs(found[0].seconds - 0.5) <= 1 / facts.fps
        assert found[1].seconds > facts.seconds - 0.2
