"""Sounds -> pictures and json files: run_inference.sh of every recipe of audio to image."""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from sonolume.config.base import RunConfig
from sonolume.models import inference
from sonolume.models.a2i import loading, sounds, storyboard
from sonolume.models.a2i.loading import LoadEncoder
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.a2i.sound_encoder import PLACEHOLDER, without_sound
from sonolume.models.a2i.sounds import Piece, Reader
from sonolume.modules.inpainting import STRENGTH
from sonolume.utils import files
from sonolume.utils.errors import UserError

READ_AT_ONCE = 32  # windows that lie in memory before they are heard


@dataclass(frozen=True)
class Subject:
    """What one picture shows."""

    pieces: list[Piece]
    """one; several with --together"""
    heard: torch.Tensor
    """(K, D)"""
    text: str | None
    """mixed in"""

    @property
    def name(self) -> str:
        """Of its files, before the window and the seed."""
        return " ".join([*(piece.path.stem for piece in self.pieces), *([self.text] if self.text else [])])


@dataclass
class Made:
    """The pictures that came out, and how many the safety checker refused."""

    pictures: list[tuple[Subject, int, Path]] = field(default_factory=list)
    """with their seeds"""
    refused: int = 0


def run(config: RunConfig, args: argparse.Namespace, load_encoder: LoadEncoder, shipped: str) -> None:
    """Make `num_samples` pictures of every sound (or window, and text with it) and print the path of each.

    Args:
        shipped: the miniature exported folder, used where the run has none.

    Raises:
        UserError: an input that cannot be used.
        ComputationError: NaN, or pictures of one colour.
    """
    paths = sounds.find(args.audio, config.recipe)
    check_usage(args, len(paths))
    start = None if args.init_image is None else sounds.read_picture(args.init_image, "--init_image")
    where = inference.find_checkpoint(args.checkpoint, config, shipped)
    pipe, models = loading.load(
        where, config.recipe, load_encoder, args.device, args.dtype, args.stable_diffusion, not args.no_safety_checker
    )
    options = read_options(pipe, start, args)
    subjects = listen(pipe, paths, args)
    folder = inference.make_folder(args.output_dir)
    facts = models | _describe(pipe, options, args)
    made = _draw(pipe, subjects, options, facts, folder, args)
    if args.window is not None:
        _write_sheets(made, facts, folder, args.hop or args.window)
    if made.refused:
        print(f"the safety checker refused {made.refused} pictures: another --seed, or --no_safety_checker",
              file=sys.stderr)  # fmt: skip


def check_usage(args: argparse.Namespace, count: int) -> None:
    """What can be seen before anything is loaded.

    Args:
        count: number of sounds.

    Raises:
        UserError: flags that do not fit together, or a prompt without a place for the sound.
    """
    places = PLACEHOLDER if args.prompt is None else args.prompt
    if PLACEHOLDER not in places:
        raise UserError(f'--prompt "{args.prompt}" has no {PLACEHOLDER}: write it where the sound belongs')
    if args.together and args.window is not None:
        raise UserError("--together makes one picture, --window one of each window: choose")
    if args.together and places.count(PLACEHOLDER) != count:
        raise UserError(f"--together needs a --prompt with one {PLACEHOLDER} for each of the {count} sounds, "
                        f"it has {places.count(PLACEHOLDER)}")  # fmt: skip
    if any(not text.strip() for text in args.text or []):
        raise UserError("--text is empty: say what should be seen beside what is heard")


def read_options(pipe: AudioToImagePipeline, start: Image.Image | None, args: argparse.Namespace) -> dict[str, Any]:
    """What the flags say, as arguments of the pipeline's call; the sampler is chosen, the texts are looked at.

    Raises:
        UserError: no such sampler, a text that is too long, or a size that the networks cannot draw.
    """
    prompt = args.prompt or pipe.encoder.prompt
    try:
        if args.preset:
            pipe.use_preset(args.preset)
        if args.scheduler:
            pipe.use_scheduler(args.scheduler)
        texts = [without_sound(prompt), args.negative_text, *(args.text or [])]
        pipe.encode_text(texts, pipe.sd.tokenizer.model_max_length)
        height, width = pipe.size(args.height, args.width)
    except ValueError as error:
        raise UserError(str(error)) from error
    if args.window is not None and args.window < pipe.encoder.shortest:
        raise UserError(f"--window must be at least {pipe.encoder.shortest:g} s here, got {args.window:g}")
    return {
        "prompt": prompt,
        "mix": args.mix,
        "audio_strength": args.audio_strength,
        "negative_prompt": args.negative_text,
        "init_image": start,
        "strength": None if start is None else args.strength or STRENGTH,
        "height": height,
        "width": width,
        "num_inference_steps": args.num_steps or pipe.num_steps,
        "guidance_scale": pipe.guidance_scale if args.guidance_scale is None else args.guidance_scale,
    }


