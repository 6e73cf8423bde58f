"""Does the picture show what is heard? One picture for each sound of a test set: run_eval.sh of every recipe here.

In the miniature world a frozen judge tells what it sees, beside chance and the upper bounds: the true caption drawn by
the same Stable Diffusion, the real picture, and the real picture through the VAE. On recordings, any embedders compare.
With --text_to_audio the sounds are made from the captions first: the round trip text -> sound -> picture.
"""

import argparse
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sonolume.models import inference
from sonolume.models.a2i import from_text, loading, test_pairs
from sonolume.models.a2i.loading import LoadEncoder
from sonolume.models.a2i.pipeline import AudioToImagePipeline, fitted
from sonolume.models.a2i.test_pairs import TestPairs
from sonolume.models.evaluation import beside, folders, generation, heldout, results, showing
from sonolume.models.evaluation.embedders import clips
from sonolume.models.evaluation.embedders.base import Embedder, hash_of
from sonolume.models.evaluation.embedders.load import check, load_all
from sonolume.models.evaluation.pictures import Pictures, score
from sonolume.models.evaluation.protocol import digest, fingerprint
from sonolume.models.evaluation.results import Result
from sonolume.models.mini import seeing
from sonolume.utils import audio, hub
from sonolume.utils.errors import UserError

CACHE = "embeddings"  # inside the output folder
IN_WORLD = ("mini:picture_judge", "mini:world")
USUAL = "--embedder clip:openai/clip-vit-base-patch32 --embedder clip:openai/clip-vit-large-patch14"


def run(config: Any, args: argparse.Namespace, load_encoder: LoadEncoder, shipped: str) -> None:
    """Draw, look, and write report.json, report.md and sheets of pictures.

    Args:
        shipped: the miniature exported folder, used where the run has none.
    """
    if args.generated is not None:
        folders.run(args)
        return
    if args.reference is not None:
        raise UserError("--reference is what --generated is compared with: name a folder of pictures with --generated")
    for spec in args.embedder or ():
        check(spec)
    where = inference.find_checkpoint(args.checkpoint, config, shipped)
    in_world = args.captions is None and heldout.is_world(config, config.preprocess, args.checkpoint, where, shipped)
    embedders = load_all(args.embedder or (IN_WORLD if in_world else ()))
    if not any("pictures" in embedder.takes for embedder in embedders):
        raise UserError(f"recordings have no judge: name what looks at the pictures, usual is {USUAL}")
    pipe, models = loading.load(where, config.recipe, load_encoder, args.device)
    settings = _settings(pipe, where, models, args)
    folder = inference.make_folder(args.output_dir)
    real = _pairs(config, args, folder, pipe, in_world)
    trip = from_text.travel(real, args, folder) if args.text_to_audio is not None else None
    pairs = trip.pairs if trip else real
    real = test_pairs.only(real, pairs.captions)
    columns = {"caption": from_captions(pipe, real, settings, args, folder)}
    columns |= {"VAE": rebuilt(pipe, real, args, folder)} if real.reference else {}
    if trip and real.sounds:
        columns = {from_text.REAL: from_sounds(pipe, real, settings, args, folder / "generated"), **columns}
    made = from_sounds(pipe, pairs, settings, args, folder / ("round_trip" if trip else "generated"))
    result = Result(_conditions(pairs, made, embedders, args), facts=_facts(pairs, settings, where, args))
    result.left_out += pairs.left_out
    if pairs.scenes:
        others = {**columns, "real": pairs.reference}
        seen = {name: seeing.load(list(files.values())) for name, files in others.items()}
        seeing.add_shares(result, pairs.scenes, seeing.load(list(made.values())), seen)
    cache = args.cache_dir or folder / CACHE
    lost = from_text.add_legs(result, trip, real, made, columns, embedders, cache, args.batch_size) if trip else []
    pictures = Pictures(made, pairs.reference, pairs.captions, pairs.labels, {} if trip else pairs.sounds)
    looking = [embedder for embedder in embedders if "pictures" in embedder.takes]
    _compare(result, pictures, columns, looking, cache, args.batch_size)
    if trip:
        sheets = from_text.sheets(folder, result, trip, real, made, columns, lost)
    else:
        sheets = showing.sheets(folder, result, pictures)
    report = results.write(result, folder, sheets)
    print((folder / "report.md").read_text(encoding="utf-8"))
    print(report)


