"""Metrics of sounds and pictures, by embedders whose embeddings can be worked out by hand."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.metrics import add_onset_scores, add_scores
from sonolume.models.evaluation.report import Report, Score
from sonolume.models.evaluation.samples import PICTURE, SOUND, Samples
from sonolume.modules.metrics.onsets import detect_onsets, onset_agreement, shuffled_agreement
from sonolume.preprocessors.miniworld import pictures, world
from sonolume.utils import audio
from sonolume.utils.errors import UserError

VIDEOS = Path(os.environ.get("SONOLUME_TEST_DATA", Path(__file__).parents[4] / "shared" / "data")) / "video"
ONSET_KINDS = ["bell", "clock", "footsteps", "dog", "drops", "phone"]


class Level(Embedder):
    """Embeds a sound as (1, 10 x its level), a text "loud 0.5" likewise; classifies quiet and loud."""

    name, takes, dim, sample_rate, labels = "level:0@1", ("sounds", "texts"), 2, 16000, ("Quiet", "Loud")

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        level = torch.tensor([float(np.abs(wave).mean()) for wave in waves])
        rows = torch.stack([torch.ones_like(level), 10 * level], dim=1)
        return Features(rows, torch.stack([torch.zeros_like(level), 100 * (level - 0.25)], dim=1))

    def text_features(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[1, 10 * float(text.split()[1])] for text in texts])


def write(folder: Path, levels: dict[str, float]) -> dict[str, Path]:
    for uid, level in levels.items():
        audio.save_wav(folder / f"{uid}.wav", np.full(8000, level, np.float32), 16000)
    return {uid: folder / f"{uid}.wav" for uid in levels}


LEVELS = {"a": 0.1, "b": 0.2, "c": 0.4, "d": 0.8}


def score_sounds(*sets: dict) -> tuple[dict[str, float], Report]:
    report = Report({})
    add_scores(report, Samples(SOUND, *sets), [Level()], None, 4)
    return {row.name: row.value for row in report.scores}, report


def test_reference_sounds_are_perfect(tmp_path: Path) -> None:
    files = write(tmp_path, LEVELS)
    captions = {uid: f"loud {level}" for uid, level in LEVELS.items()}
    labels = {"a": "quiet", "b": "quiet", "c": "loud", "d": "unknown"}
    found, report = score_sounds(files, files, captions, labels)
    assert found["FAD level:0"] == pytest.approx(0, abs=1e-5)
    assert found["KL softmax level:0"] == pytest.approx(0, abs=1e-9)
    assert found["cosine to the reference level:0"] == pytest.approx(1)
    assert found["text agreement level:0"] == pytest.approx(1, abs=1e-4)
    assert found["R@1 text to sound level:0"] == found["MRR sound to text level:0"] == 1
    assert found["class accuracy level:0"] == 1
    assert found["IS level:0"] == pytest.approx(2, abs=0.1)  # two sure classes, two sounds each
    assert "below" not in next(row for row in report.scores if row.name.startswith("FAD")).note  # 4 = 2 x 2
    assert next(row for row in report.scores if row.name.startswith("class")).count == 3


def test_pairs_are_made_by_uid_and_a_shift_is_its_square(tmp_path: Path) -> None:
    real = write(tmp_path / "real", LEVELS)
    made = write(tmp_path / "made", {uid: level + 0.1 for uid, level in reversed(LEVELS.items())})
    found, report = score_sounds(made, real)
    assert found["FAD level:0"] == pytest.approx(1, rel=1e-3)  # 10 x 0.1
    swapped, _ = score_sounds(dict(zip(LEVELS, made.values(), strict=True)), real)
    assert swapped["KL softmax level:0"] > found["KL softmax level:0"] > 0
    assert {uid for name, uid, _ in report.outliers if name.startswith("KL")} == set(LEVELS)


def test_few_sounds_are_flagged(tmp_path: Path) -> None:
    files = write(tmp_path, {"a": 0.1, "b": 0.2, "c": 0.3})
    _, report = score_sounds(files, files)
    assert "below 2 x 2" in next(row for row in report.scores if row.name.startswith("FAD")).note


def test_silent_and_clipped_sounds_are_counted_and_bad_ones_listed(tmp_path: Path) -> None:
    real = write(tmp_path / "real", LEVELS | {"quiet": 0.0})
    made = write(tmp_path / "made", LEVELS | {"none": 0.0, "full": 1.0})
    (tmp_path / "made" / "bad.wav").write_text("no sound")
    _, report = score_sounds(made | {"bad": tmp_path / "made" / "bad.wav"}, real)
    assert report.counts == {
        "silent generated": 1, "clipped generated": 1, "silent reference": 1, "clipped reference": 0,
    }  # fmt: skip
    assert {Path(name).name for name, _ in report.left_out} == {"bad.wav", "quiet.wav"}


def test_no_usable_sound(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no sound")
    with pytest.raises(UserError, match="not one usable generated sound"):
        score_sounds({"bad": tmp_path / "bad.wav"})


SHADES = {"a": 0.0, "b": 0.2, "c": 0.4, "d": 0.8}
WORDS = {"dark": 0.0, "bright": 1.0}


class Angle(Embedder):
    """Sounds turn by their level, texts by their last word; white (of all colours) has no direction."""

    name, takes, dim, sample_rate = "angle:0@1", ("sounds", "pictures", "texts"), 2, 16000

    def _at(self, turns: list[float]) -> torch.Tensor:
        angles = torch.tensor(turns) * math.pi / 2
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    def image_features(self, pictures: list[Image.Image]) -> Features:
        pixels = [np.asarray(picture)[0, 0] for picture in pictures]
        is_white = torch.tensor([bool((pixel == 255).all()) for pixel in pixels])
        return Features(self._at([pixel[0] / 255 for pixel in pixels]) * ~is_white[:, None], None)

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        return Features(self._at([float(np.abs(wave).mean()) for wave in waves]), None)

    def text_features(self, texts: list[str]) -> torch.Tensor:
        last = [text.split()[-1] for text in texts]
        return self._at([WORDS[word] if word in WORDS else float(word) for word in last])


class Classifier(Angle):
    """With a classifier of dark and bright."""

    labels = ("dark", "bright")

    def image_features(self, pictures: list[Image.Image]) -> Features:
        rows = super().image_features(pictures).embeddings
        return Features(rows, 100 * (rows - 0.5))


def draw(folder: Path, shades: dict[str, float]) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    for uid, shade in shades.items():
        picture = np.zeros((20, 20, 3), np.uint8)
        picture[..., 0] = round(255 * shade)
        picture[10:, :, 2] = 9  # not of one colour
        Image.fromarray(picture).save(folder / f"{uid}.png")
    return {uid: folder / f"{uid}.png" for uid in shades}


def play(folder: Path, levels: dict[str, float]) -> dict[str, Path]:
    for uid, level in levels.items():
        audio.save_wav(folder / f"{uid}.wav", np.full(8000, level, np.float32), 16000)
    return {uid: folder / f"{uid}.wav" for uid in levels}


def score_pictures(made: dict, embedder: Embedder | None = None, **sets: dict) -> tuple[dict[str, Score], Report]:
    report = Report({})
    add_scores(report, Samples(PICTURE, made, **sets), [embedder or Angle()], None, 4)
    return {row.name.removesuffix(" angle:0"): row for row in report.scores}, report


def test_reference_pictures_are_perfect(tmp_path: Path) -> None:
    files = draw(tmp_path, SHADES)
    captions = {uid: f"shade {shade}" for uid, shade in SHADES.items()}
    found, report = score_pictures(files, reference=files, captions=captions)
    assert found["FID"].value == pytest.approx(0, abs=1e-9)
    assert found["cosine to the reference"].value == pytest.approx(1)
    assert found["IIS"].value == 1
    assert found["CLIP score"].value == pytest.approx(1, abs=1e-4)
    for way in ("text to picture", "picture to text"):
        assert found[f"R@1 {way}"].value == found[f"MRR {way}"].value == 1
        assert found[f"R@1 {way}"].chance == pytest.approx(1 / 4)
        assert found[f"MRR {way}"].chance == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert {uid for name, uid, _ in report.outliers if name.startswith("CLIP")} == set(SHADES)


def test_cosines_and_ranks_against_the_reference_by_hand(tmp_path: Path) -> None:
    real = draw(tmp_path / "real", SHADES)
    made = draw(tmp_path / "made", {"d": 1.0, "b": 0.4})
    found, _ = score_pictures(made, reference=real)
    angles = [0.2 * math.pi / 2] * 2
    assert found["cosine to the reference"].value == pytest.approx(sum(map(math.cos, angles)) / 2, abs=1e-4)
    assert found["IIS"].value == 1.0  # 1.0 is nearer to 0.8 than to 0.2, and 0.4 to 0.2 than to 0.8
    assert found["IIS"].chance == 0.5 and "rank form" in found["IIS"].note
    swapped, _ = score_pictures({"b": made["d"], "d": made["b"]}, reference=real)
    assert swapped["IIS"].value == 0.0


def test_agreement_with_the_sound_by_rank_and_as_a_cosine(tmp_path: Path) -> None:
    made = draw(tmp_path, {"a": 0.0, "b": 0.3, "c": 0.5})
    sounds = play(tmp_path, {"a": 0.1, "b": 0.45, "c": 0.8, "unasked": 0.3})
    found, report = score_pictures(made, inputs=sounds)
    differences = [0.1, 0.15, 0.3]
    expected = sum(math.cos(turn * math.pi / 2) for turn in differences) / 3
    assert found["AIS cosine"].value == pytest.approx(expected, abs=1e-3)
    # to c (0.5) the sound of b (0.45) is nearer than its own (0.8); all else is farther
    assert found["AIS"].value == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["AIS"].chance == 0.5 and "rank form" in found["AIS"].note
    assert found["R@1 sound to picture"].value == pytest.approx(2 / 3)  # the sound of b finds c
    assert found["R@1 picture to sound"].value == pytest.approx(2 / 3)
    assert report.counts["silent input"] == 0


def test_one_sound_of_several_pictures_is_right_for_each(tmp_path: Path) -> None:
    made = draw(tmp_path, {"a": 0.1, "b": 0.2, "c": 0.9})
    sounds = play(tmp_path, {"x": 0.15, "y": 0.9})
    found, _ = score_pictures(made, inputs={"a": sounds["x"], "b": sounds["x"], "c": sounds["y"]})
    assert found["R@1 picture to sound"].value == found["R@1 sound to picture"].value == 1
    assert found["R@1 picture to sound"].chance == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert found["AIS"].value == pytest.approx((0.75 + 0.75 + 1) / 3)  # the same sound counts one half


def test_classes_by_their_names_where_the_embedder_knows_none(tmp_path: Path) -> None:
    made = draw(tmp_path, {"a": 0.1, "b": 0.2, "c": 0.9, "d": 0.9})
    labels = {"a": "dark", "b": "bright", "c": "bright", "elsewhere": "dark"}
    found, _ = score_pictures(made, labels=labels)
    assert (found["AIC"].value, found["AIC"].count, found["AIC"].chance) == (pytest.approx(2 / 3), 3, 1 / 2)
    assert '"a photo of a {label}"' in found["AIC"].note
    assert "class accuracy" not in found


def test_classes_of_the_embedder_itself(tmp_path: Path) -> None:
    made = draw(tmp_path, {"a": 0.1, "b": 0.2, "c": 0.9})
    found, _ = score_pictures(made, Classifier(), labels={"a": "Dark", "b": "bright", "c": "bright"})
    assert found["class accuracy"].value == pytest.approx(2 / 3) and "AIC" not in found
    assert found["IS"].chance is None and 1 < found["IS"].value < 2
    others, _ = score_pictures(made, labels={"a": "0.1", "b": "0.2", "c": "0.9"})
    assert others["AIC"].value == 1


def test_a_few_pictures_are_flagged_and_many_get_an_interval(tmp_path: Path) -> None:
    few = draw(tmp_path, {"a": 0.1, "b": 0.2, "c": 0.5})
    found, _ = score_pictures(few, reference=few)
    assert "N 3, below 2 x 2" in found["FID"].note and found["FID"].low is None
    assert "N 3, below 100" in found["KID"].note
    random = np.random.default_rng(0)
    many = draw(tmp_path / "many", {str(number): random.uniform() for number in range(40)})
    other = draw(tmp_path / "other", {str(number): random.uniform() / 2 for number in range(40)})
    found, _ = score_pictures(many, reference=other)
    fid = found["FID"]
    assert fid.low is not None and fid.high is not None and fid.low < fid.value < fid.high
    assert found["FID-infinity"].value == pytest.approx(fid.value, rel=0.3)


def test_one_picture(tmp_path: Path) -> None:
    files = draw(tmp_path, {"a": 0.3})
    found, report = score_pictures(
        files, reference=files, captions={"a": "shade 0.3"}, labels={"a": "dark"}, inputs=play(tmp_path, {"a": 0.3})
    )  # fmt: skip
    assert set(found) == {"cosine to the reference", "CLIP score", "AIS cosine"}
    assert report.facts["distances"] == "left out, they need 2 pictures on each side"


def test_bad_pictures_are_counted_and_listed(tmp_path: Path) -> None:
    made = draw(tmp_path, SHADES)
    Image.new("RGB", (20, 20)).save(tmp_path / "blank.png")
    Image.new("RGB", (20, 20), "white").save(tmp_path / "white.png")
    Image.new("RGB", (64, 3)).save(tmp_path / "thin.png")
    (tmp_path / "text.png").write_text("no picture")
    names = ("blank", "white", "thin", "text", "gone")
    made |= {name: tmp_path / f"{name}.png" for name in names}
    found, report = score_pictures(made, reference=made, captions={name: "shade 0.5" for name in names})
    assert report.counts == {"of one colour, generated": 2, "of one colour, reference": 2}
    reasons = {Path(name).stem: reason for name, reason in report.left_out}
    assert "not a readable image" in reasons["text"]
    assert reasons["thin"] == "64 x 3 pixels, below 16 x 16"
    assert "cannot be read" in reasons["gone"]
    assert reasons["blank"] == "of one colour"  # as a reference; what was generated is scored
    assert found["CLIP score"].count == 1  # blank; white has no direction
    assert ("white", "its embedding is zero: it has no cosine") in report.left_out


def test_no_usable_picture(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(UserError, match="not one usable generated picture among 1 .*bad.png: not a readable image"):
        score_pictures({"bad": tmp_path / "bad.png"})
    with pytest.raises(UserError, match=r"not one usable reference picture among 1"):
        score_pictures(draw(tmp_path, SHADES), reference={"gone": tmp_path / "gone.png"})


def test_sounds_that_were_made_from_pictures(tmp_path: Path) -> None:
    report = Report({})
    pictures, made = draw(tmp_path, {"a": 0.1, "b": 0.9}), play(tmp_path, {"a": 0.1, "b": 0.9})
    labels = {"a": "dark", "b": "bright"}
    add_scores(report, Samples(SOUND, made, labels=labels, inputs=pictures), [Angle()], None, 4)
    found = {row.name: row.value for row in report.scores}
    assert found["AIS angle:0"] == found["R@1 picture to sound angle:0"] == 1
    assert found["AIS cosine angle:0"] == pytest.approx(1, abs=1e-3)
    assert found["zero-shot accuracy angle:0"] == 1


def test_onsets_of_scenes_are_found_where_they_are() -> None:
    scenes = list(world.scenes("test", 24, kinds=ONSET_KINDS))
    known = [sorted(time for event in pictures.onsets(scene) for time in event) for scene in scenes]
    found = [detect_onsets(world.render(scene)) for scene in scenes]
    agreed = [onset_agreement(a, b)[2] for a, b in zip(found, known, strict=True)]
    assert np.mean(agreed) > 0.75
    assert shuffled_agreement(found, known) < 0.5


def test_clicks_are_found_to_the_hop() -> None:
    wave = np.zeros(32000, np.float32)
    times = [0.3, 0.8, 1.5]
    for time in times:
        start = round(time * 16000)
        wave[start : start + 800] = np.random.default_rng(0).normal(0, 0.3, 800)
    assert detect_onsets(wave) == pytest.approx(times, abs=0.03)


def files(folder: Path, shift: float = 0.0) -> dict[str, Path]:
    """Four sounds of two clicks, `shift` seconds late."""
    for number in range(4):
        wave = np.zeros(32000, np.float32)
        for time in (0.2 + 0.15 * number, 1.0 + 0.2 * number):
            start = round((time + shift) * 16000)
            wave[start : start + 800] = np.random.default_rng(number).normal(0, 0.3, 800)
        audio.save_wav(folder / f"{number}.wav", wave, 16000)
    return {str(number): folder / f"{number}.wav" for number in range(4)}


def f1(made: dict[str, Path], real: dict[str, Path]) -> tuple[Report, float]:
    report = Report({})
    add_onset_scores(report, made, real)
    return report, report.scores[0].value


def test_pairs_are_made_by_uid_within_a_tolerance_that_the_conditions_hold(tmp_path: Path) -> None:
    real = files(tmp_path / "real")
    report, value = f1(dict(reversed(files(tmp_path / "made", 0.05).items())), real)
    assert value == 1
    assert [row.name for row in report.scores] == ["onset F1", "onset precision", "onset recall"]
    assert report.scores[0].chance is not None and report.scores[0].chance < 0.5
    assert report.conditions["onsets"] == {"tolerance": 0.1, "hop": 0.01, "delta": 0.2}
    late = files(tmp_path / "late", 0.14)
    assert f1(late, real)[1] < 0.3


def test_unreadable_sounds_are_left_out_of_onset_scores(tmp_path: Path) -> None:
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
