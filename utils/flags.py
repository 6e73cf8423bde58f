"""Flags of inference and evaluation: they mean the same in every recipe that has a use for them.

A recipe's config module names its own in INFERENCE_FLAGS and EVALUATION_FLAGS; the others are refused.
"""

import argparse
import math
import re
from pathlib import Path
from typing import Any

from sonolume.utils.errors import UserError

LARGEST_SEED = 2**62  # torch takes 64 bits; the samples of one run count on from the seed
SPAN = re.compile(r"(\d{1,6}(?:\.\d*)?|\.\d+)-(\d{1,6}(?:\.\d*)?|\.\d+)?")


def spans(text: str) -> list[tuple[float, float | None]]:
    """"1.5-3,4-" -> [(1.5, 3.0), (4.0, None)], in seconds; None is the end.

    Raises:
        argparse.ArgumentTypeError: it is not written so.
    """
    found = [SPAN.fullmatch(part.strip()) for part in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not written as START-END or START- in seconds, like 1.5-3.0")
    return [(float(match[1]), float(match[2]) if match[2] else None) for match in found if match]


INFERENCE: dict[str, dict[str, Any]] = {
    "text": {
        "action": "append", "metavar": "TEXT",
        "help": "what should be heard (or seen, beside what is heard); may be given several times",
    },
    "text_file": {"type": Path, "metavar": "FILE", "help": "texts, one a line (UTF-8)"},
    "audio": {
        "action": "append", "type": Path, "metavar": "PATH",
        "help": "a sound file, a video with sound, or a folder of them; may be given several times",
    },
    "prompt": {"metavar": "TEXT", "help": "words around the sound, with <*> where it goes (default: the model's)"},
    "audio_strength": {
        "type": float, "default": 1.0,
        "help": "how much the sound says beside the prompt: 0 nothing, 1 as trained, up to 2 (default: 1)",
    },
    "mix": {"type": float, "default": 0.5, "help": "of --text: 0 the sound alone, 1 the text alone (default: 0.5)"},
    "together": {"action": "store_true", "default": False, "help": "all sounds in one picture: one <*> for each"},
    "window": {"type": float, "metavar": "SECONDS", "help": "a storyboard: a picture of every so many seconds"},
    "hop": {"type": float, "metavar": "SECONDS", "help": "from one --window to the next (default: the window)"},
    "tags": {"action": "store_true", "default": False, "help": "print what is heard (AudioSet tags), make nothing"},
    "stable_diffusion": {"metavar": "FOLDER_OR_ID", "help": "draws the pictures (default: the one trained with)"},
    "no_safety_checker": {"action": "store_true", "default": False, "help": "do without the one of --stable_diffusion"},
    "checkpoint": {"metavar": "FOLDER_OR_ID", "help": "exported pipeline folder or hub id (default: this run's)"},
    "output_dir": {"type": Path, "default": Path("outputs"), "help": "folder of the results (default: outputs)"},
    "seed": {"type": int, "default": 0, "help": "of the first sample; the next ones count on from it"},
    "num_samples": {"type": int, "default": 1, "help": "samples of each input"},
    "num_steps": {"type": int, "help": "denoising steps (default: the preset's)"},
    "guidance_scale": {"type": float, "help": "how closely to follow the text; 1 = no guidance"},
    "negative_text": {"default": "", "metavar": "TEXT", "help": "what should not be heard or seen"},
    "scheduler": {"metavar": "NAME", "help": "sampler instead of the preset's: ddim, pndm, dpm++, euler, unipc, ..."},
    "preset": {"metavar": "NAME", "help": "reference, balanced (default) or fast"},
    "guidance_rescale": {"type": float, "default": 0.0, "help": "0 to 1: against too loud and too coloured results"},
    "guidance_interval": {
        "type": float, "nargs": 2, "default": (0.0, 1.0), "metavar": ("LOW", "HIGH"),
        "help": "guide only at these noise times, of 0 (clean) to 1 (noise): faster (default: 0 1)",
    },
    "duration": {"type": float, "metavar": "SECONDS", "help": "length of the sound, 0.5 to 600 (default: one clip)"},
    "window_overlap": {"type": float, "default": 0.5, "help": "of a long sound's windows, 0 to 0.9 (default: 0.5)"},
    "init_audio": {"type": Path, "metavar": "FILE", "help": "a sound to start from, instead of from noise"},
    "init_image": {"type": Path, "metavar": "FILE", "help": "a picture to start from, instead of from noise"},
    "strength": {
        "type": float, "help": "how much of --init_audio or --init_image is given up, above 0 to 1 (default: 0.8)",
    },
    "mask": {
        "type": spans, "action": "extend", "metavar": "START-END",
        "help": "seconds of --init_audio to make anew; all else is kept; several: 1-2,3.5-",
    },
    "continuation": {"action": "store_true", "default": False, "help": "keep --init_audio, go on to --duration"},
    "height": {"type": int, "help": "of the pictures in pixels, a multiple of 8 (default: the model's)"},
    "width": {"type": int, "help": "of the pictures in pixels, a multiple of 8 (default: the model's)"},
    "lora": {"type": Path, "metavar": "FILE", "help": "LoRA weights for the pipeline, from run_finetune.sh"},
    "lora_scale": {"type": float, "default": 1.0, "help": "strength of --lora (default: 1)"},
    "batch_size": {"type": int, "default": 4, "help": "samples, or windows of long ones, made at once"},
    "device": {"default": "auto", "help": "auto, cpu, cuda, cuda:1, mps"},
    "dtype": {"default": "float32", "choices": ("float32", "bfloat16", "float16"), "help": "of the networks"},
}
EVALUATION: dict[str, dict[str, Any]] = {name: dict(INFERENCE[name]) for name in (
    "checkpoint", "output_dir", "seed", "num_samples", "num_steps", "guidance_scale", "preset", "batch_size", "device",
)}  # fmt: skip
EVALUATION["output_dir"] |= {"default": None, "help": "folder of the report (default: evaluation/TASK_RECIPE)"}
EVALUATION["num_samples"] |= {"default": 600, "help": "captions or clips to score (default: 600)"}
EVALUATION["batch_size"] |= {"default": 16}
EVALUATION |= {
    "generated": {"type": Path, "metavar": "FOLDER", "help": "score these sounds or pictures instead of generating"},
    "reference": {"type": Path, "metavar": "FOLDER_OR_MANIFEST", "help": "recordings to compare with"},
    "embedder": {"action": "append", "metavar": "KIND:SOURCE", "help": "what listens or looks; may be given again"},
    "cache_dir": {"type": Path, "metavar": "FOLDER", "help": "keeps embeddings (default: in the output folder)"},
    "text_to_audio": {
        "metavar": "FOLDER_OR_ID", "help": "a round trip: this pipeline makes the sounds from the captions first",
    },
    "captions": {
        "type": Path, "metavar": "FILE", "help": "manifest with the captions to start from (default: the test pairs')",
    },
}
NEEDS = {
    "strength": "init_audio|init_image", "mask": "init_audio", "continuation": "init_audio", "lora_scale": "lora",
    "mix": "text", "hop": "window", "captions": "text_to_audio",
}  # fmt: skip

RANGES = {  # flag -> lowest, highest, unit; checked here because the pipeline is slow to load
    "duration": (0.5, 600.0, " s"), "guidance_rescale": (0.0, 1.0, ""), "window_overlap": (0.0, 0.9, ""),
    "audio_strength": (0.0, 2.0, ""), "mix": (0.0, 1.0, ""), "window": (0.1, 3600.0, " s"), "hop": (0.1, 3600.0, " s"),
    "height": (16, 4096, " px"), "width": (16, 4096, " px"),
}  # fmt: skip
# paths that must be there
INPUTS = ("text_file", "init_audio", "init_image", "lora", "generated", "reference", "captions")


def add(parser: argparse.ArgumentParser, flags: dict[str, dict[str, Any]]) -> None:
    """Declare the flags; one that is not given stays absent until `check` fills in its default."""
    for name, options in flags.items():
        hidden: dict[str, Any] = {**options, "default": argparse.SUPPRESS}
        parser.add_argument(f"--{name}", **hidden)


def check(args: argparse.Namespace, flags: dict[str, dict[str, Any]], useful: tuple[str, ...], recipe: str) -> None:
    """Refuse flags that the recipe has no use for, fill in the defaults of the others, and look at the numbers.

    Raises:
        UserError: such a flag was given, or a number is out of range.
    """
    if not useful:
        raise UserError(f"{recipe}: there is nothing to run here for this recipe, it can only be trained")
    given = set(vars(args))
    for name, options in flags.items():
        if name in given and name not in useful:
            raise UserError(f"{recipe} has no use for --{name} (it takes --{', --'.join(useful)})")
        needed = [other for other in NEEDS.get(name, name).split("|") if other in useful]
        if name in given and not given & set(needed):
            raise UserError(f"--{name} needs --{' or --'.join(needed)}")
        vars(args).setdefault(name, options.get("default"))
    for name in ("num_samples", "num_steps", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}")
    for name in ("guidance_scale", "duration", "lora_scale"):
        if not math.isfinite(getattr(args, name, None) or 0):
            raise UserError(f"--{name} must be a finite number, got {getattr(args, name)}")
    _check_ranges(args)
    _check_inputs(args)
    if not 0 <= args.seed < LARGEST_SEED:
        raise UserError(f"--seed must be at least 0 and below {LARGEST_SEED}, got {args.seed}")


def _check_ranges(args: argparse.Namespace) -> None:
    for name, (low, high, unit) in RANGES.items():
        value = getattr(args, name, None)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name} must be from {low:g} to {high:g}{unit}, got {value:g}")
    for name in ("height", "width"):
        if (getattr(args, name, None) or 0) % 8:
            raise UserError(f"--{name} must be a multiple of 8, got {getattr(args, name)}")
    strength = getattr(args, "strength", None)
    if strength is not None and not 0 < strength <= 1:
        raise UserError(f"--strength must be above 0 and at most 1, got {strength:g}")
    low, high = getattr(args, "guidance_interval", None) or (0.0, 1.0)
    if not 0 <= low < high <= 1:
        raise UserError(f"--guidance_interval must be LOW HIGH with 0 <= LOW < HIGH <= 1, got {low:g} {high:g}")
    for start, end in getattr(args, "mask", None) or []:
        if end is not None and end <= start:
            raise UserError(f"--mask {start:g}-{end:g} is {'empty' if end == start else 'reversed'}: its end must be "
                            "after its start")  # fmt: skip


def _check_inputs(args: argparse.Namespace) -> None:
    for name in INPUTS:
        path = getattr(args, name, None)
        if path is not None and not path.exists():
            kind = "file" if name in ("text_file", "init_audio", "init_image") else "file or folder"
            raise UserError(f"--{name} {path}: no such {kind}")