def _pairs(
    config: Any, args: argparse.Namespace, folder: Path, pipe: AudioToImagePipeline, in_world: bool
) -> TestPairs:
    """Without those whose captions Stable Diffusion cannot read to their end."""
    if args.captions is not None:
        pairs = from_text.captions_of(args.captions, args.num_samples)
    else:
        tests = test_pairs.of_world if in_world else test_pairs.of_recordings
        pairs = tests(config, args.num_samples, folder, pipe.encoder.sample_rate)
    limit = pipe.sd.tokenizer.model_max_length
    tokens = {uid: len(pipe.sd.tokenizer(text, verbose=False).input_ids) for uid, text in pairs.captions.items()}
    left = test_pairs.only(pairs, [uid for uid, count in tokens.items() if count <= limit])
    if not left.captions:
        raise UserError(f"{pairs.source['source']}: all captions are longer than {limit} tokens")
    reason = f"its caption has more than {limit} tokens, which Stable Diffusion takes"
    left.left_out += [(uid, reason) for uid, count in tokens.items() if count > limit]
    return left


def _settings(
    pipe: AudioToImagePipeline, where: str, models: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """All that decides a picture, beside its sound and its seed."""
    try:
        pipe.use_preset(args.preset or "balanced")
    except ValueError as error:
        raise UserError(f"--preset: {error}") from error
    pipe.sd.set_progress_bar_config(disable=True)
    return {
        "model": _version(where),
        "stable_diffusion": models["stable_diffusion"],
        "prompt": pipe.encoder.prompt,
        "num_steps": args.num_steps or pipe.num_steps,
        "guidance_scale": pipe.guidance_scale if args.guidance_scale is None else args.guidance_scale,
        "scheduler": type(pipe.sd.scheduler).__name__,
        "versions": inference.versions(),
    }


def _version(where: str) -> str:
    """A hash of all weights and settings of a folder; a hub id as it is."""
    if not hub.is_local(where):
        return where
    return hash_of(*sorted(path for kind in ("json", "safetensors") for path in Path(where).rglob(f"*.{kind}")))


def _draw(
    pipe: AudioToImagePipeline,
    folder: Path,
    inputs: Mapping[str, str],
    settings: dict[str, Any],
    args: argparse.Namespace,
    told: Callable[[list[str]], dict[str, Any]],
    blank: Collection[str] = (),
) -> dict[str, Path]:
    """One picture for each Uid; `told` says what the pipeline is asked for those of a batch. `blank` become black."""
    height, width = pipe.size(None, None)

    def make(uids: list[str], seeds: list[int]) -> list[Image.Image | None]:
        pictures: dict[str, Image.Image | None] = {uid: Image.new("RGB", (width, height)) for uid in uids}
        drawn = {uid: seed for uid, seed in zip(uids, seeds, strict=True) if uid not in blank}
        if drawn:
            output = pipe(
                **told(list(drawn)),
                num_inference_steps=settings["num_steps"],
                guidance_scale=settings["guidance_scale"],
                generator=[torch.Generator().manual_seed(seed) for seed in drawn.values()],
            )
            pictures |= dict(zip(drawn, output.images, strict=True))
        return list(pictures.values())

    return generation.generate(
        folder, inputs, settings, make, _save, suffix=".png", batch_size=args.batch_size, seed=args.seed,
        title=folder.name,
    )  # fmt: skip


def _save(path: Path, picture: Image.Image) -> None:
    picture.save(path, format="PNG")


def from_sounds(
    pipe: AudioToImagePipeline, pairs: TestPairs, settings: dict[str, Any], args: argparse.Namespace, folder: Path
) -> dict[str, Path]:
    """Pictures in `folder` of what is heard; of a silent sound a black one, which counts as what it is."""
    rate = pipe.encoder.sample_rate

    def told(uids: list[str]) -> dict[str, Any]:
        return {"sounds": pipe.hear([audio.load(pairs.sounds[uid], rate) for uid in uids])}

    inputs = {uid: path.name for uid, path in pairs.sounds.items()}
    silent = {uid for uid, path in pairs.sounds.items() if clips.is_silent(audio.load(path, rate))}
    return _draw(pipe, folder, inputs, settings | pairs.source, args, told, silent)


def from_captions(
    pipe: AudioToImagePipeline, pairs: TestPairs, settings: dict[str, Any], args: argparse.Namespace, folder: Path
) -> dict[str, Path]:
    """Pictures that the same Stable Diffusion draws of the true captions, from the same noise."""

    def told(uids: list[str]) -> dict[str, Any]:
        heard = torch.zeros(len(uids), 1, pipe.encoder.width)  # with mix 1 nothing of it is left
        return {"sounds": heard, "text": [pairs.captions[uid] for uid in uids], "mix": 1.0}

    made_by = {name: value for name, value in settings.items() if name not in ("model", "prompt")}
    return _draw(pipe, folder / "caption", pairs.captions, made_by | pairs.source, args, told)


@torch.no_grad()
def rebuilt(pipe: AudioToImagePipeline, pairs: TestPairs, args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The real pictures through the VAE: the best that the latent model could reach."""
    vae: Any = pipe.sd.vae
    size = pipe.size(None, None)

    def make(uids: list[str], seeds: list[int]) -> list[Image.Image]:
        real = torch.stack([_pixels(fitted(Image.open(pairs.reference[uid]), size)) for uid in uids])  # (B, 3, H, W)
        latents = vae.encode((2 * real - 1).to(vae.device, vae.dtype)).latent_dist.mode()              # (B, z, h, w)
        decoded = vae.decode(latents).sample.float().cpu()                                             # (B, 3, H, W)
        return pipe.sd.image_processor.postprocess(decoded, output_type="pil")  # type: ignore[return-value]

    inputs = {uid: path.name for uid, path in pairs.reference.items()}
    made_by = {"size": list(size), "versions": inference.versions(), **pairs.source}
    return generation.generate(
        folder / "VAE", inputs, made_by, make, _save, suffix=".png", batch_size=args.batch_size, title="VAE"
    )


def _pixels(picture: Image.Image) -> Tensor:
    """(3, H, W) in 0..1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32).transpose(2, 0, 1) / 255)


