"""Evaluate audio to image: one picture for each sound of a test set. Every recipe of this task runs this module.

In the miniature world a frozen judge scores the pictures, next to chance and upper bounds: pictures of the true
captions by the same Stable Diffusion, the real pictures, and the real pictures through the VAE. Recordings are compared
by any embedders. With --text_to_audio the sounds are generated from the captions first: the round trip text -> sound ->
picture.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sonolume.config.audio_to_image import EvaluationOptions
from sonolume.models import runtime
from sonolume.models.a2i import from_text, loading
from sonolume.models.a2i.generate import default_preset
from sonolume.models.a2i.pipeline import AudioToImagePipeline, fitted
from sonolume.models.evaluation import figures, held_out
from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS
from sonolume.models.evaluation.embedders.load import load_all
from sonolume.models.evaluation.folders import score_folder
from sonolume.models.evaluation.held_out import HeldOut
from sonolume.models.evaluation.metrics import add_scores_with_baselines
from sonolume.models.evaluation.report import Conditions, Report, finish, measurement_conditions
from sonolume.models.evaluation.samples import PICTURE, Files, Samples, generate_files, weights_version
from sonolume.models.mini import judges
from sonolume.models.recipes import recipe_code
from sonolume.modules import sampling
from sonolume.utils import audio
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image
from sonolume.utils.text import message

WORLD_EMBEDDERS = ("mini:picture_judge", "mini:world")
CUSTOMARY = "--embedder clip:openai/clip-vit-base-patch32 --embedder clip:openai/clip-vit-large-patch14"

# adds a recipe's own scores to a report, of a pipeline, the test sounds, and the folder or hub id of the model
AddScores = Callable[[Report, AudioToImagePipeline, HeldOut, str], None]
# draws a recipe's own baselines with a painter, given the test sounds and their pictures -> files by column
DrawBaselines = Callable[["Painter", HeldOut, Files], Mapping[str, Files]]


def run(
    config: Any, options: EvaluationOptions, add_scores: AddScores | None = None,
    draw_baselines: DrawBaselines | None = None, collect_scenes: Callable[..., HeldOut] = held_out.scenes_with_files,
    world_embedders: Sequence[str] = WORLD_EMBEDDERS,
) -> None:  # fmt: skip
    """Draw and score pictures, or score a folder; write report.json, report.md and sheets of samples.

    Args:
        collect_scenes: renders the test scenes of the miniature world, as `held_out.scenes_with_files`.
        world_embedders: default of --embedder in the miniature world.
    """
    if options.generated is not None or options.reference is not None:
        score_folder(options, options.output_dir, options.device, options.batch_size)
        return
    where, in_world = find_model(config, options)
    embedders = load_all(options.embedder or (world_embedders if in_world else ()))
    of_pictures = [embedder for embedder in embedders if "pictures" in embedder.takes]
    if not of_pictures:
        raise UserError(f"--embedder is needed to score pictures of recordings; customary: {CUSTOMARY}")
    pipe, components = loading.load(where, config.recipe, options.device)
    runtime.speed_up(pipe.sd.unet)
    folder = runtime.make_folder(options.output_dir)
    painter = Painter(pipe, _sampling_settings(pipe, where, components, options), options, folder)
    real = collect_tests(config, options, folder, pipe, in_world, collect_scenes=collect_scenes)
    tests, trip_facts = real, dict[str, Any]()
    if is_trip := options.text_to_audio is not None:
        tests, trip_facts = from_text.generate_sounds(real, options, folder)
        real = real.select(tests.captions)

    baselines: dict[str, Files] = {}
    if is_trip and real.sounds:
        baselines[from_text.REAL] = painter.from_sounds(real, "generated")
    baselines["caption"] = painter.from_captions(real)
    if real.pictures:
        baselines["VAE"] = painter.reconstruct(real)
    made = painter.from_sounds(tests, "round_trip" if is_trip else "generated")
    if draw_baselines:
        baselines |= draw_baselines(painter, tests, made)

    sampling = {name: value for name, value in painter.settings.items() if name not in ("model", "versions")}
    facts = {"model": where, "weights": painter.settings["model"], "sounds": len(tests.sounds), **sampling}
    facts |= {"seed": options.seed, "of": tests.source["source"], **trip_facts}
    report = Report(conditions(tests, made, embedders, options), facts=facts)
    report.leave_out(tests.left_out)
    if tests.scenes:
        columns = {**baselines, "real": tests.pictures}
        pixels = {name: judges.load_pixels(list(files.values())) for name, files in columns.items()}
        judges.add_picture_shares(report, tests.scenes, judges.load_pixels(list(made.values())), pixels)
    if add_scores:
        add_scores(report, pipe, tests, where)
        if from_text.REAL in baselines:
            other = Report({})
            add_scores(other, pipe, real, where)
            report.add_baselines(other, from_text.REAL)
    cache, size = options.cache_dir or folder / EMBEDDINGS, options.batch_size
    lost = from_text.add_legs(report, tests, real, made, baselines, embedders, cache, size) if is_trip else []
    samples = Samples(PICTURE, made, tests.pictures, tests.captions, tests.labels, {} if is_trip else tests.sounds)
    add_scores_with_baselines(report, samples, baselines, of_pictures, cache, size)
    if is_trip:
        sheets = from_text.sheets(folder, report, tests, real, made, baselines, lost)
    else:
        sheets = figures.sample_sheets(folder, report, samples)
    message(f"compared by {', '.join(embedder.name for embedder in of_pictures)}")
    finish(report, folder, sheets)


def find_model(config: Any, options: EvaluationOptions) -> tuple[str, bool]:
    """Locate the model's folder or hub id, and decide whether it is evaluated in the miniature world."""
    shipped = recipe_code(config.recipe, "encoder").SHIPPED
    where = runtime.find_checkpoint(options.checkpoint, config, shipped)
    return where, options.captions is None and held_out.uses_miniworld(config, options.checkpoint, where, shipped)


