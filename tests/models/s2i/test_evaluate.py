"""run_eval.sh of wavy: retrieval, the transcript cascade, and the columns next to the pictures of what is said."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.bins import evaluate
from sonolume.config.base import MiniworldConfig
from sonolume.config.load import load_config
from sonolume.models.a2i import loading
from sonolume.models.evaluation import held_out
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.report import Report
from sonolume.models.s2i.wavy.evaluate import add_letter_errors, add_retrieval, shorten
from sonolume.models.s2i.wavy.retrieval import DualEncoder
from sonolume.preprocessors.miniworld import spoken
from sonolume.preprocessors.miniworld.voice import TEST_VOICES
from sonolume.utils import audio, cli
from tests.models.s2i import tiny


class Angles:
    """A space of angles: that of a recording is its first sample, that of a picture its red value, in tenths.

    `wrong` are the angles of other recordings and pictures than the files say.
    """

    sample_rate, min_seconds, width, device, dtype = 16000, 0.1, 2, torch.device("cpu"), torch.float32

    def __init__(self, wrong: dict[int, int] | None = None) -> None:
        self.wrong, self.speech_encoder = wrong or {}, self

    def _vectors(self, angles: Sequence[int]) -> torch.Tensor:
        found = torch.tensor([self.wrong.get(angle, angle) / 10 for angle in angles])
        return torch.stack([found.cos(), found.sin()], dim=1)

    def encode(self, waves: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._vectors([round(32 * float(wave[0])) for wave in waves])

    def encode_images(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        return 3 * Angles()._vectors([picture.getpixel((0, 0))[0] for picture in pictures])  # type: ignore[index]

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return Angles()._vectors([int(text) for text in texts])

    def project_images(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(vectors, dim=-1)


def make_tests(folder: Path, angles: Sequence[int]) -> HeldOut:
    """A recording of each angle, "0" to "9", with the picture of that angle, of which there is one file."""
    tests = HeldOut({}, {}, {"source": "x"})
    for number, angle in enumerate(angles):
        uid, wave = f"{number}", np.full(3200, angle / 32, np.float32)
        picture = folder / f"{angle}.png"
        Image.new("RGB", (20, 20), (angle, 0, 0)).save(picture)
        audio.save_wav(folder / f"{uid}.wav", wave if angle else 0 * wave, 16000)
        tests.captions[uid], tests.sounds[uid], tests.pictures[uid] = str(angle), folder / f"{uid}.wav", picture
    return tests


def test_every_caption_of_a_picture_is_right(tmp_path: Path) -> None:
    """Recordings of picture 2 sound like picture 9, except one; picture 0 is silent, picture 5 is damaged."""
    tests = make_tests(tmp_path, [1, 2, 2, 4, 0, 5, 9])
    audio.save_wav(tests.sounds["2"], np.full(3200, 11 / 32, np.float32), 16000)
    tests.pictures["5"].write_bytes(b"")
    report, encoder = Report({}), Angles(wrong={2: 9, 11: 2})
    add_retrieval(report, DualEncoder(encoder, encoder), tests)  # type: ignore[arg-type]
    scores = {score.name: score for score in report.scores}
    assert {uid for uid, _ in report.left_out} == {"4", str(tests.pictures["5"])}
    there, back = scores["R@1 speech to image"], scores["R@1 image to speech"]
    assert (there.value, there.count, there.chance) == (4 / 5, 5, pytest.approx(1 / 4))
    assert there.note == "among 4 pictures" and back.note == "among 5 recordings"
    # picture 9 is as near to a recording of picture 2 as to its own, which counts against it
    assert (back.value, back.count, back.chance) == (3 / 4, 4, pytest.approx((1 + 2 + 1 + 1) / 4 / 5))
    assert there.baselines["written caption"][0] == 1 and "R@10 speech to image" not in scores
    one = Report({})
    add_retrieval(one, DualEncoder(encoder, encoder), tests.select(["1", "2"]))  # type: ignore[arg-type]
    assert not one.scores


def test_transcripts_that_are_too_long_lose_their_last_words() -> None:
    tokenizer = type("Tokenizer", (), {
        "model_max_length": 5, "__call__": lambda self, text, **_: SimpleNamespace(input_ids=["", *text.split(), ""]),
    })()  # fmt: skip
    assert [shorten(text, tokenizer) for text in ("a b c d", "a b", "")] == ["a b c", "a b", ""]


def test_wrong_letters_of_transcripts() -> None:
    report = Report({})
    add_letter_errors(report, {"a": "A BELL", "b": "", "c": "x"}, {"a": "a bell.", "b": "rain", "c": "?!"})
    (score,) = report.scores
    assert (score.value, score.count, score.better) == (0.4, 2, "down") and "1 transcripts are empty" in score.note
    assert report.outliers == [("wrong letters of the transcripts", "b", 1.0)]


def test_held_out_scenes_are_spoken_by_held_out_voices(tmp_path: Path) -> None:
    mini = MiniworldConfig(train_scenes=1)
    tests = held_out.spoken_scenes(mini, 3, tmp_path / "sounds")
    rendered = held_out.scenes_with_files(mini, 3, None)
    assert tests.captions == rendered.captions and tests.labels == rendered.labels and not tests.pictures
    assert tests.source == rendered.source | {"speech": "held-out voices and wordings"}
    for scene in tests.scenes:
        (one,) = spoken.utterances(scene, 1, "test", mention=1.0)
        assert one.voice in TEST_VOICES and one.text == tests.captions[scene.uid]
        stored = audio.load(tests.sounds[scene.uid], 16000)
        np.testing.assert_allclose(stored, one.render(), atol=1e-4)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HuBERT, CLIP, stage 1, and both heads of stage 2."""
    folder = tmp_path_factory.mktemp("parts")
    towers = tiny.make_hubert(folder / "hubert"), tiny.make_clip(folder / "clip")
    tiny.make_encoder(folder / "encoder", *towers)
    for head in ("token", "sequence"):
        tiny.make_encoder(folder / head, *towers, head)
    return folder


