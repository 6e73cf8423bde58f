"""run_eval.sh of audio2img: alignment of sounds with the states of their captions, with pictures and without them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from sonolume.bins import evaluate, preprocess
from sonolume.models.a2i import loading
from sonolume.models.a2i.audio2img.data import Tokens, encode
from sonolume.models.a2i.audio2img.encoder import RECIPE, FeatureExtractor, save
from sonolume.models.a2i.audio2img.evaluate import add_alignment
from sonolume.models.a2i.pipeline import SETTINGS_FILE, AudioToImagePipeline
from sonolume.models.a2i.sound_encoder import LongSounds
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.report import Report
from sonolume.modules.sequence_alignment import position_metrics
from sonolume.utils import audio, cli, paths

CONFIG = "egs/a2i/audio2img/tiny.json"
STATES = 15  # of a sound of the `Oracle`
NAMES = ["alignment cosine", "alignment MSE", "alignment Euclidean distance"]


class Oracle:
    """A `SoundEncoder` that answers with the states of the text whose number is ten times the first sample."""

    sample_rate, min_seconds, window, prompt, num_tokens = 16000, 0.2, 1.0, "<*>", STATES
    long_sounds = LongSounds.loudest

    def __init__(self, states: torch.Tensor) -> None:
        self.states, self.width = states, states.shape[-1]

    def to(self, device: Any) -> None:
        pass

    def use_preset(self, name: str) -> None:
        pass

    def encode_audio(self, waves: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.states[[round(10 * float(wave[0])) for wave in waves]]

    def encode_prompt(self, audio_tokens: Any, prompts: Any, tokenizer: Any, text_encoder: Any) -> Any:
        raise AssertionError("nothing is drawn")


def numbers(report: Report) -> dict[str, Any]:
    """Scores by their names without the name of the targets."""
    return {score.name.partition(",")[0]: score for score in report.scores}


@pytest.fixture
def folder(tiny_stable_diffusion: Path, tmp_path: Path) -> Path:
    settings = {"recipe": RECIPE, "stable_diffusion": str(tiny_stable_diffusion), "text_mask": False}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings))
    return tmp_path


def test_states_of_the_captions_are_aligned_perfectly(folder: Path, tiny_stable_diffusion: Path) -> None:
    """Text 0 is silent, text 1 is that of two sounds, and text 3 is longer than the targets."""
    texts = ["nothing", "a dog", "rain", "a very very long siren"]
    tokenizer, text_encoder = loading.load_text_encoder(str(tiny_stable_diffusion), "x")
    tokens = Tokens(texts, tokenizer, STATES + 1, False)
    states = torch.cat([encode(text_encoder, tokens[number][None]) for number in range(4)])
    sd = loading.load_stable_diffusion(str(tiny_stable_diffusion), "x", torch.float32)
    pipe = AudioToImagePipeline(Oracle(states), sd)
    chosen = [1, 2, 0, 3, 1]
    captions = {f"sound {place}": texts[number] for place, number in enumerate(chosen)}
    for place, number in enumerate(chosen):
        audio.save_wav(folder / f"{place}.wav", np.full(8000, number / 10, np.float32), 16000)
    sounds = {uid: folder / f"{place}.wav" for place, uid in enumerate(captions)}
    report = Report({})
    add_alignment(report, pipe, HeldOut(captions, sounds, {"source": "x"}), str(folder), 2)

    scores = numbers(report)
    assert [uid for uid, _ in report.left_out] == ["sound 2"] and "silent" in report.left_out[0][1]
    assert report.counts == {"texts cut to 16 tokens, of 4 in the alignment": 1}
    assert scores["alignment cosine"].value == pytest.approx(1, abs=1e-5)
    assert scores["alignment MSE"].value == pytest.approx(0, abs=1e-5)
    assert {score.count for name, score in scores.items() if name in NAMES} == {4}
    others = position_metrics(states[[1, 2, 3, 1]], states[[2, 0, 1, 1]])  # of the next sound
    same = position_metrics(states[[1, 2, 3, 1]].mean(dim=0).expand(4, -1, -1), states[[1, 2, 3, 1]])
    for name, other, one in zip(NAMES, others.values(), same.values(), strict=True):
        assert scores[name].chance == pytest.approx(float(other.mean()), abs=1e-3)
        assert scores[name].baselines["mean text"][0] == pytest.approx(float(one.mean()), abs=1e-3)
    found, back = scores["R@1 sound to text"], scores["R@1 text to sound"]
    assert (found.value, found.count, found.chance, found.note) == (1, 4, pytest.approx(1 / 3), "among 3 texts")
    assert (back.value, back.count, back.note) == (1, 3, "among 4 sounds")
    assert found.low == pytest.approx(0.51, abs=0.01) and found.headline and not back.headline
    assert not any(name.startswith("R@5") for name in scores)


@pytest.fixture(scope="module")
def untrained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of random weights for the shipped Stable Diffusion."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                             "num_attention_heads": 2, "output_hidden_size": 128, "layerdrop": 0.0}  # fmt: skip
    model = Wav2Vec2BertModel(Wav2Vec2BertConfig(**sizes, add_adapter=True, num_adapter_layers=2))
    folder = tmp_path_factory.mktemp("untrained")
    settings = {"stable_diffusion": "pretrained/mini/stable_diffusion", "text_mask": False}
    save(folder, model, FeatureExtractor(), settings)
    return folder


@pytest.fixture
def score(root: Path, untrained: Path, tmp_path: Path) -> Callable[..., int]:
    """score(flags and overrides ...) -> exit code; the report goes to tmp_path / "report"."""

    def run(*more: str) -> int:
        given = ["--config", str(root / CONFIG), "--checkpoint", str(untrained), "--device", "cpu"]
        return cli.run(evaluate.main, [*given, "--output_dir", str(tmp_path / "report"), *more])

    return run


def report_in(folder: Path) -> dict[str, Any]:
    """A report whose scores are found by their names without the name of the targets."""
    content = json.loads((folder / "report.json").read_text())
    return content | {"scores": {row["name"].partition(",")[0]: row for row in content["scores"]}}


def test_with_pictures_and_without(
    score: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pictures, no U-Net is loaded; the same command without the flag goes on with the same sounds.

    The config has scenes of two events.
    """
    folder = tmp_path / "report"
    with monkeypatch.context() as context:
        context.delattr(loading, "load_stable_diffusion")
        assert score("--alignment_only", "--num_samples", "8") == 0
    alone = report_in(folder)
    recalls = (f"R@{k} {way}" for k in (1, 5) for way in ("sound to text", "text to sound"))
    assert set(alone["scores"]) == {*NAMES, *recalls}
    assert not list(folder.rglob("*.png")) and len(list((folder / "sounds").glob("*.wav"))) == 8
    assert score("--num_samples", "8", "--num_steps", "1", "--embedder", "mini:picture_judge") == 0
    found = report_in(folder)
    assert {name: found["scores"][name]["value"] for name in alone["scores"]} == pytest.approx(
        {name: row["value"] for name, row in alone["scores"].items()}
    )
    for name in ("right kind of picture", "then: both kinds", "over: both kinds"):
        row = found["scores"][name]
        assert row["count"] > 0 and list(row["baselines"]) == ["caption", "VAE", "real"]
        assert row["baselines"]["real"][0] == 1
    assert len(list((folder / "generated").glob("*.png"))) == 8