def collect_tests(
    config: Any, options: EvaluationOptions, folder: Path, pipe: AudioToImagePipeline, in_world: bool,
    pictures: bool = True, collect_scenes: Callable[..., HeldOut] = held_out.scenes_with_files,
) -> HeldOut:  # fmt: skip
    """Collect sounds with captions that Stable Diffusion can read, and the pictures that exist for them.

    Args:
        pictures: False leaves out those of the miniature world, which would be drawn.
        collect_scenes: as for `run`.
    """
    if options.captions is not None:
        tests = held_out.captions_in(options.captions, options.num_samples)
    elif in_world:
        held_out.check_sample_rate(pipe.encoder.sample_rate)
        tests = collect_world(config, options, folder, collect_scenes, pictures)
    else:
        tests = held_out.recorded_sounds(config, options.num_samples)
    tokenizer = pipe.sd.tokenizer
    count_tokens = lambda text: len(tokenizer(text, verbose=False).input_ids)  # noqa: E731
    return tests.without_long_captions(count_tokens, tokenizer.model_max_length, "Stable Diffusion")


def collect_world(
    config: Any, options: EvaluationOptions, folder: Path, collect_scenes: Callable[..., HeldOut], pictures: bool = True
) -> HeldOut:
    """Render test scenes below the output folder; arguments as of `collect_tests`."""
    mini, places = config.preprocess.miniworld, (folder / "sounds", folder / "reference" if pictures else None)
    return collect_scenes(mini, options.num_samples, *places, mini.pairs and mini.train_scenes > 0)


def _sampling_settings(
    pipe: AudioToImagePipeline, where: str, components: Mapping[str, Any], options: EvaluationOptions
) -> dict[str, Any]:
    """Apply the preset, and collect everything that determines a picture besides its sound and seed."""
    runtime.choose_sampler(pipe, options.preset or default_preset(pipe, options))
    pipe.sd.set_progress_bar_config(disable=True)
    return {
        "model": weights_version(where),
        "stable_diffusion": components["stable_diffusion"],
        "prompt": pipe.encoder.prompt,
        "num_steps": options.num_steps or pipe.num_steps,
        "guidance_scale": pipe.default_guidance_scale if options.guidance_scale is None else options.guidance_scale,
        "cache_interval": options.cache_interval or 1,
        "scheduler": type(pipe.sd.scheduler).__name__,
        "versions": runtime.versions(),
    }


