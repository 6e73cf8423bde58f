"""mini/stable_diffusion: train a U-Net on cached latents and text states, and evaluate the generated pictures.

Pictures and texts are encoded once by the frozen components. The evaluation generates one picture for each caption of
held-out scenes, in held-out wordings, and one from a short prompt for each single event. The frozen picture judge
scores them, with chance level and upper bounds: real pictures of the same scenes and their reconstructions by the
autoencoder. B items, z latent channels, h x w latent size, L text tokens, D text width.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from sonolume.config.mini.stable_diffusion import Config, EvaluationOptions, PreprocessOptions, UNetConfig
from sonolume.config.tta.audioldm import NoiseSchedulerConfig
from sonolume.models import pretrained, previews, runtime
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS
from sonolume.models.evaluation.embedders.load import load_all
from sonolume.models.evaluation.held_out import scenes_with_files
from sonolume.models.evaluation.metrics import add_scores
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.evaluation.samples import PICTURE, Files, Samples, generate_files, weights_version
from sonolume.models.latent_diffusion import DiffusionObjective, LatentTask, diffusion_loss, draw_target
from sonolume.models.mini import judges
from sonolume.models.mini.clip_text import make_text, save_tokenizer
from sonolume.models.mini.scene_data import draw, split_scenes
from sonolume.models.precision import usable
from sonolume.models.training import Draw, Frozen, TrainingData, training_draws, validation_draws
from sonolume.modules import sampling
from sonolume.modules.unet import zero_init
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.captions import NAMES
from sonolume.preprocessors.miniworld.pictures import SIZE
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import checkpoint, paths
from sonolume.utils.cache import cached
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image, picture_grid
from sonolume.utils.text import markdown

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

CACHE_VERSION = 1  # bump to invalidate cached latents and text states
BATCH_SIZE = 32  # pictures or texts of one forward pass
NUM_STEPS, GUIDANCE_SCALE = 20, 4.0  # defaults of previews and evaluation
MEASURED = 2048  # pictures from which the latents' standard deviation is estimated
PREVIEWS = 8  # pictures in TensorBoard
SHIPPED = "pretrained/mini/stable_diffusion"
EMBEDDERS = ("mini:picture_judge", "mini:world")
ROWS = 12  # of pictures in the report

Item = tuple[Tensor, Tensor]  # moments (2z, h, w): mean and log-variance of the latent; text states (L, D)


def load_frozen(config: Config) -> Frozen:
    """Load the networks that are not trained: `vae`, and `text_encoder`, a `TextEncoder`.

    Raises:
        UserError: one is absent or another model; names the config key.
    """
    folder = _trained(config.model.vae, "model.vae", "AutoencoderKL", "picture_vae")
    vae = AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)
    vae.register_to_config(_name_or_path="")  # strip local paths from exported configs
    return Frozen(vae=vae, text_encoder=TextEncoder(config.model.text_encoder))


class TextEncoder:
    """CLIP text encoder with its tokenizer, used as in StableDiffusionPipeline: full length and no mask."""

    def __init__(self, source: str) -> None:
        folder = _trained(source, "model.text_encoder", "CLIPTextModel", "clip_text")
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.model = CLIPTextModel.from_pretrained(folder).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Encode B texts into (B, L, D)."""
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return self.model(tokens.input_ids.to(self.model.device)).last_hidden_state


def _trained(source: str, key: str, kind: str, config: str) -> Path:
    folder = paths.resolve(source)
    if not folder.is_dir():
        raise UserError(f"{key} {source}: no such folder: train it first with egs/mini/{config}.json")
    checkpoint.check_folder(folder, kind)
    return folder


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Fill the caches, once the autoencoder and the text encoder are trained."""
    training_data(config, load_frozen(config))


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of moments (B, 2z, h, w) and text states (B, L, D); fills the caches first if necessary."""
    return TrainingData.of(lambda split: LatentPictures(config, split, frozen))


