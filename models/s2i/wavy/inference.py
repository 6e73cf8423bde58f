"""Inference of wavy: pictures of what is said; vectors of recordings and pictures; search for pictures by speech."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sonolume.config.s2i.wavy import Config, InferenceOptions, Stage
from sonolume.models import runtime
from sonolume.models.a2i import loading
from sonolume.models.a2i.clips import Clip
from sonolume.models.a2i.generate import LoadedModel, check_inputs, generate
from sonolume.models.a2i.generate import load_model as load_pictures
from sonolume.models.s2i.wavy import retrieval
from sonolume.models.s2i.wavy.encoder import ENCODER_ONLY, RECIPE, SHIPPED
from sonolume.models.s2i.wavy.retrieval import DualEncoder
from sonolume.utils import audio, files
from sonolume.utils.errors import UserError
from sonolume.utils.image import CELL, draw_text, open_image, picture_grid, with_caption
from sonolume.utils.text import printable

ROWS = 20  # recordings on one sheet

Found = list[tuple[Path, float]]  # pictures with their cosines, the best first


def run(config: Config, options: InferenceOptions) -> None:
    """Draw pictures of recordings, or with --embed or --search encode and compare them only.

    Raises:
        UserError: an input cannot be used, or the folder holds no head and pictures are to be drawn.
    """
    if options.embed is not None:
        embed(runtime.find_checkpoint(options.checkpoint, config, SHIPPED), options, options.embed)
    elif options.search is not None:
        search(runtime.find_checkpoint(options.checkpoint, config, SHIPPED), options, options.search)
    else:
        check_inputs(options)
        for path in generate(load_model(config, options), options):
            print(path)


def load_model(config: Config, options: InferenceOptions) -> LoadedModel:
    """Load the pipeline of --checkpoint; raises a UserError if the folder holds no head."""
    source = runtime.find_checkpoint(options.checkpoint, config, SHIPPED)
    if loading.read_settings(source, [RECIPE], "--checkpoint")[1].get("stage") == Stage.encoder:
        raise UserError(f"{source}: {ENCODER_ONLY}")
    return load_pictures(config, replace(options, checkpoint=source))


def embed(source: str, options: InferenceOptions, path: Path) -> None:
    """Write the unit vectors of recordings, and of the pictures of --images, with the names of their files."""
    recordings = files.find_sounds(*options.audio)
    pictures = [] if options.images is None else _pictures_in(options.images, "--images")
    encoder, _ = _load(source, options)
    vectors, clips = _encode_recordings(encoder, recordings, options)
    arrays: dict[str, Any] = {"audio": vectors.numpy(), "audio_files": np.array([str(clip.path) for clip in clips])}
    if pictures:
        found, kept = _encode_pictures(encoder, pictures)
        arrays |= {"images": found.numpy(), "image_files": np.array([str(one) for one in kept])}
    with files.atomic_path(path) as temporary:
        np.savez(temporary, **arrays)
    print(path)


def search(source: str, options: InferenceOptions, folder: Path) -> None:
    """Print the pictures of a folder that are nearest to each recording, and write sheets of them with a json each."""
    recordings, pictures = files.find_sounds(*options.audio), _pictures_in(folder, "--search")
    encoder, facts = _load(source, options)
    vectors, clips = _encode_recordings(encoder, recordings, options)
    among, kept = _encode_pictures(encoder, pictures)
    results = [(clip, [(kept[number], cosine) for number, cosine in found])
               for clip, found in zip(clips, retrieval.nearest(vectors, among, options.top), strict=True)]  # fmt: skip
    for clip, found in results:
        print(printable(str(clip.path)))
        print("\n".join(f"  {cosine:6.3f}  {printable(str(picture))}" for picture, cosine in found))
    output = runtime.make_folder(options.output_dir)
    for start in range(0, len(results), ROWS):
        rows = results[start : start + ROWS]
        with runtime.new_result(output, f"search_{folder.resolve().name}", start // ROWS, ".png") as path:
            _write_sheet(path, rows, options.top)
            described = [_describe(*row) for row in rows]
            content = {"pictures": str(folder), "count": len(kept), "results": described, **facts}
            files.write_json(path.with_suffix(".json"), content)
        print(path)


def _load(source: str, options: InferenceOptions) -> tuple[DualEncoder, dict[str, Any]]:
    """Load the encoders, and describe them for a sidecar."""
    device = runtime.pick_device(options.device)
    encoder, settings = retrieval.load(source, device, runtime.pick_dtype(options.dtype, device))
    parts = {name: settings[name] for name in ("hubert", "image_encoder")}
    return encoder, runtime.describe(model=source, **parts, dtype=options.dtype, device=str(device))


def _pictures_in(folder: Path, flag: str) -> list[Path]:
    return files.find_files([folder], files.pictures_in, "pictures", flag)


def _encode_recordings(encoder: DualEncoder, paths: list[Path], options: InferenceOptions) -> tuple[Any, list[Clip]]:
    """Encode recordings -> (N, J); unusable ones are reported."""
    vectors, clips, errors = retrieval.encode_recordings(encoder, paths, options.span)
    audio.report_unusable(list(errors.values()), len(paths), "recordings")
    return vectors, clips


def _encode_pictures(encoder: DualEncoder, paths: list[Path]) -> tuple[Any, list[Path]]:
    """Encode pictures -> (M, J); unusable ones are reported."""
    vectors, kept, errors = retrieval.encode_pictures(encoder.images, paths)
    audio.report_unusable(list(errors.values()), len(paths), "pictures")
    return encoder.project_images(vectors), kept


def _write_sheet(path: Path, rows: list[tuple[Clip, Found]], top: int) -> None:
    """Write a row for each recording: its name, and its pictures with their cosines below."""
    columns: list[list[Image.Image]] = [[draw_text(clip.path.name, CELL) for clip, _ in rows]]
    for place in range(min(top, len(rows[0][1]))):
        best = [found[place] for _, found in rows]
        columns.append([with_caption(open_image(picture), f"{cosine:.3f} {picture.name}") for picture, cosine in best])
    titles = ["recording", *(str(place) for place in range(1, len(columns)))]
    picture_grid(path, columns, titles, cell=columns[1][0].size)


def _describe(clip: Clip, found: Found) -> dict[str, Any]:
    pictures = [{"picture": str(picture), "cosine": round(cosine, 6)} for picture, cosine in found]
    return {"audio": str(clip.path), "seconds": clip.seconds, "found": pictures}
