"""Scored by an embedder of angles that can be worked out by hand: red from 0 to 1 is a turn from 0 to 90 degrees."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.pictures import Pictures, score
from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.report import Score
from sonolume.models.evaluation.sounds import Sounds
from sonolume.models.evaluation.sounds import score as score_sounds
from sonolume.utils import audio
from sonolume.utils.errors import UserError

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


class Judge(Angle):
    """It tells dark from bright by itself."""

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


def scores(pictures: Pictures, embedder: Embedder | None = None, **more: Any) -> tuple[dict[str, Score], Report]:
    report = Report({})
    score(report, pictures, embedder or Angle(), None, 4, **more)
    return {row.name.removesuffix(" angle:0"): row for row in report.scores}, report


def test_the_reference_itself_is_perfect(tmp_path: Path) -> None:
    files = draw(tmp_path, SHADES)
    found, report = scores(Pictures(files, files, {uid: f"shade {shade}" for uid, shade in SHADES.items()}))
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
    found, _ = scores(Pictures(made, real))
    angles = [0.2 * math.pi / 2] * 2
    assert found["cosine to the reference"].value == pytest.approx(sum(map(math.cos, angles)) / 2, abs=1e-4)
    assert found["IIS"].value == 1.0  # 1.0 is nearer to 0.8 than to 0.2, and 0.4 to 0.2 than to 0.8
    assert found["IIS"].chance == 0.5 and "rank form" in found["IIS"].note
    swapped, _ = scores(Pictures({"b": made["d"], "d": made["b"]}, real))
    assert swapped["IIS"].value == 0.0


def test_agreement_with_the_sound_by_rank_and_as_a_cosine(tmp_path: Path) -> None:
    made = draw(tmp_path, {"a": 0.0, "b": 0.3, "c": 0.5})
    sounds = play(tmp_path, {"a": 0.1, "b": 0.45, "c": 0.8, "unasked": 0.3})
    found, report = scores(Pictures(made, sounds=sounds))
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
    found, _ = scores(Pictures(made, sounds={"a": sounds["x"], "b": sounds["x"], "c": sounds["y"]}))
    assert found["R@1 picture to sound"].value == found["R@1 sound to picture"].value == 1
    assert found["R@1 picture to sound"].chance == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert found["AIS"].value == pytest.approx((0.75 + 0.75 + 1) / 3)  # the same sound counts one half


def test_classes_by_their_names_where_the_embedder_knows_none(tmp_path: Path) -> None:
    made = draw(tmp_path, {"a": 0.1, "b": 0.2, "c": 0.9, "d": 0.9})
    labels = {"a": "dark", "b": "bright", "c": "bright", "elsewhere": "dark"}
    found, _ = scores(Pictures(made, labels=labels))
    assert (found["AIC"].value, found["AIC"].count, found["AIC"].chance) == (pytest.approx(2 / 3), 3, 1 / 2)
    assert '"a photo of a {label}"' in found["AIC"].note
    assert "class accuracy" not in found


def test_classes_of_the_embedder_itself(tmp_path: Path) -> None:
    made = draw(tmp_path, {"a": 0.1, "b": 0.2, "c": 0.9})
    found, _ = scores(Pictures(made, labels={"a": "Dark", "b": "bright", "c": "bright"}), Judge())
    assert found["class accuracy"].value == pytest.approx(2 / 3) and "AIC" not in found
    assert found["IS"].chance is None and 1 < found["IS"].value < 2
    others, _ = scores(Pictures(made, labels={"a": "0.1", "b": "0.2", "c": "0.9"}))
    assert others["AIC"].value == 1


def test_a_few_pictures_are_flagged_and_many_get_an_interval(tmp_path: Path) -> None:
    few = draw(tmp_path, {"a": 0.1, "b": 0.2, "c": 0.5})
    found, _ = scores(Pictures(few, few))
    assert "N 3, below 2 x 2" in found["FID"].note and found["FID"].low is None
    random = np.random.default_rng(0)
    many = draw(tmp_path / "many", {str(number): random.uniform() for number in range(40)})
    other = draw(tmp_path / "other", {str(number): random.uniform() / 2 for number in range(40)})
    found, _ = scores(Pictures(many, other))
    fid = found["FID"]
    assert fid.low is not None and fid.high is not None and fid.low < fid.value < fid.high
    assert found["FID-infinity"].value == pytest.approx(fid.value, rel=0.3)


def test_one_picture(tmp_path: Path) -> None:
    files = draw(tmp_path, {"a": 0.3})
    found, report = scores(Pictures(files, files, {"a": "shade 0.3"}, {"a": "dark"}, play(tmp_path, {"a": 0.3})))
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
    found, report = scores(Pictures(made, made, {name: "shade 0.5" for name in names}))
    assert report.counts == {"of one colour, generated": 2, "of one colour, reference": 2}
    reasons = {Path(name).stem: reason for name, reason in report.left_out}
    assert reasons["text"] == "not readable as a picture"
    assert reasons["thin"] == "64 x 3 pixels, below 16 x 16"
    assert reasons["gone"].startswith("cannot be read")
    assert reasons["blank"] == "of one colour"  # as a reference; what was generated is scored
    assert found["CLIP score"].count == 1  # blank; white has no direction
    assert ("white", "its embedding is zero: it has no cosine") in report.left_out


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(UserError, match="not one usable generated picture among 1 .*bad.png: not readable"):
        scores(Pictures({"bad": tmp_path / "bad.png"}))
    with pytest.raises(UserError, match=r"not one usable reference picture among 1"):
        scores(Pictures(draw(tmp_path, SHADES), {"gone": tmp_path / "gone.png"}))


def test_sounds_that_were_made_from_pictures(tmp_path: Path) -> None:
    report = Report({})
    pictures, made = draw(tmp_path, {"a": 0.1, "b": 0.9}), play(tmp_path, {"a": 0.1, "b": 0.9})
    labels = {"a": "dark", "b": "bright"}
    score_sounds(report, Sounds(made, labels=labels, pictures=pictures), Angle(), None, 4)
    found = {row.name: row.value for row in report.scores}
    assert found["AIS angle:0"] == found["R@1 picture to sound angle:0"] == 1
    assert found["AIS cosine angle:0"] == pytest.approx(1, abs=1e-3)
    assert found["zero-shot accuracy angle:0"] == 1
