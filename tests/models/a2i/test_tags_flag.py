"""run_inference.sh --tags prints what BEATs hears and draws nothing."""

from pathlib import Path

import pytest

from sonolume.bins import inference
from sonolume.preprocessors.miniworld import SAMPLE_RATE, world
from sonolume.utils import audio, cli


def test_tags_of_a_sound(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = next(iter(world.scenes("test", 1, 3, ["siren"], False)))
    audio.save_wav(tmp_path / "a.wav", world.render(scene), SAMPLE_RATE)
    flags = ["--config", str(root / "egs/a2i/audiotoken/tiny.json"), "--audio", str(tmp_path / "a.wav"), "--tags"]
    assert cli.run(inference.main, [*flags, "--output_dir", str(tmp_path / "out")]) == 0
    first, *tags = capsys.readouterr().out.splitlines()
    assert first.endswith("a.wav  2.56 s")
    assert tags[0].endswith("%  siren")
    assert not list((tmp_path / "out").glob("*.png"))
