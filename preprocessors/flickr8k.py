"""Flickr8k (Hodosh et al. 2013) with its spoken captions (Harwath and Glass 2015, Flickr Audio Caption Corpus).

A folder with wavs/, whose recordings wav2capt.txt assigns to captions ("{name}.wav {image}.jpg #{number}"), wav2spk.txt
("{name}.wav {speaker}"), the pictures in Images/ or Flicker8k_Dataset/, their captions in Flickr8k.token.txt or, as on
Kaggle, in captions.txt, and the lists Flickr_8k.{train,dev,test}Images.txt. All of these may lie up to two folders
below. Without wav2capt.txt, a recording belongs to a caption by its name, {image}_{number}.wav.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sonolume.preprocessors.prepared import LeftOut
from sonolume.utils.errors import UserError
from sonolume.utils.files import AUDIO_SUFFIXES, PICTURE_SUFFIXES, files_in, read_text
from sonolume.utils.manifest import FOLDER_MANIFESTS, Row
from sonolume.utils.text import printable

WAVS = ("wavs",)  # folder
PICTURES = ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "images")  # folders
ALIGNMENT, SPEAKERS = "wav2capt.txt", "wav2spk.txt"
TOKENS, TABLE = "Flickr8k.token.txt", "captions.txt"
TABLE_HEADER = "image,caption"
SPLITS = {
    "train": "Flickr_8k.trainImages.txt", "valid": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt",
}  # fmt: skip
DEPTHS = ("", "*/", "*/*/")
SOUND_FORM, ALIGNED_FORM = "IMAGE_NUMBER.wav", "NAME.wav IMAGE.jpg #NUMBER"
_ALIGNED = re.compile(r"(\S+)\s+(\S+)\s+#(-?\d+)")
_SPOKEN_BY = re.compile(r"(\S+)\s+(.+)")
_CAPTION = re.compile(r"(\S+)#(\d+)\s*(.*)")


class Recording(NamedTuple):
    """A recording of the corpus."""

    name: str  # of its file
    image: str  # name of the picture's file
    number: int  # of the caption among those of the picture


def is_published(source: Path) -> bool:
    """Whether a folder contains the recordings, or wav2capt.txt, and no manifest."""
    if not source.is_dir() or any((source / name).is_file() for name in FOLDER_MANIFESTS):
        return False
    return bool(_find([source], ALIGNMENT) or next(_folders([source], WAVS), None))


def read(source: Path, dataset: str, media_dir: Path | None = None) -> tuple[list[Row], list[LeftOut]]:
    """Read one row per recording, with picture, caption, speaker and split.

    A missing file keeps the path at which it was expected. If a list of a split is missing, pictures that are in no
    list have no split.

    Args:
        media_dir: folder of what `source` does not contain, such as flickr_audio/.

    Returns:
        Rows; and recordings without a line or a split, and pictures without a recording.
    """
    places = [source, media_dir] if media_dir else [source]
    sound_folder, sounds = _list_files(places, WAVS, AUDIO_SUFFIXES, "recordings")
    picture_folder, pictures = _list_files(places, PICTURES, PICTURE_SUFFIXES, "pictures")
    alignment = _find(places, ALIGNMENT)
    recordings = list(_aligned(alignment) if alignment else _by_names(sounds, pictures))
    _check_found(recordings, sounds, pictures, alignment or sound_folder)
    captions, speakers, splits = _read_captions(places), _read_speakers(places), _read_splits(places)
    expected = f"not in {alignment}" if alignment else f"not of the form {SOUND_FORM}"
    left_out = [LeftOut(Path(name).stem, "not listed", f"{sounds[name]}: {expected}")
                for name in sorted(sounds.keys() - {one.name for one in recordings})]  # fmt: skip
    rows, has_all_lists = [], set(splits.values()) == SPLITS.keys()
    for name, image, number in recordings:
        uid, split = Path(name).stem, splits.get(image)
        if split is None and has_all_lists:
            left_out.append(LeftOut(uid, "no split", f"{image} is in none of the lists of splits"))
            continue
        sound, picture = sounds.get(name, sound_folder / name), pictures.get(image, picture_folder / image)
        texts = [text] if (text := captions[image].get(number)) else []
        rows.append(Row(dataset, uid, sound, texts, picture, split=split, speaker=speakers.get(name)))
    unspoken = sorted(pictures.keys() - {one.image for one in recordings})
    left_out += [LeftOut(Path(image).stem, "no speech", f"{pictures[image]}: no recording") for image in unspoken]
    return rows, left_out


def _find(places: Sequence[Path], name: str) -> Path | None:
    """Find a file in one of the places, or up to two folders below."""
    found = (path for place in places for depth in DEPTHS for path in sorted(place.glob(depth + name)))
    return next((path for path in found if path.is_file()), None)


def _folders(places: Sequence[Path], names: Sequence[str]) -> Iterator[Path]:
    """Find folders of these names: the places, or in them, or up to two folders below."""
    for place in places:
        if place.name in names:
            yield place
        found = (path for depth in DEPTHS for name in names for path in sorted(place.glob(depth + name)))
        yield from (path for path in found if path.is_dir())


def _list_files(
    places: Sequence[Path], names: Sequence[str], suffixes: frozenset[str], what: str
) -> tuple[Path, dict[str, Path]]:
    """Return the first folder of one of the names that contains such files, and its files by their names."""
    for folder in _folders(places, names):
        found = {path.name: path for path in files_in(folder, suffixes) if not path.name.startswith(".")}
        if found:
            return folder, found
    wanted = " or ".join(f"{name}/" for name in names[:2])
    raise UserError(f"{places[0]}: no {what} of Flickr8k in {wanted}: put them there, or name the folder around it "
                    "with --audio_dir")  # fmt: skip


def _lines(path: Path, pattern: re.Pattern[str], form: str) -> Iterator[tuple[str, ...]]:
    """Match every line that is not empty; `form` is the expected one, for the UserError."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        found = pattern.fullmatch(line.strip())
        if not found:
            raise UserError(f"{path}:{number}: {line.strip()!r:.80} is not of the form {form}")
        yield found.groups()


