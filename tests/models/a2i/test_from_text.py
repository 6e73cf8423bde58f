"""Round trips of any two recipes: the share that each leg keeps, and the sheet of all stations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.a2i.from_text import add_kept_shares, classify
from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.figures import trip_sheets
from sonolume.models.evaluation.report import Report
from sonolume.utils import audio

RATE = 16000
KINDS = ("dark", "bright")


class Brightness(Embedder):
    """Classifies bright and dark: a picture by its mean, a sound by its loudness."""

    name, dim, labels, takes = "brightness@1", 2, KINDS, ("sounds", "pictures")
    sample_rate, window = RATE, 0.5

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        return self._features(torch.tensor([float(np.abs(wave).max()) for wave in waves]))

    def image_features(self, pictures: list[Image.Image]) -> Features:
        return self._features(torch.tensor([float(np.asarray(picture).mean() / 255) for picture in pictures]))

    def _features(self, level: torch.Tensor) -> Features:
        logits = torch.stack([1 - level, level], dim=1)
        return Features(logits, logits)


def sounds(folder: Path, *levels: float) -> dict[str, Path]:
    time = np.arange(RATE // 2) / RATE
    for number, level in enumerate(levels):
        wave = level * np.sin(2 * np.pi * 440 * time)
        audio.save_wav(folder / f"{number}.wav", wave.astype(np.float32), RATE)
    return {str(number): folder / f"{number}.wav" for number in range(len(levels))}


def pictures(folder: Path, *levels: float) -> dict[str, Path]:
    folder.mkdir()
    for number, level in enumerate(levels):
        picture = Image.new("RGB", (32, 32), (round(255 * level),) * 3)
        picture.putpixel((0, 0), (128, 0, 0))  # not of one colour
        picture.save(folder / f"{number}.png")
    return {str(number): folder / f"{number}.png" for number in range(len(levels))}


def test_each_leg_is_scored_for_itself(tmp_path: Path) -> None:
    """Trip 1 is lost by the first leg, trip 2 by the second, 3 by both: its picture is right again."""
    labels = dict.fromkeys("0123", "bright")
    stations = {"text": {}, "sound": sounds(tmp_path, 0.9, 0.1, 0.9, 0.1),
                "picture": pictures(tmp_path / "made", 0.9, 0.1, 0.1, 0.9)}  # fmt: skip
    other = {"sound": sounds(tmp_path / "real", 0.9, 0.9, 0.9, 0.0), "picture": stations["picture"]}
    report = Report({})
    lost = add_kept_shares(report, labels, stations, {"real sound": other}, Brightness(), None, 4)
    assert lost == ["1", "2"]
    first, second = report.scores
    assert (first.name, first.value, first.chance) == ("kind kept, text to sound", 0.5, 0.5)
    assert (second.name, second.value, second.count) == ("kind kept, sound to picture", 0.5, 4)
    assert first.baselines["real sound"][0] == 0.75 and second.baselines["real sound"][0] == 0.25


def test_a_trip_that_did_not_arrive_is_lost(tmp_path: Path) -> None:
    """And the same the other way round: picture to sound to picture."""
    stations = {"picture": pictures(tmp_path / "start", 0.9, 0.1), "sound": sounds(tmp_path, 0.9, 0.1),
                "picture of it": pictures(tmp_path / "end", 0.9)}  # fmt: skip
    report = Report({})
    labels = {"0": "bright", "1": "dark"}
    assert add_kept_shares(report, labels, stations, {}, Brightness(), None, 4) == ["1"]
    assert [score.value for score in report.scores] == [1, 0.5]


def test_sheets_hold_sounds_and_pictures(tmp_path: Path) -> None:
    stations = {"sound": sounds(tmp_path, 0.9, 0.5), "picture": pictures(tmp_path / "made", 0.9)}
    stations["picture"]["1"] = tmp_path / "gone.png"
    labels = {"0": "a tone", "1": "another"}
    assert trip_sheets(tmp_path, stations, labels, ["1", "unknown"]) == ["samples.png", "worst.png"]
    with Image.open(tmp_path / "samples.png") as both, Image.open(tmp_path / "worst.png") as one:
        assert both.width == one.width and both.height > one.height
        colours = both.convert("RGB").getcolors(100000)
    assert colours is not None and len(colours) > 20  # of a spectrogram
    assert trip_sheets(tmp_path, stations, labels, []) == ["samples.png"]
    assert not (tmp_path / "worst.png").exists()


def test_an_embedder_without_classes_is_refused(tmp_path: Path) -> None:
    class Mute(Brightness):
        labels = ()

        def _features(self, level: torch.Tensor) -> Features:
            return Features(torch.stack([1 - level, level], dim=1), None)

    with pytest.raises(ValueError, match="brightness@1 has no classes"):
        classify(sounds(tmp_path, 0.9), Mute(), None, 4)
