"""The parts in pretrained/mini: they load, are small enough, and reach the scores on their card."""

from pathlib import Path

import pytest
import torch

from sonolume.models.mini.judges import load_judge, run_judge, score_judgement
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules.judges import SoundJudge
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld import WORLD, world

CAPTIONS = 32


@pytest.fixture(scope="module")
def shipped(root: Path) -> Path:
    return root / "pretrained" / "mini"


def test_text_to_audio_is_at_most_12_megabytes(shipped: Path):
    size = sum(path.stat().st_size for path in (shipped / "text_to_audio").rglob("*") if path.is_file())
    assert size <= 12e6


def test_judges_recognise_real_scenes(shipped: Path):
    scenes = list(world.scenes("test", 60, seed=3))
    mels = MelSpectrogram()(torch.stack([torch.from_numpy(world.render(scene)) for scene in scenes]))
    for name in ("sound_judge", "sound_judge_second"):
        judge = load_judge(SoundJudge, shipped / name)
        assert judge.world == WORLD
        shares = score_judgement(run_judge(judge, mels), scenes)
        assert shares["single"].value == 1 and shares["then_both"].value == 1 and shares["over_both"].value > 0.85


def test_sounds_match_their_texts(shipped: Path):
    scenes = list(world.scenes("test", CAPTIONS, seed=4, pairs=False))
    pipe = TextToAudioPipeline.from_pretrained(shipped / "text_to_audio")
    pipe.set_progress_bar_config(disable=True)
    pipe.use_preset("fast")
    generators = [torch.Generator().manual_seed(number) for number in range(CAPTIONS)]
    waves = pipe([world.captions(scene, 1, "test")[0] for scene in scenes], generator=generators, output_type="pt")
    judge = load_judge(SoundJudge, shipped / "sound_judge")
    shares = score_judgement(run_judge(judge, MelSpectrogram()(waves.audios)), scenes)
    assert shares["single"].right >= 0.85 * CAPTIONS


@pytest.mark.full
def test_a_text_of_the_whole_result_is_heard_in_the_mask(shipped: Path):
    pipe = TextToAudioPipeline.from_pretrained(shipped / "text_to_audio")
    pipe.set_progress_bar_config(disable=True)
    rain = pipe("Rain falls", generator=torch.Generator().manual_seed(0), output_type="pt").audios
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    texts = ["Rain falls, then a bell rings"] * 4
    made = pipe(texts, init_audio=rain, mask=[(1.2, None)], generator=generators, output_type="pt").audios
    start = round(1.2 * 16000)
    assert made[:, :start].equal(rain[:, :start].expand(4, -1)) and (made[:, start + 320 :].abs().amax(1) > 0.05).all()
    made[:, :start] = 0
    judge = load_judge(SoundJudge, shipped / "sound_judge")
    bell = world.KINDS.index("bell")
    assert (run_judge(judge, MelSpectrogram()(made)).presence[:, bell] > 0).sum() >= 3
