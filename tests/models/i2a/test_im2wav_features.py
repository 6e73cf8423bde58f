"""CLIP as the image encoder, the cache of its features, and the official pickles of features."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.i2a.im2wav import features
from sonolume.models.i2a.im2wav.image_encoder import ImageEncoder
from sonolume.utils import video
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image
from tests.models.evaluation.conftest import MAKERS
from tests.videos import numbered_film, numbered_picture

WIDTH = 12  # of the tiny CLIP
REAL = Path(os.environ.get("SONOLUME_TEST_DATA", "absent"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "clip"
    torch.manual_seed(0)
    for part in MAKERS["clip"]():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(clip_folder: Path) -> ImageEncoder:
    return ImageEncoder.load(str(clip_folder))


def noise_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8))


def test_pictures_are_encoded_as_by_the_whole_model(clip_folder: Path, encoder: ImageEncoder) -> None:
    from transformers import AutoImageProcessor, CLIPModel

    model, processor = (
        CLIPModel.from_pretrained(clip_folder),
        AutoImageProcessor.from_pretrained(clip_folder, backend="pil"),
    )
    pictures = [noise_picture(50, 40), noise_picture(31, 77), noise_picture(32, 33)]
    with torch.no_grad():
        pixels = processor(images=pictures, return_tensors="pt").pixel_values
        expected = torch.nn.functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    found = encoder.encode_pictures(pictures)
    assert encoder.width == WIDTH and found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)


def test_pixels_are_those_of_openai(encoder: ImageEncoder) -> None:
    """The published preprocessing: bicubic scaling of the shorter side, the middle, mean and deviation."""
    picture, side = noise_picture(200, 100), 32
    scaled = picture.resize((side * 2, side), Image.Resampling.BICUBIC)
    left = round((scaled.width - side) / 2)
    pixels = np.asarray(scaled.crop((left, 0, left + side, side)), np.float32) / 255
    mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    expected = ((pixels - mean) / deviation).transpose(2, 0, 1)
    assert np.allclose(encoder._pixels(picture).numpy(), expected, atol=1e-5)


def test_texts(clip_folder: Path, encoder: ImageEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoTokenizer, CLIPModel

    texts, model = ["a dog barks", "bell"], CLIPModel.from_pretrained(clip_folder)
    tokens = AutoTokenizer.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
        expected = torch.nn.functional.normalize(model.get_text_features(**inputs).pooler_output, dim=-1)
    assert torch.allclose(encoder.encode_texts(texts), expected, atol=1e-6)
    capsys.readouterr()
    assert encoder.encode_texts(["bell rings twice a dog barks rain a dog"]).shape == (1, WIDTH)
    assert "tokens" in capsys.readouterr().err  # more than this CLIP reads
    assert encoder.encode_texts([]).shape == (0, WIDTH)


def odd_pictures(folder: Path) -> list[Path]:
    """Files of many modes: rotated, palette, CMYK, 16-bit, transparent, tiny, very long."""
    picture, exif = noise_picture(40, 30), Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "rotated.jpg", exif=exif)
    picture.convert("P").save(folder / "palette.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257).save(folder / "deep.png")
    picture.convert("RGBA").save(folder / "clear.png")
    for width, height in ((1, 1), (1, 3), (3, 1), (20000, 2), (2, 20000)):
        noise_picture(width, height).save(folder / f"{width}x{height}.png")
    return sorted(folder.iterdir())


def test_odd_pictures_become_unit_vectors(tmp_path: Path, encoder: ImageEncoder) -> None:
    paths = odd_pictures(tmp_path)
    found = encoder.encode_pictures(open_image(path) for path in paths)  # a generator is read as it is encoded
    assert found.shape == (len(paths), WIDTH) and torch.allclose(found.norm(dim=1), torch.ones(len(paths)))
    raw = encoder.encode_pictures(Image.open(path) for path in paths if path.stem != "rotated")  # not converted before
    assert torch.equal(raw, found[[path.stem != "rotated" for path in paths]])


def test_a_video_is_encoded_by_time_in_batches(
    tmp_path: Path, encoder: ImageEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, sizes = [i / 5 for i in range(10)], []
    path = numbered_film(tmp_path / "a.mp4", times)
    encode = ImageEncoder._encode
    monkeypatch.setattr("sonolume.models.i2a.im2wav.image_encoder.BATCH_SIZE", 4)
    monkeypatch.setattr(ImageEncoder, "_encode", lambda self, pixels: sizes.append(len(pixels)) or encode(self, pixels))
    found = encoder.encode_video(path)
    assert found.shape == (60, WIDTH) and found.dtype == torch.float32
    assert sizes == [4, 4, 2]  # every distinct frame once
    pictures = [frame.picture for frame in video.frames_at(path, times)]
    assert torch.allclose(found[::6], encoder.encode_pictures(pictures), atol=1e-6)
    assert torch.equal(found[0:6], found[:1].expand(6, -1))
    later = encoder.encode_video(path, fps=10, start=1.0, seconds=0.4)
    assert torch.allclose(later, found[[30, 30, 36, 36]], atol=1e-6)


def test_the_hash_is_that_of_weights_and_preprocessing(
    clip_folder: Path, encoder: ImageEncoder, tmp_path: Path
) -> None:
    copy = shutil.copytree(clip_folder, tmp_path / "a@b")
    assert ImageEncoder.load(str(copy)).content_hash == encoder.content_hash
    settings = copy / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("0.48145466", "0.5"))
    assert ImageEncoder.load(str(copy)).content_hash != encoder.content_hash


def test_a_vision_tower_alone_has_no_texts(clip_folder: Path, encoder: ImageEncoder, tmp_path: Path) -> None:
    encoder.vision.save_pretrained(tmp_path / "vision")
    shutil.copy(clip_folder / "preprocessor_config.json", tmp_path / "vision")
    alone = ImageEncoder.load(str(tmp_path / "vision"))
    assert alone.content_hash == encoder.content_hash
    with pytest.raises(UserError, match="type clip_vision_model"):
        alone.encode_texts(["a dog"])


def remove(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink()


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-99])


def retype(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


@pytest.mark.parametrize("damage", [remove("config.json"), remove("preprocessor_config.json"), cut, retype])
def test_what_is_no_clip_is_one_line(clip_folder: Path, tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    copy = shutil.copytree(clip_folder, tmp_path / "clip")
    damage(copy)
    with pytest.raises(UserError, match=r"^model\.clip ") as caught:
        ImageEncoder.load(str(copy))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="--clip"):
        ImageEncoder.load("./none", key="--clip")


def test_the_cache_goes_on_after_a_kill_and_names_bad_videos(
    tmp_path: Path, encoder: ImageEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a.mp4", "b.mp4", "c.webp"]
    for name in names[:2]:
        numbered_film(tmp_path / name, [0.0, 0.1, 0.2])
    first = numbered_picture(1)
    first.save(tmp_path / "c.webp", save_all=True, append_images=[numbered_picture(2)], duration=100, lossless=True)
    (tmp_path / "bad.mp4").write_text("no video")
    videos = {Path(name).stem: tmp_path / name for name in ["a.mp4", "bad.mp4", "b.mp4", "c.webp", "gone.mp4"]}
    encode, seen = ImageEncoder.encode_video, list[str]()

    def killed(self: ImageEncoder, path: Path, *settings: Any) -> torch.Tensor:
        seen.append(path.stem)
        if path.stem == "b" and seen.count("b") == 1:
            raise KeyboardInterrupt
        return encode(self, path, *settings)

    monkeypatch.setattr(ImageEncoder, "encode_video", killed)
    with pytest.raises(KeyboardInterrupt):
        features.encode_videos(videos, encoder, tmp_path / "cache")
    found = features.encode_videos(videos, encoder, tmp_path / "cache")
    assert seen == ["a", "bad", "b", "bad", "b", "c", "gone"]
    assert list(found.paths) == ["a", "b", "c"] and found.computed == 2
    assert [(one.uid, one.reason) for one in found.left_out] == [("bad", "unreadable video"), ("gone", "missing")]
    message = capsys.readouterr().err
    assert all(word in message for word in ("2 of 5", "1 missing", "bad.mp4"))
    for uid, path in found.paths.items():
        expected = encode(encoder, videos[uid]).numpy().astype(np.float16)
        assert np.array_equal(features.load_features(path, WIDTH), expected)
        with np.load(path) as content:
            assert float(content["fps"]) == 30 and str(content["clip"]) == encoder.content_hash

    def length(name: str, fps: float = 30.0) -> int:
        found = features.encode_videos({name: videos[name]}, encoder, tmp_path / "cache", fps)
        return len(features.load_features(found.paths[name], WIDTH))

    assert length("a") == 9 and len(seen) == 7  # nothing was encoded again
    numbered_film(videos["a"], [0.0, 0.1, 0.2, 0.3])  # another content
    assert length("a") == 12 and length("b", fps=10) == 3


def test_features_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", frames=np.ones((3, 8), np.float16))
    assert features.load_features(tmp_path / "a.npz").shape == (3, 8)
    with pytest.raises(UserError, match=r"a\.npz: .*width 8.*width 12"):
        features.load_features(tmp_path / "a.npz", WIDTH)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    for name in ("a.npz", "none.npz"):
        with pytest.raises(UserError, match=f"{name}: damaged"):
            features.load_features(tmp_path / name)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_official_pickles(tmp_path: Path, kind: type) -> None:
    rows = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(kind)
    (tmp_path / "dog.pickle").write_bytes(pickle.dumps({"dog": rows}))
    found = features.read_video_pickle(tmp_path / "dog.pickle", WIDTH)
    assert found.dtype == np.float32 and np.array_equal(found, rows.astype(np.float32))
    (tmp_path / "CLIP.pickle").write_bytes(pickle.dumps({"image": {"dog": rows, "cat": rows[:1]}}))
    pictures = features.read_image_pickle(tmp_path / "CLIP.pickle", WIDTH)
    assert {name: array.shape for name, array in pictures.items()} == {"dog": (5, WIDTH), "cat": (1, WIDTH)}
    for read, name in ((features.read_video_pickle, "dog"), (features.read_image_pickle, "CLIP")):
        with pytest.raises(UserError, match=rf"{name}\.pickle: .*width {WIDTH}.*width 512"):
            read(tmp_path / f"{name}.pickle", 512)


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo run > executed",)


@pytest.mark.parametrize(
    "content",
    [
        {"a": Runs()}, {"image": {"a": Runs()}}, {"b": 1, "c": 2}, {}, [1], {"image": {}},
        {"image": {"a": np.ones((2, 3, 4))}}, {"a": np.full((1, 4), np.nan)}, {"a": np.ones((2, 3), int)},
        {"a": np.array([Runs()], object)},
    ],
)  # fmt: skip
def test_other_pickles_are_one_line(in_folder: Path, content: Any) -> None:
    (in_folder / "a.pickle").write_bytes(pickle.dumps(content))
    for read in (features.read_video_pickle, features.read_image_pickle):
        with pytest.raises(UserError, match=r"a\.pickle: ") as caught:
            read(Path("a.pickle"))
        assert "\n" not in str(caught.value)
    assert [file.name for file in in_folder.iterdir()] == ["a.pickle"]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs SONOLUME_TEST_DATA")
def test_real_files(tmp_path: Path, encoder: ImageEncoder) -> None:
    videos = {path.stem: path for path in sorted((REAL / "video").glob("vas_dog*.mp4"))[:1]}
    videos["text"] = REAL / "odd_formats" / "text_not_audio.wav"
    found = features.encode_videos(videos, encoder, tmp_path)
    assert len(found.paths) == 1 and [one.uid for one in found.left_out] == ["text"]
    for uid, path in found.paths.items():
        assert len(features.load_features(path)) == round(video.probe(videos[uid]).seconds * 30)
