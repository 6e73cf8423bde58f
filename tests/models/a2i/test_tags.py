"""Tags of recordings of any rate and length: the probabilities, the printed lines, and one line for every mistake."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sonolume.bins import inference
from sonolume.models.a2i.audiotoken.inference import tag_recording
from sonolume.modules.beats.beats import BEATs
from sonolume.preprocessors.miniworld import SAMPLE_RATE, world
from sonolume.utils import audio, cli
from sonolume.utils.errors import UserError


def tiny(labels: list[str], classes: int = 3) -> BEATs:
    torch.manual_seed(0)
    return BEATs(embed_dim=8, encoder_layers=1, encoder_embed_dim=8, encoder_ffn_embed_dim=8, encoder_attention_heads=2,
                 conv_pos=4, conv_pos_groups=2, predictor_class=classes, labels=labels).eval()  # fmt: skip


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """1.5 s at 44.1 kHz, stereo."""
    audio.save_wav(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, (2, 66150)), 44100)
    return tmp_path / "noise.wav"


def test_the_most_probable_first(noise: Path):
    beats = tiny(["/m/05tny_", "a hum", "a click"])
    found = tag_recording(beats, noise, top=2)
    best = beats.tags(torch.from_numpy(audio.load(noise, 16000))[None])[0].topk(2)
    assert [name for name, _ in found[1]] == [beats.labels[index] for index in best.indices]
    assert [probability for _, probability in found[1]] == pytest.approx(best.values.tolist(), abs=1e-6)
    assert found[0] == pytest.approx(1.5, abs=0.01) and "Bark" in beats.labels
    assert len(tag_recording(beats, noise, top=50)[1]) == 3


def test_windows_of_a_long_recording_are_averaged(noise: Path):
    beats, wave = tiny([]), torch.from_numpy(audio.load(noise, 16000))
    halves = torch.stack([wave[:16000], wave[-16000:]])
    wanted = {str(index): value for index, value in enumerate(beats.tags(halves).mean(0).tolist())}
    assert dict(tag_recording(beats, noise, top=3, window=1.0)[1]) == pytest.approx(wanted, abs=1e-6)


def test_the_tags_of_a_span(noise: Path, tmp_path: Path):
    beats, wave = tiny([]), audio.load(noise, 16000)
    soundfile.write(tmp_path / "part.wav", wave[4000:12000], 16000, subtype="FLOAT")
    whole = tag_recording(beats, tmp_path / "part.wav")
    assert whole[0] == 0.5 and tag_recording(beats, noise, spans=[(0.25, 0.75)]) == whole
    with pytest.raises(UserError, match="noise.wav: --span 1-2 lies outside the sound, which lasts 1.5 s"):
        tag_recording(beats, noise, spans=[(1, 2)])


def test_unusable_recordings(tmp_path: Path):
    silence, short, broken = tmp_path / "silence.wav", tmp_path / "short.wav", tmp_path / "nan.wav"
    audio.save_wav(silence, np.zeros(16000), 16000)
    assert len(tag_recording(tiny([]), silence)[1]) == 3  # silence is a class of AudioSet
    audio.save_wav(short, np.zeros(2799), 16000)
    soundfile.write(broken, np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    for path, message in ((short, "short.wav: .*0.175 s"), (broken, "nan.wav: .*NaN"), (tmp_path / "x.wav", "no such")):
        with pytest.raises(UserError, match=message):
            tag_recording(tiny([]), path)
    with pytest.raises(UserError, match="no classification head"):
        tag_recording(tiny([], classes=0), silence)


def test_the_flag_prints_tags_and_draws_nothing(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = next(iter(world.scenes("test", 1, 3, ["siren"], False)))
    audio.save_wav(tmp_path / "a.wav", world.render(scene), SAMPLE_RATE)
    (tmp_path / "b.wav").write_text("no sound")
    flags = ["--config", str(root / "egs/a2i/audiotoken/tiny.json"), "--tags", "--output_dir", str(tmp_path / "out")]
    assert cli.run(inference.main, [*flags, "--audio", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    first, *tags = captured.out.splitlines()
    assert first.endswith("a.wav  2.56 s") and len(tags) == 5 and tags[0].endswith("%  siren")
    assert captured.err.count("the shipped miniature knows 12 synthetic kinds") == 1
    assert "1 of 2 sounds were left out" in captured.err and not (tmp_path / "out").exists()
    assert cli.run(inference.main, [*flags, "--audio", str(tmp_path / "b.wav")]) == 2
