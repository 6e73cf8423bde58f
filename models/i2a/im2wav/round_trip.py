"""Round trip picture -> sound -> picture: the generated sounds, drawn by an audio-to-image model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sonolume.config.i2a.im2wav import EvaluationOptions
from sonolume.models.a2i import loading
from sonolume.models.a2i.audiotoken import encoder
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.samples import Files, generate_files, weights_version
from sonolume.models.mini import judges
from sonolume.utils import audio, paths


def add_scores(report: Report, options: EvaluationOptions, tests: HeldOut, made: Files) -> None:
    """Add the share of the drawn pictures that show the kind of the picture that the sound was generated from.

    The baseline is the same audio-to-image model given the real sounds.

    Raises:
        UserError: --audio_to_image is no exported folder of a2i/audiotoken.
    """
    source = paths.locate(str(options.audio_to_image), "--audio_to_image", flag=True)
    pipe, _ = loading.load(source, encoder.RECIPE, options.device)
    pipe.sd.set_progress_bar_config(disable=True)
    settings = {"model": weights_version(source), **tests.source}
    shares = {}
    for name, sounds in (("round_trip", made), ("round_trip_real", tests.sounds)):
        drawn = _draw(pipe, sounds, settings | {"sounds": name}, options.output_dir / name, options)
        pixels = judges.load_pixels([drawn[uid] for uid in tests.captions])
        shares[name] = judges.picture_shares(pixels, tests.scenes)["single"]
    baselines = {"real": shares["round_trip_real"]}
    report.conditions["audio_to_image"] = settings["model"]
    report.add_share("picture -> sound -> picture: kind", shares["round_trip"], 1 / 12, baselines, headline=True)


def _draw(
    pipe: Any, sounds: Files, settings: Mapping[str, Any], folder: Path, options: EvaluationOptions
) -> dict[str, Path]:
    """Draw one picture of each sound."""
    rate = pipe.encoder.sample_rate

    def pictures(uids: list[str], seeds: list[int]) -> list[Image.Image]:
        tokens = pipe.encode_audio([audio.load(sounds[uid], rate) for uid in uids])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipe(tokens, generator=generators).images

    inputs = {uid: path.name for uid, path in sounds.items()}
    more: dict[str, Any] = {"batch_size": options.batch_size, "seed": options.seed, "title": folder.name}
    return generate_files(folder, inputs, settings, pictures, **more)