def listen(pipe: AudioToImagePipeline, paths: list[Path], args: argparse.Namespace) -> list[Subject]:
    """Hear every sound once, in the order given; what cannot be used is passed over and reported.

    Raises:
        UserError: nothing is left, or with --together one is missing.
    """
    reader = Reader(pipe.encoder.sample_rate, pipe.encoder.shortest, args.window, args.hop)
    found: list[tuple[Piece, torch.Tensor]] = []
    waiting: list[tuple[Piece, Any]] = []
    for number, path in enumerate(tqdm(paths, unit="sound", disable=len(paths) < 2), 1):
        waiting += reader.read(path)
        if waiting and (len(waiting) >= READ_AT_ONCE or number == len(paths)):
            pieces, waves = zip(*waiting, strict=True)
            found += zip(pieces, pipe.hear(waves), strict=True)
            waiting = []
    if args.together and reader.errors:
        raise reader.errors[0]
    reader.report(len(paths))
    groups = [found] if args.together else [[one] for one in found]
    return [
        Subject([piece for piece, _ in group], torch.cat([heard for _, heard in group]), text)
        for group in groups
        for text in args.text or [None]
    ]


def _draw(
    pipe: AudioToImagePipeline,
    subjects: list[Subject],
    options: dict[str, Any],
    facts: dict[str, Any],
    folder: Path,
    args: argparse.Namespace,
) -> Made:
    """Draw and write all pictures, batch by batch."""
    jobs = [(subject, args.seed + number) for subject in subjects for number in range(args.num_samples)]
    rounds = [jobs[start : start + args.batch_size] for start in range(0, len(jobs), args.batch_size)]
    pipe.sd.set_progress_bar_config(disable=len(rounds) > 1)
    made = Made()
    for batch in tqdm(rounds, unit="batch", disable=len(rounds) < 2):
        heard = torch.stack([subject.heard for subject, _ in batch])                   # (B, K, D)
        generators = [inference.generators(seed, 1)[0] for _, seed in batch]
        texts = [subject.text or "" for subject, _ in batch] if args.text else None
        try:
            output = pipe(heard, text=texts, generator=generators, **options)
        except ValueError as error:
            raise UserError(str(error)) from error
        if output.upcast:
            print(f"the autoencoder overflowed in {args.dtype}: it was run again in float32", file=sys.stderr)
        for (subject, seed), image in zip(batch, output.images, strict=True):
            if image is None:
                made.refused += 1
                continue
            path = _write(subject, seed, image, facts, folder)
            made.pictures.append((subject, seed, path))
            print(path)
    return made


def _write(subject: Subject, seed: int, image: Image.Image, facts: dict[str, Any], folder: Path) -> Path:
    """One picture and its json."""
    pieces = subject.pieces
    window = pieces[0].window
    name = subject.name if window is None else f"{subject.name}_w{window}"
    path = inference.result_path(folder, name, seed, ".png")
    with files.atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
    audio = [str(piece.path) for piece in pieces]
    times = [[round(piece.span.start, 3), round(piece.span.end, 3)] for piece in pieces]
    about = {"audio": audio if len(audio) > 1 else audio[0], "seconds": times if len(audio) > 1 else times[0]}
    about |= {"window": window, "text": subject.text, "seed": seed}
    files.write_json(path.with_suffix(".json"), about | facts)
    return path


def _write_sheets(made: Made, facts: dict[str, Any], folder: Path, hop: float) -> None:
    """A contact sheet of every recording, text and seed, with a json that names its pictures."""
    boards: dict[tuple[str, Path, int], dict[int, tuple[Piece, Path]]] = {}
    for subject, seed, path in made.pictures:
        piece = subject.pieces[0]
        boards.setdefault((subject.name, piece.path, seed), {})[piece.window or 0] = piece, path
    for (name, audio, seed), board in boards.items():
        count = next(iter(board.values()))[0].windows
        pictures = [board[number][1] if number in board else None for number in range(count)]
        path = inference.result_path(folder, f"{name}_storyboard", seed, ".png")
        storyboard.sheet(path, pictures, [number * hop for number in range(count)], hop)
        windows = [
            {"seconds": [round(piece.span.start, 3), round(piece.span.end, 3)], "picture": picture.name}
            for piece, picture in board.values()
        ]
        files.write_json(path.with_suffix(".json"), {"audio": str(audio), "seed": seed, "windows": windows} | facts)
        print(path)


def _describe(pipe: AudioToImagePipeline, options: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The json beside a picture: what decided it, but for the sound, the text and the seed."""
    return inference.describe(
        prompt=options["prompt"],
        mix=args.mix if args.text else None,
        audio_strength=args.audio_strength,
        negative_text=args.negative_text,
        num_steps=options["num_inference_steps"],
        guidance_scale=options["guidance_scale"],
        scheduler=type(pipe.sd.scheduler).__name__,
        preset=None if args.scheduler else args.preset or "balanced",
        height=options["height"],
        width=options["width"],
        init_image=None if args.init_image is None else str(args.init_image),
        strength=options["strength"],
        heard_at_once=min(args.window or pipe.encoder.window, pipe.encoder.window),
        together=args.together,
        dtype=args.dtype,
        device=str(pipe.sd.device),
        batch_size=args.batch_size,
    )
