import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from sonolume.config.base import MiniworldConfig, TrainConfig
from sonolume.config.i2a.im2wav import Config, FilmsConfig, ModelConfig, PreprocessOptions, Stage, VqvaeConfig
from sonolume.models.i2a.im2wav.data import preprocess, training_data
from sonolume.models.i2a.im2wav.windows import SoundWindows, draw
from sonolume.models.training import Frozen
from sonolume.modules.im2wav.vqvae import VQVAE
from sonolume.utils import manifest
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from sonolume.utils.video import stream_frames
from tests.videos import film

WINDOW, RATE = 8192, 16000  # 0.512 s; frames 0 to 15 at 30 a second
DOWNS = [5, 2]  # hops of 32 and 128 samples


class Colours:
    """In place of CLIP: the mean colour of a picture, and 1."""

    width, content_hash = 4, "colours"

    def __init__(self) -> None:
        self.vision, self.seen = torch.nn.Identity(), 0

    def encode_pictures(self, pictures: Any) -> Tensor:
        means = [np.asarray(picture.convert("RGB"), np.float32).mean(axis=(0, 1)) / 255 for picture in pictures]
        self.seen += len(means)
        return torch.tensor(np.array([[*mean, 1.0] for mean in means], np.float32).reshape(-1, 4))

    def encode_video(self, path: Path, fps: float = 30.0) -> Tensor:
        return self.encode_pictures(frame.picture for frame in stream_frames(path, fps))


@pytest.fixture
def frozen() -> Frozen:
    torch.manual_seed(0)
    vqvae = VQVAE(DOWNS, embedding_width=8, codes=16, width=8, depth=1).eval()
    for codebook in vqvae.codebooks:
        torch.nn.init.normal_(codebook.codes)  # type: ignore[arg-type]
    return Frozen(clip=Colours(), vqvae=vqvae)


def config_for(folder: Path, stage: str = "low", **data: Any) -> Config:
    return Config(
        recipe="i2a/im2wav", exp_name="run", dataset=["mine"], stage=Stage(stage),
        preprocess=FilmsConfig(processed_dir=str(folder / "data"), **{"window": WINDOW, "num_workers": 0} | data),
        model=ModelConfig(vqvae=VqvaeConfig(downs=DOWNS)), train=TrainConfig(num_workers=0, accelerator="cpu"),
    )  # fmt: skip


def noise(path: Path, samples: int, channels: int = 1, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, channels)), RATE)
    return path


def colour(folder: Path, value: int) -> Path:
    folder.mkdir(parents=True)
    Image.new("RGB", (20, 20), (value, value, value)).save(folder / "still.png")
    return folder


def write(folder: Path, *rows: Row, split: str = "train") -> None:
    """Write rows as a prepared data set, whose other split is the first of them."""
    (folder / "data/mine").mkdir(parents=True, exist_ok=True)
    other = "valid" if split == "train" else "train"
    manifest.write_manifest(rows, folder / f"data/mine/{split}.json")
    manifest.write_manifest(rows[:1], folder / f"data/mine/{other}.json")


def windows_of(folder: Path, *lengths: int, window: int = WINDOW) -> SoundWindows:
    rows = [Row("mine", f"{i}", noise(folder / f"{i}.wav", length, seed=i)) for i, length in enumerate(lengths)]
    return SoundWindows(rows, FilmsConfig(window=window), longest=600 * RATE)


def test_windows_are_those_of_the_official_code(tmp_path: Path, root: Path) -> None:
    golden = np.load(root / "tests/goldens/im2wav/misc.npz")
    windows = windows_of(tmp_path, 160000, 96000, 160000, window=65536)
    assert len(windows) == len(golden["window_plain"])
    assert [windows.place(i) for i in range(6)] == [tuple(row) for row in golden["window_plain"]]
    for shift, item, *place in golden["window_shifted"].astype(int).tolist():
        assert windows.place(item, shift) == tuple(place)


