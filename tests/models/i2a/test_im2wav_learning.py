"""A Low prior that is trained from nothing on the shipped VQ-VAE makes sounds of the right kind for unseen pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.i2a.im2wav import task
from sonolume.models.i2a.im2wav.data import Batch
from sonolume.models.i2a.im2wav.pipeline import Im2WavPipeline, Request
from sonolume.models.mini import judges
from sonolume.models.mini.judges import score_judgement
from sonolume.modules.judges import SoundJudge
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld import DURATION, world
from sonolume.preprocessors.miniworld.scene import KINDS, Scene

WINDOW = 16384  # samples, 128 coarse tokens: the first second of a scene
SCENES, VALID, UNSEEN, STEPS = 416, 16, 192, 650
SETTINGS = [
    "model.vqvae_path=pretrained/mini/im2wav", f"preprocess.window={WINDOW}",
    "model.low.width=64", "model.low.depth=3", "model.low.blocks=8", "model.low.time_bins=4",
    "train.adam.lr=5e-3", "train.batch_size=16", f"train.max_steps={STEPS}", f"train.valid_interval={STEPS}",
]  # fmt: skip


class Pairs(Dataset[Batch]):
    """Coarse tokens (N, T) of the first second of scenes, and vectors (N, V) of their still pictures."""

    def __init__(self, tokens: Tensor, vectors: Tensor) -> None:
        self.tokens, self.vectors = tokens, vectors
        self.times = torch.tensor([int(DURATION * 16000), 0, WINDOW])

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        return Batch(None, self.tokens[item[1]], None, self.vectors[item[1], None], self.times)


def collate(items: list[Batch]) -> Batch:
    return Batch(*(None if values[0] is None else default_collate(values) for values in zip(*items, strict=True)))


def pictures(scenes: Sequence[Scene]) -> list[Image.Image]:
    return [Image.fromarray(world.picture(scene)) for scene in scenes]


@torch.no_grad()
def test_low_learns_the_kinds_of_pictures(root: Path, tmp_path: Path) -> None:
    """The lower 95 % bound of the share is at least three times chance."""
    config = load_config(root / "egs/i2a/im2wav/tiny_low.json", [*SETTINGS, f"log_dir={tmp_path}"])
    frozen = task.load_frozen(config)
    scenes = list(world.scenes("train", SCENES, seed=5, pairs=False))
    waves = torch.from_numpy(np.stack([world.render(scene)[:WINDOW] for scene in scenes]))
    tokens = torch.cat([frozen["vqvae"].encode(part, 1) for part in waves.split(16)])              # (N, T)
    vectors = frozen["clip"].encode_pictures(iter(pictures(scenes)))                               # (N, V)
    splits = [Pairs(tokens[part], vectors[part]) for part in (slice(VALID, None), slice(VALID))]
    data = training.TrainingData(*splits, collate)
    torch.manual_seed(0)
    with torch.enable_grad():
        training.fit(task.build_task(config, frozen), data, config, config.train, resume=False)

    pipe = Im2WavPipeline.from_pretrained(config.run_dir / "pipeline", with_up=False)
    unseen = list(world.scenes("test", UNSEEN, seed=6, pairs=False))
    images = frozen["clip"].encode_pictures(iter(pictures(unseen)))                                # (N, V)
    made = pipe(Request(images[:, None], range(UNSEEN), WINDOW), level="low")                      # (N, n)
    silence = torch.zeros(UNSEEN, int(DURATION * 16000) - WINDOW)
    mels = MelSpectrogram()(torch.cat([made, silence], dim=1))
    judge = judges.load_judge(SoundJudge, root / judges.SOUND_JUDGES[0])
    share = score_judgement(judges.run_judge(judge, mels), unseen)["single"]
    assert share.cell[1] >= 3 / len(KINDS), share.cell
