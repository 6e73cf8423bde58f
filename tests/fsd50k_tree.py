"""A small data set in the layout of FSD50K, with generated sounds."""

import json
from pathlib import Path

import numpy as np
import soundfile

GUITAR = "Electric_guitar,Guitar,Plucked_string_instrument,Musical_instrument,Music"
PIANO = "Piano,Keyboard_(musical),Musical_instrument,Music"
LABELS = {  # by Freesound id; the first of each clip is the most specific one
    "dev": {"64760": GUITAR, "16399": GUITAR, "4931": PIANO, "20": "Bark,Dog,Domestic_animals_and_pets,Animal",
            "21": "Rain,Water", "22": "Thunder,Thunderstorm"},
    "eval": {"37199": GUITAR, "175151": PIANO, "30": "Bark,Dog,Domestic_animals_and_pets,Animal"},
}  # fmt: skip
VALID = ("4931", "22")  # of dev
SAMPLE_RATE = 44100  # Hz


def wave(seconds: float, seed: int = 0) -> np.ndarray:
    """A tone in noise (n,)."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).standard_normal(len(times))
    return (0.3 * np.sin(2 * np.pi * (200 + 40 * seed) * times) + 0.05 * noise).astype(np.float32)


def fsd50k_tree(root: Path, seconds: float = 0.5) -> Path:
    """Write six clips of the dev set, two of them for validation, and three of the eval set, with their metadata."""
    for part, clips in LABELS.items():
        folders = [root / f"FSD50K.{name}" for name in (f"{part}_audio", "ground_truth", "metadata")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        lines, info = ["fname,labels,mids" + ",split" * (part == "dev")], {}
        for number, (uid, labels) in enumerate(clips.items()):
            soundfile.write(folders[0] / f"{uid}.wav", wave(seconds, number), SAMPLE_RATE)
            split = f",{'val' if uid in VALID else 'train'}" if part == "dev" else ""
            lines.append(f'{uid},"{labels}","/m/0{number},/m/04rlf"{split}')
            info[uid] = {
                "title": f"Take {number}.wav", "description": f"Recorded  in\r\nroom {number}.",
                "tags": ["field-recording", f"take_{number}"], "license": "http://creativecommons.org/licenses/by/3.0/",
                "uploader": "somebody",
            }  # fmt: skip
        (folders[1] / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folders[2] / f"{part}_clips_info_FSD50K.json").write_text(json.dumps(info), encoding="utf-8")
    names = sorted({label for clips in LABELS.values() for labels in clips.values() for label in labels.split(",")})
    vocabulary = [f"{number},{name},/m/0{number}" for number, name in enumerate(names)]
    (root / "FSD50K.ground_truth" / "vocabulary.csv").write_text("\n".join(vocabulary), encoding="utf-8")
    return root
