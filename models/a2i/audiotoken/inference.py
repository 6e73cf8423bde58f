"""Inference of AudioToken: pictures of sounds, or with --tags their classes by AudioToken's BEATs.

The classes are AudioSet's 527, or the twelve of the miniature world.
"""

from pathlib import Path

import torch

from sonolume.config.a2i.audiotoken import Config, InferenceOptions
from sonolume.config.options import Spans
from sonolume.models import runtime
from sonolume.models.a2i import generate as pictures
from sonolume.models.a2i.audiotoken.encoder import SHIPPED, load_beats
from sonolume.models.a2i.clips import load_span
from sonolume.models.a2i.generate import generate as generate
from sonolume.models.a2i.generate import load_model as load_model
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.modules.beats.beats import SAMPLE_RATE, BEATs
from sonolume.preprocessors.miniworld.scene import KINDS
from sonolume.utils import audio, files, paths
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import UserError
from sonolume.utils.text import message, printable

SHIPPED_BEATS = "pretrained/mini/beats"  # used where the config's does not exist
WINDOW = 10.0  # seconds, as AudioSet's clips; the probabilities of a longer recording are the mean over its windows
TOP = 5  # tags of each recording
BATCH_SIZE = 8  # windows

Tags = tuple[float, list[tuple[str, float]]]  # seconds; names and probabilities, the most probable first


def run(config: Config, options: InferenceOptions) -> None:
    """Draw pictures of the sounds, or print their tags."""
    if options.tags:
        print_tags(config, options)
    else:
        pictures.run(config, options)


def print_tags(config: Config, options: InferenceOptions) -> None:
    """Print the tags of each sound; unusable ones are skipped and reported.

    Raises:
        UserError: no sound is usable, or BEATs has no classification head.
    """
    sounds = files.find_sounds(*options.audio)
    beats = load_tagger(config, options.checkpoint, options.device)
    errors: list[SoundError] = []
    for path in sounds:
        try:
            duration, tags = tag_recording(beats, path, spans=options.span)
        except SoundError as error:
            errors.append(error)
            continue
        print(printable(f"{path}  {duration:.2f} s"))
        print("\n".join(f"  {probability:6.1%}  {printable(name)}" for name, probability in tags))
    audio.report_unusable(errors, len(sounds))


def load_tagger(config: Config, checkpoint: str | None, device: str) -> BEATs:
    """Load BEATs onto a device by its name; that it is the miniature one is noted on stderr."""
    beats = find_beats(config, checkpoint)
    beats.to(runtime.pick_device(device))  # type: ignore[arg-type]
    if tuple(beats.labels or ()) == KINDS:
        message(f"{runtime.describe_miniature()}: it gives one of these names to any other sound as well")
    return beats


def find_beats(config: Config, checkpoint: str | None) -> BEATs:
    """Load the BEATs of --checkpoint, else the config's, else the shipped miniature one, which is noted on stderr."""
    if checkpoint is not None:
        source = runtime.find_checkpoint(checkpoint, config, SHIPPED)
        folder, settings = runtime.read_settings(source, SETTINGS_FILE, config.recipe)
        return load_beats(settings.get("beats", ""), f"{folder}: beats")
    if paths.resolve(config.model.beats).is_dir():
        return load_beats(config.model.beats)
    message(f"no BEATs at {config.model.beats}: using {SHIPPED_BEATS} (another: model.beats=FOLDER)")
    return load_beats(SHIPPED_BEATS)


def tag_recording(
    beats: BEATs, path: Path, top: int = TOP, window: float = WINDOW, spans: Spans | None = None
) -> Tags:
    """Classify a recording of any rate, channels and length by its `top` tags; `window` seconds go in at a time.

    `spans` are those of --span: only the first is classified.

    Raises:
        SoundError: the file cannot be read, is too short or not finite.
        UserError: BEATs has no classification head.
    """
    if beats.predictor is None:
        raise UserError("this BEATs has no classification head, so it has no tags: use a finetuned checkpoint "
                        "(bins/convert.py beats)")  # fmt: skip
    wave, _, _, name = load_span(path, SAMPLE_RATE, spans)
    audio.check_wave(wave, SAMPLE_RATE, name, beats.min_samples / SAMPLE_RATE, silent_ok=True)
    size = max(min(round(window * SAMPLE_RATE), len(wave)), beats.min_samples)
    windows = torch.stack([torch.from_numpy(part) for part in audio.split_windows(wave, size)])  # (W, size)
    parts = [beats.tags(batch.to(beats.device)) for batch in windows.split(BATCH_SIZE)]          # (b, C) each
    probabilities = torch.cat(parts).mean(0).cpu()                                               # (C,)
    best = probabilities.topk(min(top, len(probabilities)))
    names = beats.labels or tuple(map(str, range(len(probabilities))))
    found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return len(wave) / SAMPLE_RATE, [(names[index], probability) for index, probability in found]