def _conditions(
    pairs: TestPairs, made: Mapping[str, Path], embedders: list[Embedder], args: argparse.Namespace
) -> dict[str, Any]:
    files = [*pairs.sounds.values(), *pairs.reference.values()]
    contents = pairs.source if pairs.scenes else digest([hash_of(path) for path in files])
    more: dict[str, Any] = {"compared_with": contents} | ({"judge": seeing.judge()} if pairs.scenes else {})
    facts = [embedder.facts() for embedder in embedders]
    asked = list(pairs.sounds)
    if args.text_to_audio is not None:
        asked, more = [f"{uid}: {caption}" for uid, caption in pairs.captions.items()], more | {"start": "caption"}
    return fingerprint(facts, asked, len(made), seed=args.seed, **more)


def _facts(pairs: TestPairs, settings: dict[str, Any], where: str, args: argparse.Namespace) -> dict[str, Any]:
    """For the reader."""
    told = {name: value for name, value in settings.items() if name not in ("model", "versions")}
    return {"model": where, "weights": settings["model"], "sounds": len(pairs.sounds), **told, "seed": args.seed,
            "of": pairs.source["source"]}  # fmt: skip


def _compare(
    result: Result,
    pictures: Pictures,
    columns: Mapping[str, Mapping[str, Path]],
    embedders: list[Embedder],
    cache: Path,
    batch_size: int,
) -> None:
    """What the embedders tell, beside the columns, the real pictures, and pictures of other sounds as chance."""

    def scored(those: Pictures) -> Result:
        other = Result({})
        for embedder in embedders:
            score(other, those, embedder, cache, batch_size)
        return other

    ours = scored(pictures)
    for column, files in columns.items():
        beside.put_beside(ours, scored(replace(pictures, generated=files)), column)
    if pictures.reference:
        beside.put_beside(ours, scored(replace(pictures, generated=pictures.reference, reference={})), "real")
    if len(pictures.generated) > 1:
        others = beside.shifted(pictures.generated, list(pictures.generated))
        beside.put_chance(ours, scored(replace(pictures, generated=others)))
    result.scores += ours.scores
    result.outliers += ours.outliers
    result.counts |= ours.counts
    result.left_out += [entry for entry in ours.left_out if entry not in result.left_out]
    print(f"compared by {', '.join(embedder.name for embedder in embedders)}", file=sys.stderr)
