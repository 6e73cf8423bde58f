"""Clips a second, cached and not: pytest -m benchmark -s tests/benchmarks/test_embedding_cache.py"""

import time
from pathlib import Path

import pytest
import torch
import transformers

from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.cache import embed
from sonolume.models.evaluation.embedders.load import load
from sonolume.preprocessors.miniworld import world
from sonolume.utils import audio


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """200 sounds of the miniature world, 2.56 s each."""
    folder = tmp_path_factory.mktemp("sounds")
    for scene in world.scenes("test", 200):
        audio.save_wav(folder / f"{scene.uid}.wav", world.render(scene), 16000)
    return sorted(folder.iterdir())


def clips_per_second(paths: list[Path], embedder: Embedder, cache: Path) -> tuple[float, int]:
    start = time.perf_counter()
    found = embed(paths, "sounds", embedder, cache)
    return len(found.kept) / (time.perf_counter() - start), found.computed


def compare(paths: list[Path], embedder: Embedder, cache: Path) -> None:
    embedder.encode_audio([audio.load(paths[0], embedder.sample_rate)])  # set up before measuring
    without, computed = clips_per_second(paths, embedder, cache)
    cached, again = clips_per_second(paths, embedder, cache)
    assert (computed, again) == (len(paths), 0)
    name = embedder.name.partition("@")[0]
    print(f"\n{name}: {without:.3g} clips/s without, {cached:.0f} with the cache, x {cached / without:.0f}")
    assert cached > without


@pytest.mark.benchmark
@pytest.mark.parametrize("spec", ["mel:", "mini:sound_judge", "mini:sound_judge_second"])
def test_of_the_miniature_world(spec: str, sounds: list[Path], tmp_path: Path) -> None:
    compare(sounds, load(spec), tmp_path)


@pytest.mark.benchmark
def test_of_an_audio_spectrogram_transformer(sounds: list[Path], tmp_path: Path) -> None:
    """The published size (86 M parameters), random weights."""
    torch.manual_seed(0)
    transformers.ASTForAudioClassification(transformers.ASTConfig(num_labels=527)).save_pretrained(tmp_path / "ast")
    with pytest.warns(UserWarning, match="all zero"):
        transformers.ASTFeatureExtractor().save_pretrained(tmp_path / "ast")
    compare(sounds[:2], load(f"ast:{tmp_path / 'ast'}"), tmp_path / "cache")
