"""The shipped Im2Wav: small, in half precision, and its sounds of unseen pictures are of the right kind."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sonolume.models.i2a.im2wav.image_encoder import ImageEncoder
from sonolume.models.i2a.im2wav.parts import SETTINGS_FILE
from sonolume.models.i2a.im2wav.pipeline import Im2WavPipeline, Request
from sonolume.models.mini import judges
from sonolume.models.mini.judges import score_judgement
from sonolume.modules.judges import SoundJudge
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.scene import KINDS

PICTURES = 32


@pytest.fixture(scope="module")
def shipped(root: Path) -> Path:
    return root / "pretrained" / "mini" / "im2wav"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_it_is_small_half_precision_and_names_the_shipped_clip(shipped: Path) -> None:
    assert size(shipped) <= 5e6 and size(shipped.parent) <= 36e6
    for path in shipped.glob("*/*.safetensors"):
        kinds = {weight.dtype for weight in load_file(path).values() if weight.is_floating_point()}
        assert kinds == {torch.float16}
    assert json.loads((shipped / SETTINGS_FILE).read_text())["clip"] == "pretrained/mini/clip"


def test_drafts_of_unseen_pictures_are_of_the_right_kind(shipped: Path, root: Path) -> None:
    """At least half; chance is 1 in 12. Drafts, from the coarse tokens alone, take a fifth of the time."""
    pipe = Im2WavPipeline.from_pretrained(shipped, with_up=False)
    scenes = list(world.scenes("test", PICTURES, seed=5, pairs=False))
    clip = ImageEncoder.load(str(root / pipe.settings["clip"]))
    vectors = clip.encode_pictures(Image.fromarray(world.picture(scene)) for scene in scenes)   # (N, V)
    waves = pipe(Request(vectors[:, None], range(PICTURES), pipe.window), level="low")          # (N, n)
    judge = judges.load_judge(SoundJudge, root / judges.SOUND_JUDGES[0])
    single = score_judgement(judges.run_judge(judge, MelSpectrogram()(waves)), scenes)["single"]
    assert single.value >= 0.5 and single.cell[1] >= 3 / len(KINDS)