def _aligned(alignment: Path) -> Iterator[Recording]:
    for name, image, number in _lines(alignment, _ALIGNED, ALIGNED_FORM):
        yield Recording(name, image, int(number))


def _by_names(sounds: dict[str, Path], pictures: dict[str, Path]) -> Iterator[Recording]:
    """Assign recordings to pictures and captions by their names, {image}_{number}.wav."""
    images = {Path(name).stem: name for name in pictures}
    for name in sounds:
        stem, _, number = Path(name).stem.rpartition("_")
        if stem and number.isdecimal():
            yield Recording(name, images.get(stem, f"{stem}.jpg"), int(number))


def _check_found(
    recordings: Sequence[Recording], sounds: Collection[str], pictures: Collection[str], where: Path
) -> None:
    """Raise a UserError unless at least one recording, and one of the pictures, are there."""
    if not recordings:
        raise UserError(f"{where}: names no recording: expected lines {ALIGNED_FORM} in {ALIGNMENT}, or recordings "
                        f"named {SOUND_FORM}")  # fmt: skip
    for what, files, column in (("recordings", sounds, 0), ("pictures", pictures, 1)):
        named = {str(one[column]) for one in recordings}
        if named.isdisjoint(files):
            raise UserError(f"{where}: none of its {len(named):,} {what} is there, such as {min(named)}: name the "
                            "folder that contains them with --audio_dir")  # fmt: skip


def _read_captions(places: Sequence[Path]) -> dict[str, dict[int, str]]:
    """Read caption by number by file name of the picture."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    path = _find(places, TOKENS) or _find(places, TABLE)
    if path is None:
        print(printable(f"{places[0]}: neither {TOKENS} nor {TABLE}: the recordings have no captions"))
        return found
    lines = read_text(path).splitlines()
    if lines and lines[0].strip().lower() == TABLE_HEADER:  # in the order of the numbers
        for line in filter(str.strip, lines[1:]):  # one by one: an unbalanced quote must not swallow the next line
            image, *text = next(csv.reader([line]))
            found[image][len(found[image])] = ",".join(text).strip()
        return found
    for image, number, text in _lines(path, _CAPTION, "IMAGE.jpg#NUMBER CAPTION"):
        found[image][int(number)] = text
    return found


def _read_speakers(places: Sequence[Path]) -> dict[str, str]:
    """Read the speaker by file name of the recording."""
    path = _find(places, SPEAKERS)
    return {name: speaker for name, speaker in _lines(path, _SPOKEN_BY, "NAME.wav SPEAKER")} if path else {}


def _read_splits(places: Sequence[Path]) -> dict[str, str]:
    """Read the split by file name of the picture."""
    found, missing = {}, []
    for split, name in SPLITS.items():
        path = _find(places, name)
        if path is None:
            missing.append(name)
        else:
            found |= dict.fromkeys(read_text(path).split(), split)
    if missing:
        print(printable(f"{places[0]}: no {', '.join(missing)}: pictures of no list are divided into train and valid"))
    return found