@pytest.fixture
def score(root: Path, parts: Path, tmp_path: Path) -> Callable[..., int]:
    """score(folder of `parts`, flags and overrides ...) -> exit code; the report goes to tmp_path / "report"."""

    def run(stage: str, *more: str) -> int:
        given = ["--config", str(root / "egs/s2i/wavy/tiny.json"), "--checkpoint", str(parts / stage)]
        return cli.run(evaluate.main, [*given, "--device", "cpu", "--output_dir", str(tmp_path / "report"), *more])

    return run


def report_in(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "report.json").read_text())
    return content | {"scores": {row["name"]: row for row in content["scores"]}}


def test_pictures_of_speech_next_to_those_of_transcripts(
    score: Callable[..., int], parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retrieval alone loads no Stable Diffusion; the same folder goes on with the same recordings."""
    folder, count = tmp_path / "report", ("--num_samples", "2")
    with monkeypatch.context() as context:
        context.delattr(loading, "load_stable_diffusion")
        assert score("encoder", "--retrieval_only", *count) == 0
    alone = report_in(folder)["scores"]
    assert set(alone) == {"R@1 speech to image", "R@1 image to speech"}
    assert all(row["count"] == 2 and list(row["baselines"]) == ["written caption"] for row in alone.values())
    embedder = ("--embedder", f"clip:{parts / 'clip'}")
    others = ("--asr", str(parts / "hubert"), "--other_head", str(parts / "sequence"))
    assert score("token", *count, "--num_steps", "1", *others, *embedder) == 0
    report = report_in(folder)
    found = report["scores"]
    assert {name: found[name]["value"] for name in alone} == {name: row["value"] for name, row in alone.items()}
    columns = ["caption", "VAE", "head sequence", "transcript", "another sentence", "real"]
    for name in ("layout", "CLIP score clip:clip", "R@1 picture to text clip:clip"):
        assert list(found[name]["baselines"]) == columns and found[name]["chance"] is not None, name
    assert list(found["cosine to the reference clip:clip"]["baselines"]) == columns[:-1]
    assert found["layout"]["baselines"]["real"][0] == 1
    assert found["wrong letters of the transcripts"]["value"] > 0 and report["facts"]["asr"] == str(parts / "hubert")
    made = sorted((folder / "generated").glob("*.png"))
    assert len(made) == len(list((folder / "transcript").glob("*.png"))) == 2
    inputs = json.loads((folder / "transcript" / "settings.json").read_text())["inputs"]
    assert set(inputs) == {path.stem for path in made}


def test_recordings_of_whole_pictures(root: Path, score: Callable[..., int], tmp_path: Path) -> None:
    """Three pictures with two captions each: four recordings are two of them."""
    rows = []
    for number in range(6):
        uid, frames = f"p{number // 2}_{number % 2}", tmp_path / "data" / "mine" / "frames" / f"p{number // 2}"
        frames.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (90 * (number // 2), 80, 80)).save(frames / "still.png")
        tiny.write_sound(tmp_path / f"data/mine/audio/{uid}.wav", 0.3, number)
        picture = f"frames/{frames.name}"
        rows.append({"Uid": uid, "Audio": f"audio/{uid}.wav", "Image": picture, "Caption": f"dog {uid}"})
    (tmp_path / "data" / "mine" / "test.json").write_text(json.dumps(rows))
    data = [f"preprocess.processed_dir='{tmp_path / 'data'}'", "dataset=[mine]", "preprocess.miniworld.train_scenes=0"]
    config = load_config(root / "egs/s2i/wavy/tiny.json", data)
    chosen = held_out.recorded_sounds(config, 5, by_picture=True)
    assert len(chosen.sounds) == 4 and len({path.parent for path in chosen.pictures.values()}) == 2
    assert len(held_out.recorded_sounds(config, 1, by_picture=True).sounds) == 2
    assert score("encoder", "--retrieval_only", *data) == 0
    report = report_in(tmp_path / "report")["scores"]
    assert report["R@1 speech to image"]["count"] == 6 and report["R@1 image to speech"]["count"] == 3
    assert report["R@1 image to speech"]["chance"] == pytest.approx(1 / 3)


def test_requests_that_cannot_be_met(score: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for message, *flags in [
        ("holds a speech encoder without a head, which cannot draw: add --retrieval_only",),
        ("--retrieval_only makes no pictures and needs no --embedder", "--retrieval_only", "--embedder", "mini:world"),
        ("--text_to_audio makes sounds", "--text_to_audio", "x"),
        ("--asr nowhere/at/all", "--asr", "nowhere/at/all"),
    ]:  # fmt: skip
        capsys.readouterr()
        assert score("encoder", *flags) == 2
        err = capsys.readouterr().err
        assert message in err and len(err.splitlines()) == 1
