"""The parts in pretrained/mini: they load, are small enough, and reach the scores on their card."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from sonolume.models.a2i import few_steps
from sonolume.models.mini.judges import load_judge, picture_shares, run_judge, score_judgement
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules import sampling
from sonolume.modules.judges import SoundJudge
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld import WORLD, world

CAPTIONS = 32


@pytest.fixture(scope="module")
def shipped(root: Path) -> Path:
    return root / "pretrained" / "mini"


def test_text_to_audio_is_at_most_12_megabytes_and_its_turbo_1_4(shipped: Path):
    sizes = {path: path.stat().st_size for path in (shipped / "text_to_audio").rglob("*") if path.is_file()}
    turbo = sum(size for path, size in sizes.items() if path.parent.name == "turbo")
    assert sum(sizes.values()) - turbo <= 12e6 and 0 < turbo <= 1.4e6


def test_judges_recognise_real_scenes(shipped: Path):
    scenes = list(world.scenes("test", 60, seed=3))
    mels = MelSpectrogram()(torch.stack([torch.from_numpy(world.render(scene)) for scene in scenes]))
    for name in ("sound_judge", "sound_judge_second"):
        judge = load_judge(SoundJudge, shipped / name)
        assert judge.world == WORLD
        shares = score_judgement(run_judge(judge, mels), scenes)
        assert shares["single"].value == 1 and shares["then_both"].value == 1 and shares["over_both"].value > 0.85


@pytest.mark.parametrize("preset", ["fast", "turbo"])
def test_sounds_match_their_texts(shipped: Path, preset: str):
    scenes = list(world.scenes("test", CAPTIONS, seed=4, pairs=False))
    pipe = TextToAudioPipeline.from_pretrained(shipped / "text_to_audio")
    pipe.set_progress_bar_config(disable=True)
    pipe.use_preset(preset)
    generators = [torch.Generator().manual_seed(number) for number in range(CAPTIONS)]
    waves = pipe([world.captions(scene, 1, "test")[0] for scene in scenes], generator=generators, output_type="pt")
    judge = load_judge(SoundJudge, shipped / "sound_judge")
    shares = score_judgement(run_judge(judge, MelSpectrogram()(waves.audios)), scenes)
    assert shares["single"].right >= 0.85 * CAPTIONS


def test_the_preset_turbo_of_stable_diffusion(shipped: Path):
    """Four calls of the network, without guidance, draw the kinds of captions."""
    folder = shipped / "stable_diffusion"
    turbo = few_steps.in_folder(folder)
    assert turbo is not None and turbo.file is not None and turbo.file.stat().st_size <= 0.9e6
    assert (turbo.limits.most_steps, turbo.limits.built_in) == (4, 4.0)
    pipe: Any = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    turbo.merge(pipe.unet)
    config = pipe.scheduler.config
    noise = {name: config[name] for name in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}
    pipe.scheduler, steps = sampling.preset("turbo", config.prediction_type, noise | {"clip_sample": False})
    scenes = list(world.scenes("test", 24, seed=4, pairs=False))
    texts = [world.captions(scene, 1, "test")[0] for scene in scenes]
    made = pipe(texts, num_inference_steps=steps, guidance_scale=1.0, generator=sampling.generators(range(24)),
                output_type="pt").images  # fmt: skip
    assert picture_shares(made, scenes)["single"].right >= 20


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
