"""The cache, on an embedder that counts its calls."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.evaluation.embedders import cache
from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.embedders.cache import embed
from sonolume.utils.errors import UserError

Wav = Callable[..., Path]


class Level(Embedder):
    """Embeds a sound as (its level, 1), a picture as (its mean, 1), a text as (its length, 1)."""

    takes, dim, sample_rate, labels = ("sounds", "pictures", "texts"), 2, 16000, ("quiet", "loud")

    def __init__(self, name: str = "level:a@1", stop_after: int = 10**6) -> None:
        self.name, self.left, self.batches = name, stop_after, list[int]()

    def _rows(self, values: list[float]) -> Features:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.batches.append(len(values))
        column = torch.tensor(values, dtype=torch.float32)
        return Features(torch.stack([column, torch.ones_like(column)], 1), torch.stack([-column, column], 1))

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        return self._rows([float(np.abs(wave).mean()) for wave in waves])

    def image_features(self, pictures: list[Image.Image]) -> Features:
        return self._rows([float(np.asarray(picture).mean()) for picture in pictures])

    def text_features(self, texts: list[str]) -> torch.Tensor:
        return self._rows([float(len(text)) for text in texts]).embeddings


@pytest.fixture
def sounds(wav: Wav) -> list[Path]:
    """Seven sounds of the levels 0.1 to 0.7."""
    return [wav(f"{index}.wav", np.full(1600 + index, index / 10, np.float32)) for index in range(1, 8)]


def levels(*tenths: int) -> list[float]:
    return [pytest.approx(tenth / 10) for tenth in tenths]


def test_nothing_is_embedded_twice(sounds: list[Path], tmp_path: Path) -> None:
    first = embed(sounds, "sounds", Level(), tmp_path / "cache", batch_size=3)
    embedder = Level()
    again = embed(list(reversed(sounds)), "sounds", embedder, tmp_path / "cache", batch_size=3)
    assert (first.computed, again.computed, embedder.batches) == (7, 0, [])
    assert first.embeddings[:, 0].tolist() == levels(1, 2, 3, 4, 5, 6, 7)
    assert again.embeddings.equal(first.embeddings.flip(0)) and again.logits.equal(first.logits.flip(0))  # type: ignore[union-attr]
    assert again.kept == list(reversed(sounds)) and not again.left_out


def test_batches_are_bounded(sounds: list[Path]) -> None:
    embedder = Level()
    embed(sounds, "sounds", embedder, None, batch_size=3)
    assert embedder.batches == [3, 3, 1]


def test_a_key_is_the_content(sounds: list[Path], tmp_path: Path, wav: Wav) -> None:
    embed(sounds, "sounds", Level(), tmp_path / "cache")
    moved = shutil.copy(sounds[0], tmp_path / "another name.wav")
    assert embed([Path(moved)], "sounds", Level(), tmp_path / "cache").computed == 0
    changed = wav(sounds[1].name, np.full(1600, 0.9, np.float32))
    found = embed(sounds, "sounds", Level(), tmp_path / "cache")
    assert (found.computed, found.embeddings[1, 0].item()) == (1, pytest.approx(0.9)) and changed == sounds[1]


def test_equal_files_are_embedded_once(sounds: list[Path], tmp_path: Path) -> None:
    twin = Path(shutil.copy(sounds[2], tmp_path / "twin.wav"))
    found = embed([sounds[2], twin, sounds[2]], "sounds", Level(), None)
    assert (found.computed, len(found.kept)) == (1, 3) and found.embeddings[:, 0].tolist() == levels(3, 3, 3)


def test_embedders_do_not_share(sounds: list[Path], tmp_path: Path) -> None:
    embed(sounds, "sounds", Level(), tmp_path / "cache")
    other, window = Level("level:a@2"), Level()
    window.window = 0.05
    assert embed(sounds, "sounds", other, tmp_path / "cache").computed == 7
    assert embed(sounds, "sounds", window, tmp_path / "cache").computed == 7
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_an_interrupted_run_goes_on_where_it_stopped(sounds: list[Path], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed(sounds, "sounds", Level(stop_after=2), tmp_path / "cache", batch_size=2)
    embedder = Level()
    found = embed(sounds, "sounds", embedder, tmp_path / "cache", batch_size=2)
    assert (found.computed, embedder.batches) == (3, [2, 1])
    assert found.embeddings[:, 0].tolist() == levels(1, 2, 3, 4, 5, 6, 7)


def test_a_killed_run_loses_its_last_chunk_alone(sounds: list[Path], tmp_path: Path) -> None:
    """SIGKILL at the fourth batch of two, with a chunk on disk after each four."""

    class Killed(Level):
        def audio_features(self, waves: list[np.ndarray]) -> Features:
            if len(self.batches) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().audio_features(waves)

    child = os.fork()
    if child == 0:
        cache.FLUSH_ROWS = 4
        embed(sounds, "sounds", Killed(), tmp_path / "cache", batch_size=2)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    embedder = Level()
    found = embed(sounds, "sounds", embedder, tmp_path / "cache", batch_size=2)
    assert (found.computed, embedder.batches) == (3, [2, 1])
    assert found.embeddings[:, 0].tolist() == levels(1, 2, 3, 4, 5, 6, 7)


def test_files_are_resampled_to_the_embedders_rate(tmp_path: Path, wav: Wav) -> None:
    """One second of 48 kHz stereo is 16000 samples of an embedder of 16 kHz."""
    lengths: list[int] = []

    class Recorder(Level):
        def audio_features(self, waves: list[np.ndarray]) -> Features:
            lengths.extend(len(wave) for wave in waves)
            return super().audio_features(waves)

    embed([wav("a.wav", np.full((48000, 2), 0.25, np.float32), 48000)], "sounds", Recorder(), None)
    assert lengths == [16000]


def test_unusable_files_are_listed(sounds: list[Path], tmp_path: Path, wav: Wav) -> None:
    nan = np.full(1600, 0.1, np.float32)
    nan[9] = np.inf
    text, short = tmp_path / "text.wav", wav("short.wav", np.full(1500, 0.1, np.float32))
    text.write_text("no sound")
    broken, silent = wav("nan.wav", nan), wav("silent.wav", np.full(1600, 9e-5, np.float32))
    gone = tmp_path / "gone.wav"
    paths = [gone, sounds[0], text, broken, sounds[1], short, silent]
    for _ in range(2):  # computed, and from the cache
        found = embed(paths, "sounds", Level(), tmp_path / "cache", batch_size=2)
        assert found.kept == sounds[:2] and found.embeddings.shape == (2, 2) and found.empty == [silent]
        reasons = dict(found.left_out)
        assert list(reasons) == [gone, text, broken, short, silent]
        for path, reason in {gone: "cannot be read", text: "not readable", broken: "NaN", short: "at least"}.items():
            assert reason in reasons[path] and str(path) not in reasons[path]
        assert reasons[silent] == "silent"
    assert embed(paths, "sounds", Level(), tmp_path / "cache", keep_empty=True).kept == [*sounds[:2], silent]


def test_clipped_sounds_are_kept_and_listed(sounds: list[Path], tmp_path: Path, wav: Wav) -> None:
    clipped = wav("clipped.wav", np.full(1600, 1.0, np.float32))
    for _ in range(2):
        found = embed([sounds[0], clipped], "sounds", Level(), tmp_path / "cache")
        assert found.kept == [sounds[0], clipped] and found.clipped == [clipped]


def test_nothing_usable_gives_no_rows(tmp_path: Path) -> None:
    found = embed([tmp_path / "gone.wav"], "sounds", Level(), None)
    assert found.embeddings.shape == (0, 2) and found.logits.shape == (0, 2)  # type: ignore[union-attr]
    assert embed([], "sounds", Level(), None).embeddings.shape == (0, 2)


def test_an_embedding_that_is_not_finite_is_left_out(sounds: list[Path], tmp_path: Path) -> None:
    class Broken(Level):
        labels = ()

        def audio_features(self, waves: list[np.ndarray]) -> Features:
            rows = super().audio_features(waves).embeddings
            return Features(torch.where(rows > 0.65, torch.nan, rows)[:, :1].expand(-1, 2), None)

    found = embed(sounds, "sounds", Broken(), tmp_path / "cache")
    assert found.left_out == [(sounds[6], "its embedding is not finite")] and len(found.embeddings) == 6
    assert found.logits is None


def test_a_damaged_cache_is_named(sounds: list[Path], tmp_path: Path) -> None:
    embed(sounds, "sounds", Level(), tmp_path / "cache")
    shard = next((tmp_path / "cache").rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match="remove it"):
        embed(sounds, "sounds", Level(), tmp_path / "cache")


def test_pictures(tmp_path: Path) -> None:
    for name, grey in (("a.png", 10), ("b.jpg", 200), ("c.png", 90)):
        Image.new("RGB", (20, 30), (grey, grey, grey)).save(tmp_path / name)
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "a.png").read_bytes()[:60])
    paths = [tmp_path / "a.png", cut, tmp_path / "b.jpg", tmp_path / "c.png"]
    for computed in (3, 0):
        found = embed(paths, "pictures", Level(), tmp_path / "cache", batch_size=2, keep_empty=True)
        assert found.computed == computed and [path for path, _ in found.left_out] == [cut]
        assert found.embeddings[:, 0].tolist() == pytest.approx([10, 200, 90], abs=1)
        assert found.logits.shape == (3, 2)  # type: ignore[union-attr]


def test_texts_are_embedded_once_each(tmp_path: Path) -> None:
    texts = ["rain", "a bell", "rain", "", "\udcff"]
    for batches in ([3, 1], []):
        embedder = Level()
        found = embed(texts, "texts", embedder, tmp_path / "cache", batch_size=3)
        assert found.embeddings[:, 0].tolist() == [4, 6, 4, 0, 1] and found.kept == texts
        assert embedder.batches == batches and found.logits is None


def test_sounds_and_texts_do_not_mix(sounds: list[Path], tmp_path: Path) -> None:
    embed(sounds[:1], "sounds", Level(), tmp_path / "cache")
    embed([sounds[0].read_bytes().decode("latin-1")], "texts", Level(), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_it_does_not_take_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    embedder = Level()
    embedder.takes = ("sounds",)
    with pytest.raises(UserError, match="takes sounds, not pictures"):
        embed([tmp_path / "gone.png"], "pictures", embedder, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
