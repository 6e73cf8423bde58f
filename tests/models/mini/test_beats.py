"""The miniature BEATs: training data, and accuracy of the shipped one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sonolume.config.base import MiniworldConfig
from sonolume.config.load import load_config
from sonolume.models.mini import beats as recipe
from sonolume.models.mini.judges import presence as presence_of
from sonolume.modules.beats.beats import BEATs
from sonolume.preprocessors.miniworld import SAMPLES, world
from sonolume.preprocessors.miniworld.scene import KINDS, Scene
from sonolume.utils.errors import ConfigError

LEARN, TEST = 300, 120  # scenes of the linear probe
LEAD = 0.20  # of the trained encoder's features over those of random weights
RIDGE = 1e-2


@pytest.fixture(scope="module")
def shipped(root: Path) -> BEATs:
    return BEATs.from_pretrained(root / "pretrained" / "mini" / "beats").eval()


def rendered(scenes: list[Scene]) -> Tensor:
    """(N, 40960)"""
    return torch.stack([torch.from_numpy(world.render(scene)) for scene in scenes])


def presence(scenes: list[Scene]) -> Tensor:
    """(N, K)"""
    return torch.stack([presence_of([scene]) for scene in scenes])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.beats.encoder_attention_heads=5", "encoder_attention_heads 5"),
        ("model.beats.input_patch_size=12", "input_patch_size 12"),
        ("model.beats.encoder_layers=2", "encoder_layers"),
        ("model.beats.max_distance=20", "max_distance 20"),
    ],
)
def test_settings_that_do_not_fit(root: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(root / "egs" / "mini" / "beats.json", [override])


def test_mixtures_contain_their_labels():
    """A mixture of a few sounds, drawn anew in another epoch, the same in the same one."""
    mixed = recipe.MixedSounds(MiniworldConfig(train_scenes=40))
    waves, kinds = zip(*(mixed[(0, index)] for index in range(40)), strict=True)
    assert all(wave.shape == (SAMPLES,) and wave.abs().max() <= 1 for wave in waves)
    assert all(kind[KINDS.index(mixed.scenes[i].events[0].kind)] == 1 for i, kind in enumerate(kinds))
    assert {int(kind.sum()) for kind in kinds} == {1, 2, 3}
    assert torch.equal(mixed[(0, 3)][0], waves[3]) and not torch.equal(mixed[(1, 3)][0], waves[3])


def test_a_piece_holds_enough_of_its_sound():
    rng, wave = np.random.default_rng(0), np.zeros(SAMPLES, np.float32)
    wave[30000:30400] = 1  # a click: a piece without it has no energy
    sizes = {len(recipe.cut(wave, rng)) for _ in range(30) if recipe.cut(wave, rng).sum() >= 0.3 * 400}
    assert len(sizes) > 3 and max(sizes) == SAMPLES
    assert all(recipe.cut(wave, rng).sum() >= 0.3 * 400 for _ in range(50))


def test_the_shipped_one_is_small_and_in_half_precision(root: Path):
    folder = root / "pretrained" / "mini" / "beats"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1.5e6
    shipped = BEATs.from_pretrained(folder)
    assert shipped.labels == KINDS and shipped.dtype == torch.float32


@torch.inference_mode()
def test_the_shipped_one_recognises_held_out_scenes(shipped: BEATs):
    """Singles by the likeliest kind (chance 8 %), pairs by the likeliest two (1.5 %)."""
    scenes = list(world.scenes("test", 100, seed=5))
    chances = torch.cat([shipped.tags(waves) for waves in rendered(scenes).split(20)])
    right = torch.tensor([
        set(chance.topk(len(scene.events)).indices.tolist()) == {KINDS.index(event.kind) for event in scene.events}
        for chance, scene in zip(chances, scenes, strict=True)
    ])  # fmt: skip
    single = torch.tensor([not scene.relation for scene in scenes])
    assert right[single].float().mean() >= 0.95 and right[~single].float().mean() >= 0.75


@torch.inference_mode()
def test_short_and_late_sounds_are_recognised(shipped: BEATs):
    """A second of each sound, alone and at the end of three seconds of silence."""
    lasting = ["rain", "engine", "clock"]
    scenes = list(world.scenes("test", 40, seed=6, kinds=lasting, pairs=False))
    waves, wanted = rendered(scenes)[:, 8000:24000], presence(scenes).argmax(1)
    late = torch.cat([torch.zeros(len(waves), 32000), waves], 1)
    for found in (shipped.tags(waves), shipped.tags(late)):
        assert (found.argmax(1) == wanted).float().mean() >= 0.8


@torch.inference_mode()
def features(beats: BEATs, waves: Tensor) -> Tensor:
    """(N, 3 D) mean over the tokens of three layers, as AudioToken takes them."""
    count = beats.config.encoder_layers
    found = [beats(part, layers=(count // 3, 2 * count // 3, count)).layers for part in waves.split(20)]
    return torch.cat([torch.cat([layer.mean(1) for layer in layers], -1) for layers in found])


def exactly_right(beats: BEATs, learn: list[Scene], test: list[Scene], waves: tuple[Tensor, Tensor]) -> float:
    """Share of the test scenes of which a ridge regression on frozen features names both kinds."""
    x, x_test = (features(beats, part) for part in waves)
    mean, scale = x.mean(0), x.std(0).clamp(min=1e-6)
    x, x_test = (torch.cat([(part - mean) / scale, torch.ones(len(part), 1)], 1) for part in (x, x_test))
    weights = torch.linalg.solve(x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1]), x.T @ presence(learn))
    best, wanted = (x_test @ weights).topk(2).indices.sort(1).values, presence(test)
    return (best == wanted.topk(2).indices.sort(1).values).all(1).float().mean().item()


def test_a_linear_probe_beats_its_random_twin(shipped: BEATs):
    """Both kinds of two sounds at the same time: the hardest that it was made for, on held-out combinations."""
    pairs = [scene for scene in world.scenes("test", 6 * TEST, seed=7) if scene.relation == "over"][:TEST]
    learn = list(world.scenes("train", LEARN, seed=8))
    waves = rendered(learn), rendered(pairs)
    torch.manual_seed(0)
    twin = BEATs.from_config(shipped.config).eval()
    trained, random = (exactly_right(model, learn, pairs, waves) for model in (shipped, twin))
    assert trained >= random + LEAD, (trained, random)
