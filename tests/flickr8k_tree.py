"""A small data set in the layout of Flickr8k and its audio, with generated sounds and pictures."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

IMAGES = {  # file name: split list that names it
    "1000268201_693b08cb0e.jpg": "train", "1001773457_577c3a7d70.jpg": "train", "1002674143_1b742ab4b8.jpg": "dev",
    "1003163366_44323f5815.jpg": "test",
}  # fmt: skip
PER_IMAGE = 2  # recordings and captions
SPEAKER = 42


def speech(seconds: float = 0.2, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Noise in place of speech, float32 (n,)."""
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate)).astype(np.float32)


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """Write a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3))
    Image.fromarray(noise.astype(np.uint8)).save(path)
    return path


def caption(image: str, number: int) -> str:
    """Caption of a picture."""
    return f"A dog , number {number} , in {Path(image).stem[:4]} ."


def flickr8k_tree(root: Path) -> Path:
    """Write four pictures with two recordings each, as published: three archives unpacked in one folder."""
    photos, text, sounds = root / "Flicker8k_Dataset", root / "Flickr8k_text", root / "flickr_audio"
    (sounds / "wavs").mkdir(parents=True)
    text.mkdir()
    aligned, speakers, tokens = [], [], []
    for seed, image in enumerate(IMAGES):
        photograph(photos / image, seed)
        for number in range(PER_IMAGE):
            name = f"{Path(image).stem}_{number}.wav"
            soundfile.write(sounds / "wavs" / name, speech(seed=10 * seed + number), 16000)
            aligned.append(f"{name} {image} #{number}")
            speakers.append(f"{name} {SPEAKER + seed}")
            tokens.append(f"{image}#{number}\t{caption(image, number)}")
    for path, lines in {
        sounds / "wav2capt.txt": aligned, sounds / "wav2spk.txt": speakers, text / "Flickr8k.token.txt": tokens
    }.items():  # fmt: skip
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for split in ("train", "dev", "test"):
        listed = [image for image, of in IMAGES.items() if of == split]
        (text / f"Flickr_8k.{split}Images.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
    return root


def kaggle_tree(root: Path) -> Path:
    """Write the same as Kaggle has it: pictures in Images/, a table of captions, no lists; and wavs/ next to them."""
    flickr8k_tree(root)
    (root / "Flicker8k_Dataset").rename(root / "Images")
    for path in (root / "Flickr8k_text").iterdir():
        path.unlink()
    (root / "Flickr8k_text").rmdir()
    for path in (root / "flickr_audio").iterdir():
        path.rename(root / path.name)
    lines = [f'{image},"{caption(image, number)}"' for image in IMAGES for number in range(PER_IMAGE)]
    (root / "captions.txt").write_text("image,caption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return root