@pytest.mark.parametrize("lengths", [(8192,) * 3, (100, 20000, 9000, 8191), (12698, 8602), (50000,), (8193, 8193)])
def test_every_sound_has_a_window_that_stays_inside(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    windows = windows_of(tmp_path, *lengths)
    places = [windows.place(i, shift) for i in range(len(windows)) for shift in (0, -4096, -17, 4095)]
    assert {windows.place(i).sound for i in range(len(windows))} == set(range(len(lengths)))
    for sound, offset in places:
        assert 0 <= offset <= max(0, lengths[sound] - WINDOW)
    if lengths == (8192,) * 3:
        assert [windows.place(i) for i in range(3)] == [(0, 0), (1, 0), (2, 0)]


def test_a_short_sound_is_followed_by_silence(tmp_path: Path) -> None:
    windows = windows_of(tmp_path, 100, 20000)
    short, _ = soundfile.read(tmp_path / "0.wav", dtype="float32")
    assert windows[0].shape == (WINDOW,) and windows[0].dtype == torch.float32
    np.testing.assert_array_equal(windows[0][:100], short)
    assert not windows[0][100:].any()
    sound, offset = windows.place(2)
    long, _ = soundfile.read(tmp_path / f"{sound}.wav", dtype="float32")
    np.testing.assert_array_equal(windows[2], long[offset : offset + WINDOW])


def test_another_sample_rate_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(9000), 8000)
    with pytest.raises(UserError, match="8000 Hz"):
        SoundWindows([Row("mine", "a", tmp_path / "a.wav")], FilmsConfig(), longest=9000)


def test_draws_depend_on_seed_epoch_and_item_only() -> None:
    drawn = {key: draw(*key, size=WINDOW) for key in np.ndindex(2, 2, 100)}
    assert all(draw(*key, size=WINDOW) == one for key, one in drawn.items())
    shifts = [one.shift for one in drawn.values()]
    assert -WINDOW // 2 <= min(shifts) < -0.48 * WINDOW and 0.48 * WINDOW < max(shifts) < WINDOW // 2
    assert len(set(drawn.values())) == len(drawn)


def test_stage_vqvae_takes_sounds_without_pictures(tmp_path: Path) -> None:
    write(tmp_path, Row("mine", "a", noise(tmp_path / "a.wav", 20000)), Row("mine", "gone", tmp_path / "gone.wav"))
    data = training_data(config_for(tmp_path, "vqvae"), Frozen())
    assert len(data.train) == 2  # type: ignore[arg-type]
    batch = data.collate([data.train[0, 0], data.train[0, 1]])
    assert batch.wave.shape == (2, WINDOW) and batch.wave.dtype == torch.float32


def test_shift_and_blend_are_of_training_only(tmp_path: Path) -> None:
    write(tmp_path, Row("mine", "a", noise(tmp_path / "a.wav", 3 * WINDOW, channels=2)))
    config = config_for(tmp_path, "vqvae", aug_shift=True, aug_blend=True)
    data, again = training_data(config, Frozen()), training_data(config, Frozen())
    left, right = soundfile.read(tmp_path / "a.wav", dtype="float32")[0].T
    np.testing.assert_allclose(data.valid[0, 1].wave, (left + right)[WINDOW : 2 * WINDOW] / 2, atol=1e-6)
    assert torch.equal(data.valid[0, 1].wave, data.valid[7, 1].wave)
    assert torch.equal(data.train[3, 1].wave, again.train[3, 1].wave)
    assert not torch.equal(data.train[3, 1].wave, data.train[4, 1].wave)
    drawn = data.train.draw(3, 1)  # type: ignore[attr-defined]
    offset = WINDOW + drawn.shift
    mixed = drawn.weight * left + (1 - drawn.weight) * right
    np.testing.assert_allclose(data.train[3, 1].wave, mixed[offset : offset + WINDOW], atol=1e-6)


def test_blending_needs_both_channels(tmp_path: Path) -> None:
    write(tmp_path, Row("mine", "a", noise(tmp_path / "a.wav", 20000)))
    (tmp_path / "data/mine/pairs.json").write_text('{"stereo": false}')
    with pytest.raises(UserError, match="stereo False"):
        training_data(config_for(tmp_path, "vqvae", aug_blend=True), Frozen())