class LatentPictures(Dataset[Item]):
    """Latents with one of their texts, drawn anew in every epoch; some texts are emptied in training.

    moments: (N, 2z, h, w); states: (different texts, L, D).
    """

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        mini, training = config.miniworld, split == "train"
        self.seed, self.cond_mask_prob = config.train.random_seed, config.model.cond_mask_prob if training else 0.0
        scenes = split_scenes(mini, split, mini.pairs)
        numbers = range(mini.captions_per_scene)
        self.texts = [[make_text(scene, number, held_out=not training) for number in numbers] for scene in scenes]
        different = list(dict.fromkeys(["", *(text for texts in self.texts for text in texts)]))
        self.numbers = {text: number for number, text in enumerate(different)}
        vae, text_encoder = frozen["vae"], frozen["text_encoder"]
        half = usable(config.train.precision, "cpu").startswith("bf16")
        key = [half, [scene.to_dict() for scene in scenes], list(vae.parameters())]
        self.moments = _cached(config, f"latents_{split}", key, lambda: encode_pictures(scenes, vae, half))
        key = [different, list(text_encoder.model.parameters())]
        self.states = _cached(config, f"texts_{split}", key, lambda: encode_texts(different, text_encoder))

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        random = np.random.default_rng([self.seed, epoch, index])
        empty, texts = random.uniform() < self.cond_mask_prob, self.texts[index]
        text = "" if empty else texts[random.integers(len(texts))]
        moments, states = self.moments[index], self.states[self.numbers[text]]
        return torch.from_numpy(moments.astype(np.float32)), torch.from_numpy(states.astype(np.float32))


