"""The onsets of miniature scenes are known; those of real videos are the reference's own."""

import os
from pathlib import Path

import numpy as np
import pytest

from sonolume.models.evaluation.onsets import onsets_of, score
from sonolume.models.evaluation.report import Report
from sonolume.modules.metrics.onsets import onset_agreement, shuffled_agreement
from sonolume.preprocessors.miniworld import frames, world
from sonolume.utils import audio

VIDEOS = Path(os.environ.get("SONOLUME_TEST_DATA", Path(__file__).parents[4] / "shared" / "data")) / "video"
KINDS = ["bell", "clock", "footsteps", "dog", "drops", "phone"]


def test_onsets_of_scenes_are_found_where_they_are() -> None:
    scenes = list(world.scenes("test", 24, kinds=KINDS))
    known = [sorted(time for event in frames.onsets(scene) for time in event) for scene in scenes]
    heard = [onsets_of(world.render(scene)) for scene in scenes]
    agreed = [onset_agreement(a, b)[2] for a, b in zip(heard, known, strict=True)]
    assert np.mean(agreed) > 0.75
    assert shuffled_agreement(heard, known) < 0.5


def test_clicks_are_found_to_the_hop_and_silence_has_none() -> None:
    wave = np.zeros(32000, np.float32)
    times = [0.3, 0.8, 1.5]
    for time in times:
        start = round(time * 16000)
        wave[start : start + 800] = np.random.default_rng(0).normal(0, 0.3, 800)
    assert onsets_of(wave) == pytest.approx(times, abs=0.03)
    assert onsets_of(np.zeros(16000, np.float32)) == []


def files(folder: Path, shift: float = 0.0) -> dict[str, Path]:
    """Four sounds of two clicks, `shift` seconds late."""
    for number in range(4):
        wave = np.zeros(32000, np.float32)
        for time in (0.2 + 0.15 * number, 1.0 + 0.2 * number):
            start = round((time + shift) * 16000)
            wave[start : start + 800] = np.random.default_rng(number).normal(0, 0.3, 800)
        audio.save_wav(folder / f"{number}.wav", wave, 16000)
    return {str(number): folder / f"{number}.wav" for number in range(4)}


def f1(made: dict[str, Path], real: dict[str, Path], **more: float) -> tuple[Report, float]:
    report = Report({})
    score(report, made, real, **more)
    return report, report.scores[0].value


def test_pairs_are_made_by_uid_within_a_tolerance_that_the_fingerprint_holds(tmp_path: Path) -> None:
    real = files(tmp_path / "real")
    report, value = f1(dict(reversed(files(tmp_path / "made", 0.05).items())), real)
    assert value == 1
    assert [row.name for row in report.scores] == ["onset F1", "onset precision", "onset recall"]
    assert report.scores[0].chance is not None and report.scores[0].chance < 0.5
    assert report.conditions["onsets"] == {"tolerance": 0.1, "hop": 0.01, "delta": 0.2}
    late = files(tmp_path / "late", 0.14)
    assert f1(late, real)[1] < 0.3
    assert f1(late, real, tolerance=0.2)[1] == 1


def test_what_cannot_be_heard_is_listed(tmp_path: Path) -> None:
    real = files(tmp_path)
    (tmp_path / "bad.wav").write_text("no sound")
    report, value = f1(real | {"1": tmp_path / "bad.wav", "unasked": real["0"]}, real)
    assert value == 1 and report.scores[0].count == 3
    assert [uid for uid, _ in report.left_out] == ["1"]


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="no recordings: set SONOLUME_TEST_DATA to their folder")
def test_sound_tracks_of_real_videos(tmp_path: Path) -> None:
    pytest.importorskip("av")
    videos = {path.stem: path for path in sorted(VIDEOS.glob("vas_*.mp4"))[:4]}
    for uid, path in videos.items():
        audio.save_wav(tmp_path / f"{uid}.wav", audio.load(path, 16000), 16000)
    made = {uid: tmp_path / f"{uid}.wav" for uid in videos}
    report, value = f1(made, videos)
    assert value == pytest.approx(1, abs=0.05)
    assert report.scores[0].chance is not None and report.scores[0].chance < 0.7
    others = dict(zip(made, [*list(made.values())[1:], made[next(iter(made))]], strict=True))
    assert f1(others, videos)[1] < 0.7