@pytest.mark.parametrize(("stage", "levels"), [("low", ["low"]), ("up", ["low", "up"])])
def test_tokens_are_cached_once(
    tmp_path: Path, frozen: Frozen, stage: str, levels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = colour(tmp_path / "frames", 51)
    write(tmp_path, *(Row("mine", f"{i}", noise(tmp_path / f"{i}.wav", 20000, seed=i), image=image) for i in (0, 1)))
    config = config_for(tmp_path, stage)
    data = training_data(config, frozen)
    item, vqvae = data.train[0, 3], frozen["vqvae"]
    assert item.waves is None and len(data.train) == 5  # type: ignore[arg-type]
    wave = data.train.windows[3][None]  # type: ignore[attr-defined]
    assert torch.equal(item.low_tokens, vqvae.encode(wave, 1)[0])
    assert item.low_tokens.shape == (64,) and item.low_tokens.dtype == torch.int64
    assert stage == "low" or torch.equal(item.up_tokens, vqvae.encode(wave, 0)[0])
    assert (item.up_tokens is None) == (stage == "low")
    batch = data.collate([item, data.train[0, 4]])
    assert batch.low_tokens.shape == (2, 64) and batch.waves is None
    files = sorted((tmp_path / "data/mine/cache").glob("*_tokens_of_*/*.npy"))
    expected = [f"{name}_tokens_of_{split}" for name in levels for split in ("train", "valid")]
    assert [path.parent.name.rpartition("-")[0] for path in files] == expected
    assert {np.load(path).dtype for path in files} == {np.dtype(np.int16)}

    monkeypatch.setattr(vqvae, "encode", lambda *_, **__: 1 / 0)
    assert torch.equal(training_data(config, frozen).train[0, 3].low_tokens, item.low_tokens)
    vqvae.codebooks[1].codes += 1
    with pytest.raises(ZeroDivisionError):  # other weights: encoded again
        training_data(config, frozen)


def test_shifted_windows_come_as_waves(tmp_path: Path, frozen: Frozen) -> None:
    write(tmp_path, Row("mine", "a", noise(tmp_path / "a.wav", 20000), image=colour(tmp_path / "frames", 51)))
    data = training_data(config_for(tmp_path, aug_shift=True), frozen)
    item = data.train[0, 1]
    assert item.waves.shape == (WINDOW,) and item.low_tokens is None
    assert item.times.tolist()[1] == data.train.windows.place(1, data.train.draw(0, 1).shift).offset  # type: ignore[attr-defined]
    assert data.valid[0, 1].low_tokens is not None


def test_times_of_short_and_long_sounds(tmp_path: Path, frozen: Frozen) -> None:
    image = colour(tmp_path / "frames", 51)
    lengths = (1000, 4 * RATE)
    write(tmp_path, *(Row("mine", f"{n}", noise(tmp_path / f"{n}.wav", n), image=image) for n in lengths))
    data = training_data(config_for(tmp_path), frozen)
    assert data.train[0, 0].times.tolist() == [32800, 0, WINDOW]  # 2.05 s, the shortest that the Low prior knows
    assert data.train[0, 2].times.tolist() == [4 * RATE, WINDOW, WINDOW]
    config = config_for(tmp_path)
    config.model.low.max_seconds = 3.0
    times = training_data(config, frozen).train[0, len(training_data(config, frozen).train) - 1].times  # type: ignore[arg-type]
    assert times[0] < 3 * RATE and times[1] + times[2] <= times[0]


def test_frames_follow_the_window(tmp_path: Path, frozen: Frozen) -> None:
    """The video of 1 s ends before the sound of 2 s; its bar moves to the right, so that its vectors differ."""
    video = film(tmp_path / "a.mp4", seconds=1, fps=30, sound=False)
    row = Row("mine", "a", noise(tmp_path / "a.wav", 4 * WINDOW), video=video)
    write(tmp_path, row)
    data = training_data(config_for(tmp_path), frozen)
    vectors = frozen["clip"].encode_video(video).half().float()  # (30, 4)
    assert vectors.shape == (30, 4)
    for item, first in ((0, 0), (1, 15), (2, 30), (3, 46)):
        frames = data.train[0, item].frames
        rows = [min(row, 29) for row in range(first, first + 16)]
        assert torch.equal(frames, vectors[rows]), item
    seen = frozen["clip"].seen
    training_data(config_for(tmp_path), frozen)
    assert frozen["clip"].seen == seen


def test_pictures_in_place_of_videos(tmp_path: Path, frozen: Frozen) -> None:
    video = film(tmp_path / "a.mp4", seconds=1, fps=30, sound=False)
    sound, dark, light = noise(tmp_path / "a.wav", WINDOW), colour(tmp_path / "b", 51), colour(tmp_path / "c", 102)
    rows = [Row("mine", "video", sound, video=video), Row("mine", "still", sound, image=dark)]
    write(tmp_path, *rows, Row("mine", "both", sound, video=video, image=light))
    plain = training_data(config_for(tmp_path), frozen).train
    half = training_data(config_for(tmp_path, still_fraction=0.5), frozen).train
    batch = torch.stack([plain[0, item].frames for item in range(3)])
    assert batch.shape == (3, 16, 4)
    assert torch.equal(batch[0], batch[2]) and not torch.equal(batch[0, 0], batch[0, 15])
    assert torch.allclose(batch[1], torch.tensor([0.2, 0.2, 0.2, 1.0]), atol=1e-3)
    kinds = {"film": 0, "still": 0}
    for epoch in range(40):
        one, still, both = (half[epoch, item].frames for item in range(3))
        assert torch.equal(still, batch[1])
        kinds["film"] += torch.equal(both, batch[2])
        kinds["still"] += torch.allclose(both, torch.tensor([0.4, 0.4, 0.4, 1.0]), atol=1e-3)
        assert torch.equal(one, batch[0]) or ((one == one[0]).all() and (batch[0] == one[0]).all(dim=1).any())
        assert torch.equal(one, half[epoch, 0].frames)
    assert sum(kinds.values()) == 40 and 10 <= kinds["still"] <= 30


def test_unusable_videos_and_rows_without_images(tmp_path: Path, frozen: Frozen, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    sounds = [noise(tmp_path / f"{i}.wav", WINDOW, seed=i) for i in range(3)]
    write(
        tmp_path, Row("mine", "good", sounds[0], video=film(tmp_path / "good.mp4", seconds=1)),
        Row("mine", "bad", sounds[1], video=tmp_path / "bad.mp4"), Row("mine", "bare", sounds[2]),
    )  # fmt: skip
    data = training_data(config_for(tmp_path), frozen)
    assert [row.uid for row in data.train.rows] == ["good"]  # type: ignore[attr-defined]
    assert len(data.train) == 1  # type: ignore[arg-type]
    printed = capsys.readouterr()
    assert "bare" in printed.out and "bad.mp4" in printed.err


def test_without_a_readable_video_there_is_no_training(tmp_path: Path, frozen: Frozen) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    write(tmp_path, Row("mine", "bad", noise(tmp_path / "bad.wav", WINDOW), video=tmp_path / "bad.mp4"))
    with pytest.raises(UserError, match=r"none of the 1 videos .*bad\.mp4"):
        training_data(config_for(tmp_path), frozen)


def test_given_image_vectors(tmp_path: Path, frozen: Frozen) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors/a.pickle").write_bytes(pickle.dumps({"a": vectors}))
    sound = noise(tmp_path / "a.wav", 3 * WINDOW)
    write(tmp_path, Row("mine", "x/a", sound, video=tmp_path / "never read.mp4"), Row("mine", "b", sound))
    config = config_for(tmp_path, clip_features=str(tmp_path / "vectors"))
    data = training_data(config, frozen)
    assert len(data.train) == 3  # type: ignore[arg-type]
    np.testing.assert_array_equal(data.train[0, 1].frames, vectors[[*range(15, 20), *[19] * 11]])
    (tmp_path / "vectors/a.pickle").write_bytes(pickle.dumps({"a": vectors[:, :3]}))
    with pytest.raises(UserError, match="width 3"):
        training_data(config, frozen)


def test_the_miniature_world(tmp_path: Path, frozen: Frozen) -> None:
    mini = MiniworldConfig(train_scenes=3, valid_scenes=2, pairs=False)
    config = config_for(tmp_path, window=40960, miniworld=mini)
    preprocess(config, PreprocessOptions(dataset="mine"))
    data = training_data(config, frozen)
    assert len(data.train) == 3 and len(data.valid) == 2  # type: ignore[arg-type]
    batch = data.collate([data.valid[0, 0], data.valid[0, 1]])
    assert batch.frames.shape == (2, 77, 4)
    assert batch.times.tolist() == [[40960, 0, 40960]] * 2
    assert batch.low_tokens.shape == (2, 320)