def _cached(config: Config, name: str, key: list[Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from the disk cache, computed by `make` if it is not there."""
    folder = paths.resolve(config.cache_dir)
    place = cached(folder, [CACHE_VERSION, *key], lambda unfinished: np.save(unfinished / "array.npy", make()), name)
    return np.load(place / "array.npy", mmap_mode="r")


@torch.no_grad()
def encode_pictures(scenes: list[Scene], vae: AutoencoderKL, half: bool) -> np.ndarray:
    """Latent moments (N, 2z, h, w) float16 of the pictures of scenes; `half` computes them in bfloat16."""
    moments = []
    for start in tqdm(range(0, len(scenes), BATCH_SIZE), desc="latents", unit="batch"):
        pictures = torch.stack([draw(scene) for scene in scenes[start : start + BATCH_SIZE]])
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            posterior = vae.encode(2 * pictures - 1).latent_dist
        moments.append(torch.cat([posterior.mean, posterior.logvar], dim=1).half().numpy())
    return np.concatenate(moments)


def _pipeline_class() -> type["StableDiffusionPipeline"]:
    pretrained.use_pil_processors()
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline


def encode_texts(texts: list[str], text_encoder: TextEncoder) -> np.ndarray:
    """Text states (N, L, D) float16."""
    starts = tqdm(range(0, len(texts), BATCH_SIZE), desc="texts", unit="batch")
    return np.concatenate([text_encoder(texts[start : start + BATCH_SIZE]).half().numpy() for start in starts])


class Task(LatentTask):
    frozen_keys = ("vae", "text_encoder")

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config, frozen)
        model = config.model
        self.unet = build_unet(model.unet, frozen["vae"], frozen["text_encoder"].model.config.hidden_size)
        zero_init(self.unet)
        if config.train.accelerator == "cpu" or not torch.cuda.is_available():
            self.unet.set_attn_processor(AttnProcessor())  # the fused kernel's backward pass is slower on a CPU
        self.scheduler = make_scheduler(model.noise_scheduler)
        self.objective = DiffusionObjective.from_config(model.noise_scheduler)

    def measure_latents(self, moments: np.ndarray) -> None:
        measure_latents(self.frozen["vae"], moments)

    def frozen_weights(self) -> list[Any]:
        return [self.frozen["vae"].parameters(), self.frozen["text_encoder"].model.parameters()]

    def _loss(self, batch: list[Tensor], draws: Callable[[Draw], Tensor]) -> Tensor:
        moments, states = batch                                                 # (B, 2z, h, w), (B, L, D)
        target = draw_target(moments, self.frozen["vae"], self.objective, draws)
        prediction = self.unet(target.noisy, target.timesteps, states).sample   # (B, z, h, w)
        return diffusion_loss(prediction, target)

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        loss = self._loss(batch, training_draws(self, len(batch[0]), batch_index))
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        loss = self._loss(batch, validation_draws(self, batch_index))
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch[0]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if not previews.is_due(self):
            return
        texts = [texts[0] for texts in self.trainer.datamodule.data.valid.texts[:PREVIEWS]]  # type: ignore[attr-defined]
        pipe, generators = self.pipeline(), sampling.generators(range(len(texts)))
        pipe.set_progress_bar_config(disable=True)
        how: dict[str, Any] = {"num_inference_steps": NUM_STEPS, "guidance_scale": GUIDANCE_SCALE, "output_type": "pt"}
        made: Any = pipe(texts, generator=generators, **how)
        previews.log_pictures(self, "preview", [made.images])
        self.logger.experiment.add_text("preview", "\n\n".join(map(markdown, texts)), self.global_step)  # type: ignore[union-attr]

    def pipeline(self) -> "StableDiffusionPipeline":
        """Assemble a pipeline from the networks in their current state."""
        text_encoder = self.frozen["text_encoder"]
        return _pipeline_class()(
            vae=self.frozen["vae"].to(self.device),
            text_encoder=text_encoder.model.to(self.device),
            tokenizer=text_encoder.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,  # type: ignore[arg-type]  # named by an Enum
            safety_checker=None,  # type: ignore[arg-type]  # there is nothing unsafe to draw
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )

    def export(self, folder: Path) -> None:
        """Write diffusers' `StableDiffusionPipeline` folder."""
        self.pipeline().save_pretrained(folder)
        save_tokenizer(self.frozen["text_encoder"].tokenizer, folder / "tokenizer")


def build_unet(config: UNetConfig, vae: AutoencoderKL, width: int) -> UNet2DConditionModel:
    """Build a U-Net with fresh weights for the latents of pictures and text states of `width`."""
    channels, attends = vae.config.latent_channels, config.cross_attention
    return UNet2DConditionModel(
        sample_size=SIZE // 2 ** (len(vae.config.block_out_channels) - 1),
        in_channels=channels, out_channels=channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(attends)),
        block_out_channels=tuple(config.block_out_channels), layers_per_block=config.layers_per_block,
        cross_attention_dim=width, norm_num_groups=config.norm_num_groups,
        attention_head_dim=config.num_heads,  # diffusers' name for the number of heads
    )  # fmt: skip


def make_scheduler(config: NoiseSchedulerConfig) -> DDIMScheduler:
    """Build the exported sampler; other schedulers can be made from its config."""
    return DDIMScheduler(
        config.num_train_timesteps, config.beta_start, config.beta_end, str(config.beta_schedule),
        prediction_type=str(config.prediction_type), clip_sample=config.clip_sample,  # type: ignore[arg-type]
        timestep_spacing="trailing",  # the first step starts from pure noise (Lin et al. 2024)
    )  # fmt: skip


def measure_latents(vae: AutoencoderKL, moments: np.ndarray) -> None:
    """Set the autoencoder's `scaling_factor` so that scaled latents have unit variance."""
    chosen = np.linspace(0, len(moments) - 1, min(len(moments), MEASURED)).astype(int)
    mean, logvar = np.split(np.asarray(moments[chosen], np.float32), 2, axis=1)
    vae.register_to_config(scaling_factor=round(float(1 / np.sqrt(mean.var() + np.exp(logvar).mean())), 4))


def run(config: Config, options: EvaluationOptions) -> None:
    """Generate and score pictures; write report.json, report.md and samples.png. An interrupted run continues."""
    model, device = runtime.find_checkpoint(options.checkpoint, config, SHIPPED), runtime.pick_device(options.device)
    checkpoint.check_folder(Path(model), "StableDiffusionPipeline")
    pipe = _pipeline_class().from_pretrained(model, safety_checker=None).to(device)  # float32
    pipe.set_progress_bar_config(disable=True)
    folder = runtime.make_folder(options.output_dir)
    tests = scenes_with_files(config.miniworld, options.num_samples, None, folder / "real")
    captions, kinds, real = tests.captions, tests.labels, tests.pictures
    prompts = {uid: f"a photo of {NAMES[kind]}" for uid, kind in kinds.items()}

    settings = {  # everything that determines a picture, besides its caption
        "weights": weights_version(model),
        "num_steps": options.num_steps or NUM_STEPS,
        "guidance_scale": GUIDANCE_SCALE if options.guidance_scale is None else options.guidance_scale,
        "seed": options.seed,
    }
    inputs = dict.fromkeys(captions, "the real picture")

    def generate_all(name: str, texts: dict[str, str]) -> dict[str, Path]:
        make = partial(generate, pipe, settings, texts)
        return generate_files(folder / name, texts, settings, make, batch_size=options.batch_size, seed=options.seed)

    generated, prompted = generate_all("generated", captions), generate_all("prompted", prompts)
    make, weights = partial(reconstruct, pipe, real), {"weights": settings["weights"]}
    more: dict[str, Any] = {"batch_size": options.batch_size, "title": "reconstruct"}
    rebuilt = generate_files(folder / "reconstructed", inputs, weights, make, **more)

    asked = [f"{uid}: {text}" for uid, text in captions.items()]
    versions = [*judges.versions(judges.PICTURE_JUDGE), *EMBEDDERS]
    conditions = measurement_conditions(versions, asked, len(asked), seed=options.seed, world=WORLD)
    report = Report(conditions, facts=settings | {"model": model, "captions": len(captions)})
    made, pixels, real_pixels = (judges.load_pixels(list(some.values())) for some in (generated, rebuilt, real))
    judges.add_picture_shares(report, tests.scenes, made, {"VAE": pixels, "real": real_pixels})
    if kinds:
        pixels = judges.load_pixels(list(prompted.values()))
        share = judges.picture_shares(pixels, [scene for scene in tests.scenes if scene.uid in kinds])["single"]
        report.add_share('right kind of picture, "a photo of ..."', share, judges.CHANCE["single"], headline=True)
    samples, embedders = Samples(PICTURE, generated, real, captions, kinds), load_all(EMBEDDERS, pipe.device)
    add_scores(report, samples, embedders, folder / EMBEDDINGS, options.batch_size)

    columns = {"real": real, "VAE": rebuilt, "generated": generated}
    rows = list(captions)[:ROWS]
    pictures = [[open_image(files[uid]) for uid in rows] for files in columns.values()]
    picture_grid(folder / "samples.png", pictures, list(columns), [captions[uid] for uid in rows])
    finish(report, folder, ["samples.png"])


def generate(
    pipe: "StableDiffusionPipeline", settings: dict[str, Any], texts: dict[str, str], uids: list[str], seeds: list[int]
) -> list[Image.Image]:
    """Generate one picture for each Uid from its text."""
    made: Any = pipe(
        [texts[uid] for uid in uids], num_inference_steps=settings["num_steps"],
        guidance_scale=settings["guidance_scale"], generator=sampling.generators(seeds), output_type="np",
    )  # fmt: skip
    if not np.isfinite(made.images).all():
        raise UserError(f"{pipe.name_or_path}: generated NaN for {uids[0]} or another picture of its batch")
    return pipe.numpy_to_pil(made.images)


@torch.no_grad()
def reconstruct(pipe: "StableDiffusionPipeline", real: Files, uids: list[str], seeds: list[int]) -> list[Image.Image]:
    """Encode and decode real pictures: the upper bound of the latent model."""
    pixels = judges.load_pixels([real[uid] for uid in uids]).to(pipe.device)                 # (B, 3, H, W)
    rebuilt = pipe.vae.decode(pipe.vae.encode(2 * pixels - 1).latent_dist.mode()).sample / 2  # (B, 3, H, W)
    return pipe.numpy_to_pil((rebuilt + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