@dataclass(frozen=True)
class Painter:
    """Draws one picture per Uid into folders below the output folder, which an interrupted run resumes."""

    pipe: AudioToImagePipeline
    settings: dict[str, Any]
    options: EvaluationOptions
    folder: Path

    def from_sounds(self, tests: HeldOut, name: str) -> dict[str, Path]:
        """Draw pictures of sounds; a silent sound gets a black one, which is scored like any other."""
        rate = self.pipe.encoder.sample_rate

        def arguments(uids: list[str]) -> dict[str, Any]:
            return {"sounds": self.pipe.encode_audio([audio.load(tests.sounds[uid], rate) for uid in uids])}

        inputs = {uid: path.name for uid, path in tests.sounds.items()}
        silent = {uid for uid, path in tests.sounds.items() if audio.is_silent(audio.load(path, rate))}
        return self._draw(name, inputs, self.settings | tests.source, arguments, silent)

    def from_captions(self, tests: HeldOut) -> dict[str, Path]:
        """Draw pictures of the true captions by the same Stable Diffusion, from the same noise."""
        return self.from_texts(tests.captions, "caption", tests.source)

    def from_texts(self, texts: Mapping[str, str], name: str, source: Mapping[str, Any]) -> dict[str, Path]:
        """Draw pictures of texts as `from_captions`; `source` is where they come from."""

        def arguments(uids: list[str]) -> dict[str, Any]:
            length = self.pipe.sd.tokenizer.model_max_length
            return {"prompt_embeds": self.pipe.encode_texts([texts[uid] for uid in uids], length)}

        settings = {name: value for name, value in self.settings.items() if name not in ("model", "prompt")}
        return self._draw(name, texts, settings | dict(source), arguments)

    def _draw(
        self, name: str, inputs: Mapping[str, str], settings: Mapping[str, Any],
        arguments: Callable[[list[str]], dict[str, Any]], black: Collection[str] = (),
    ) -> dict[str, Path]:  # fmt: skip
        """Draw one picture per Uid by the pipeline with `arguments(Uids of a batch)`; the `black` ones stay black."""

        def generate(uids: list[str], seeds: list[int]) -> list[Image.Image | None]:
            height, width = self.pipe.size(None, None)
            pictures: dict[str, Image.Image | None] = {uid: Image.new("RGB", (width, height)) for uid in uids}
            drawn = {uid: seed for uid, seed in zip(uids, seeds, strict=True) if uid not in black}
            if drawn:
                noise, steps = sampling.generators(drawn.values()), self.settings["num_steps"]
                how = {"num_inference_steps": steps}
                how |= {name: self.settings[name] for name in ("guidance_scale", "cache_interval")}
                output = self.pipe(**arguments(list(drawn)), **how, generator=noise)
                pictures |= dict(zip(drawn, output.images, strict=True))
            return list(pictures.values())

        return self._save(name, inputs, settings, generate, self.options.seed)

    @torch.no_grad()
    def reconstruct(self, tests: HeldOut) -> dict[str, Path]:
        """Reconstruct the real pictures by the VAE: the upper bound of the latent model."""
        vae: Any = self.pipe.sd.vae
        processor: Any = self.pipe.sd.image_processor
        size = self.pipe.size(None, None)

        def generate(uids: list[str], _: list[int]) -> list[Image.Image]:
            pictures = [fitted(open_image(tests.pictures[uid]), size) for uid in uids]
            arrays = [np.asarray(picture, np.float32).transpose(2, 0, 1) / 255 for picture in pictures]
            real = torch.stack([torch.from_numpy(array) for array in arrays])
            real = real.to(vae.device, vae.dtype)                      # (B, 3, H, W)
            latents = vae.encode(2 * real - 1).latent_dist.mode()      # (B, z, h, w)
            decoded = vae.decode(latents).sample.float().cpu()         # (B, 3, H, W)
            return processor.postprocess(decoded, output_type="pil")

        inputs = {uid: path.name for uid, path in tests.pictures.items()}
        made_by = {"size": list(size), "versions": runtime.versions(), **tests.source}
        return self._save("VAE", inputs, made_by, generate)

    def _save(
        self, name: str, inputs: Mapping[str, str], settings: Mapping[str, Any], generate: Any, seed: int = 0
    ) -> dict[str, Path]:
        """Generate the pictures of a folder that do not exist yet."""
        more: dict[str, Any] = {"batch_size": self.options.batch_size, "seed": seed, "title": name}
        return generate_files(self.folder / name, inputs, settings, generate, **more)


def conditions(
    tests: HeldOut, made: Files, embedders: Sequence[Embedder], options: EvaluationOptions
) -> Conditions:
    """Conditions of the scores of the pictures `made` of test sounds."""
    if tests.scenes:
        more: dict[str, Any] = {"compared_with": tests.source, "judge": judges.versions(judges.PICTURE_JUDGE)[0]}
    else:
        paths = [*tests.sounds.values(), *tests.pictures.values()]
        more = {"compared_with": content_hash([content_hash(path) for path in paths])}
    asked = list(tests.sounds)
    if options.text_to_audio is not None:
        asked, more = [f"{uid}: {caption}" for uid, caption in tests.captions.items()], more | {"start": "caption"}
    facts = [embedder.facts() for embedder in embedders]
    return measurement_conditions(facts, asked, len(made), seed=options.seed, **more)