def test_from_texts_to_sounds_to_pictures(score: Callable[..., int], tiny_checkpoint: Path, tmp_path: Path) -> None:
    trip = ["--text_to_audio", str(tiny_checkpoint), "--num_samples", "3", "--num_steps", "1"]
    assert score(*trip, "--embedder", "mini:world") == 0
    scores = report_in(tmp_path / "report")["scores"]
    assert set(scores["alignment cosine"]["baselines"]) == {"mean text", "real sound"}
    assert scores["alignment cosine"]["count"] == 3
    assert set(scores["layout"]["baselines"]) == {"real sound", "caption", "VAE", "real"}


def test_recordings_need_no_embedder_for_their_alignment(
    root: Path, score: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    rows = [{"Uid": "long", "Caption": "rain falls and " * 30}]
    rows += [{"Uid": f"sound {number}", "Caption": f"{word} falls"} for number, word in enumerate(["rain", "water"])]
    for row in rows:
        row |= {"Audio": f"{row['Uid']}.wav", "Split": "test"}
        audio.save_wav(tmp_path / row["Audio"], random.normal(0, 0.1, 16000).astype(np.float32), 16000)
    rows.append({"Uid": "x", "Caption": "x", "Audio": "long.wav", "Split": "train"})
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    data = ["preprocess.miniworld.train_scenes=0", f"preprocess.processed_dir='{tmp_path}'", "preprocess.num_workers=0"]
    given = ["--config", str(root / CONFIG), "--input", str(tmp_path / "mine.json"), *data]
    assert cli.run(preprocess.main, given) == 0
    assert score(*data) == 2
    assert "--embedder is needed to score pictures of recordings" in capsys.readouterr().err
    assert score("--alignment_only", *data) == 0
    report = report_in(tmp_path / "report")
    assert report["scores"]["alignment cosine"]["count"] == 2
    assert [uid for uid, _ in report["left_out"]] == ["long"]


@pytest.mark.parametrize(
    "flags",
    [("--embedder", "mini:world"), ("--text_to_audio", "x"), ("--generated", "egs")],
    ids=["embedder", "text_to_audio", "generated"],
)
def test_alignment_only_makes_no_pictures(
    score: Callable[..., int], flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert score("--alignment_only", *(str(paths.root() / flag) if flag == "egs" else flag for flag in flags)) == 2
    assert f"--alignment_only makes no pictures and needs no {flags[0]}" in capsys.readouterr().err


def test_more_states_than_the_text_encoder_has(
    score: Callable[..., int], untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A window of ten seconds; pictures can be drawn, the alignment is not defined."""
    for path in untrained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((tmp_path / SETTINGS_FILE).read_text())
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings | {"window": 10.0}))
    assert score("--alignment_only", "--checkpoint", str(tmp_path), "--num_samples", "2") == 2
    assert "125 states of a sound, the text encoder has 47" in capsys.readouterr().err


def test_the_head_attention_has_no_alignment(
    score: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"recipe": RECIPE, "head": "attention", "sound_encoder": "pretrained/mini/audiotoken"}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings))
    assert score("--alignment_only", "--checkpoint", str(tmp_path)) == 2
    assert "score its sound_encoder, pretrained/mini/audiotoken" in capsys.readouterr().err
    report, unused = Report({}), Any
    add_alignment(report, unused, HeldOut({}, {}, {}), str(tmp_path), 2)
    assert not report.scores
