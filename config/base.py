"""Sections shared by several recipes. A dataclass is both the schema of a config file and its default values."""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Self

from omegaconf import MISSING

from sonolume.utils import paths
from sonolume.utils.errors import ConfigError

LRSchedule = StrEnum("LRSchedule", ["constant", "cosine", "linear"])
Storage = StrEnum("Storage", ["files", "shards"])
Engine = StrEnum("Engine", ["local", "ray"])
LoraTarget = StrEnum("LoraTarget", ["attention", "feedforward", "convolution", "projection", "time"])

LARGEST_SIZE = 2**16  # of a whole number that has no other limit, such as channels
MOST_LAYERS = 256  # of a network
MOST_BLOCKS = 2048  # of one kind in a network whose config multiplies several numbers of them
# Lightning's names
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "32", "bf16", "16", "64")
MOST_STEPS = 10**12  # optimizer steps, and what is counted in them
MOST_SCENES = 10**6  # of the miniature world
MOST_WORKERS = 256  # processes
LARGEST_SEED = 2**32 - 1  # the generator of a step takes its product with the number of the step, in 64 bits
LONGEST = 2**24  # samples of one item
LONGEST_MEL = 2**17  # frames of one item; more than half an hour
LONGEST_SECONDS = 86_400  # of a clip
MOST_BANDS = 1024  # of a mel spectrogram
MODEL_PARALLEL = "model_parallel"  # strategy: fully sharded data parallelism (FSDP2)


class CacheFeatures(StrEnum):
    """Storage of what a frozen network computes from the training data."""

    auto = "auto"  # on disk, unless it is larger than `cache_limit`; else computed in each step
    always = "always"  # on disk
    never = "never"  # computed in each step


class Strict:
    """Base of every section: checks of its values. `key` is the dotted path of the section in the file."""

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ConfigError(message)

    def check_range(self, key: str, minimum: float, *names: str, maximum: float = LARGEST_SIZE) -> None:
        """Check a number, or every number of a list; `maximum` is that of whole numbers."""
        for name in names:
            given = getattr(self, name)
            for value in given if isinstance(given, list) else [given]:
                self.require(value >= minimum, f"{key}.{name} must be at least {minimum}, got {value}")
                valid = isinstance(value, float) or value <= maximum
                self.require(valid, f"{key}.{name} must be at most {maximum}, got {value}")

    def fraction(self, key: str, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self.require(0 <= value < 1, f"{key}.{name} must be at least 0 and below 1, got {value}")

    def divisible(self, key: str, name: str, *divisors: str) -> None:
        """Check that a number, or every number of a list, is positive and a multiple of other fields."""
        given = getattr(self, name)
        for value in given if isinstance(given, list) else [given]:
            for divisor in divisors:
                size = getattr(self, divisor)
                valid = value > 0 and value % size == 0
                self.require(valid, f"{key}: {name} {value} is not divisible by {divisor} {size}")


@dataclass
class AdamConfig(Strict):
    lr: float = 5e-5  # learning rate after warm-up
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # decay of the two moments
    weight_decay: float = 0.01  # decoupled (AdamW)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self.require(self.lr > 0, f"train.adam.lr must be above 0, got {self.lr}")
        valid = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        self.check_range("train.adam", 0, "weight_decay", "eps")
        self.require(valid, f"train.adam.betas must be two numbers in [0, 1), got {self.betas}")


@dataclass
class TrainConfig(Strict):
    adam: AdamConfig = field(default_factory=AdamConfig)
    batch_size: int = 12  # items of one forward pass on one device
    max_steps: int = 1_000_000  # optimizer steps (of the model; a GAN's discriminator is not counted)
    dataset_weights: list[float] = field(default_factory=list)  # share of each entry of `dataset`; [] = concatenated
    random_seed: int = 12345  # seeds the weights, the order of items and the noise
    save_summary_steps: int = 1000  # optimizer steps between two log entries
    save_checkpoints_steps: int = 5000  # optimizer steps between two saves of last.ckpt
    valid_interval: int = 5000  # optimizer steps between two validations
    valid_batches: int = 0  # batches of one validation; 0 = all
    num_workers: int = 2  # data loading processes; 0 = the main process
    num_threads: int = 0  # CPU threads of torch; 0 = torch's choice
    accelerator: str = "auto"  # Lightning: auto, cpu, gpu, mps ...
    devices: str = "auto"  # Lightning: auto, a count, or a list such as "0,1"
    num_nodes: int = 1  # number of machines, started by torchrun or SLURM
    strategy: str = "auto"  # Lightning: auto, ddp ...; model_parallel splits the weights over all devices (FSDP2)
    timeout: float = 1800.0  # seconds that processes wait for one that does not answer; then the run ends
    precision: str = "32-true"  # Lightning: 32-true, bf16-mixed, 16-mixed, bf16-true, 16-true or 64-true
    accumulate: int = 1  # batches per optimizer step
    gradient_clip: float = 0.0  # largest gradient norm; 0 = off
    warmup_steps: int = 0  # optimizer steps of linear warm-up
    lr_schedule: LRSchedule = LRSchedule.constant  # after warm-up; at max_steps cosine ends at 0, linear at final_lr
    final_lr: float = 0.0  # learning rate at the end of a linear schedule
    ema_decay: float = 0.0  # exponential moving average of the weights, per optimizer step; 0 = off
    compile: bool = False  # torch.compile the network

    def __post_init__(self) -> None:
        steps = ("max_steps", "save_summary_steps", "save_checkpoints_steps", "valid_interval")
        self.check_range("train", 1, *steps, maximum=MOST_STEPS)
        self.check_range("train", 0, "warmup_steps", "valid_batches", maximum=MOST_STEPS)
        self.check_range("train", 1, "batch_size", "num_nodes", "accumulate")
        self.check_range("train", 0, "num_workers", "num_threads", maximum=MOST_WORKERS)
        self.check_range("train", 0, "random_seed", maximum=LARGEST_SEED)
        self.check_range("train", 0, "gradient_clip", "final_lr")
        self.require(0 < self.timeout <= LONGEST_SECONDS, f"train.timeout must be in (0, {LONGEST_SECONDS}] seconds, "
                                                          f"got {self.timeout}")  # fmt: skip
        order = f"train.final_lr {self.final_lr:g} must be at most train.adam.lr {self.adam.lr:g}"
        self.require(self.final_lr <= self.adam.lr, order)
        self.fraction("train", "ema_decay")
        valid = all(weight > 0 for weight in self.dataset_weights)
        self.require(valid, f"train.dataset_weights must be above 0, got {self.dataset_weights}")
        known = self.precision in PRECISIONS
        self.require(known, f"train.precision {self.precision!r} is none of {', '.join(PRECISIONS)}")
        is_spawned = "spawn" in self.strategy  # whose processes cannot be given the task
        self.require(not is_spawned, f"train.strategy {self.strategy} is not supported: choose ddp or ddp_fork")


@dataclass
class MiniworldConfig(Strict):
    train_scenes: int = 0  # generated training scenes; 0 = use the recordings of `dataset`
    valid_scenes: int = 0  # generated validation scenes
    kinds: list[str] = field(default_factory=list)  # kinds of sound; [] = all
    pairs: bool = True  # include scenes of two events
    seed: int = 1  # seed of the scenes
    captions_per_scene: int = 3  # captions of each scene

    def __post_init__(self) -> None:
        self.check_range("preprocess.miniworld", 0, "train_scenes", "valid_scenes", maximum=MOST_SCENES)
        self.check_range("preprocess.miniworld", 0, "seed", maximum=LARGEST_SEED)
        self.check_range("preprocess.miniworld", 1, "captions_per_scene", maximum=100)
        self.require(len(set(self.kinds)) == len(self.kinds), "preprocess.miniworld.kinds: names a kind twice")


@dataclass
class DataConfig(Strict):
    """Prepared data sets: {processed_dir}/{dataset} holds the manifests and what the recipe computes from raw files."""

    processed_dir: str = "data"  # folder of all data sets
    train_file: str = "train.json"  # manifest inside a data set
    valid_file: str = "valid.json"  # manifest inside a data set
    sample_rate: int = 16000  # Hz
    valid_fraction: float = 0.05  # share of validation Uids if the source has no splits
    num_workers: int = 2  # processes that read files and compute features
    engine: Engine = Engine.local  # of shards and --features: local = num_workers processes, ray = Ray Data
    ray_address: str = ""  # of a Ray cluster, such as auto; empty = start Ray on this machine
    miniworld: MiniworldConfig = field(default_factory=MiniworldConfig)  # synthetic data of the miniature world

    def __post_init__(self) -> None:
        self.check_range("preprocess", 1, "sample_rate", maximum=768_000)
        self.check_range("preprocess", 0, "num_workers", maximum=MOST_WORKERS)
        self.fraction("preprocess", "valid_fraction")


@dataclass
class SoundsConfig(DataConfig):
    """Prepared sounds: {processed_dir}/{dataset} holds {audio_dir}/{Uid}.wav."""

    audio_dir: str = "audio"  # inside a data set
    seconds: float = 10.0  # longest part of a clip that is kept
    min_seconds: float = 1.0  # shorter clips are left out

    def __post_init__(self) -> None:
        super().__post_init__()
        order = f"0 < min_seconds {self.min_seconds:g} <= seconds {self.seconds:g} <= {LONGEST_SECONDS}"
        self.require(0 < self.min_seconds <= self.seconds <= LONGEST_SECONDS, f"preprocess: {order} does not hold")


@dataclass
class PreprocessConfig(DataConfig):
    """Mel-spectrograms, stored as {processed_dir}/{dataset}/{melspec_dir}/{Uid}.npy."""

    melspec_dir: str = "mel"  # inside a data set
    wav_dir: str = "wav"  # inside a data set
    n_fft: int = 1024  # samples
    win_size: int = 1024  # samples of the periodic Hann window
    hop_size: int = 256  # samples between frames
    n_mel: int = 80  # Slaney mel bands
    fmin: float = 0.0  # Hz
    fmax: float = 8000.0  # Hz
    frames: int = 624  # frames of one item; shorter clips are padded with silence
    windows: int = 1  # largest number of consecutive items from one clip
    storage: Storage = Storage.files  # of mels: files = one for each clip, shards = one for many
    shard_rows: int = 10_000  # clips of one shard
    keep_mels: bool = True  # false: mels in shards are not stored, where only latents are computed from them
    shuffle_seed: int = 0  # seed of the order in which clips are distributed over shards; 0 = that of the manifest

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("preprocess", 1, "n_fft", "win_size", "hop_size", "windows")
        self.check_range("preprocess", 1, "n_mel", maximum=min(self.n_fft // 2 + 1, MOST_BANDS))
        self.check_range("preprocess", 1, "frames", maximum=LONGEST_MEL)
        self.check_range("preprocess", 1, "shard_rows", maximum=MOST_SCENES)
        self.check_range("preprocess", 0, "shuffle_seed", maximum=LARGEST_SEED)
        self.check_range("preprocess", 0, "fmin")
        sizes = f"hop_size {self.hop_size} <= win_size {self.win_size} <= n_fft {self.n_fft}"
        self.require(self.hop_size <= self.win_size <= self.n_fft, f"preprocess: {sizes} does not hold")
        band = f"fmin {self.fmin} < fmax {self.fmax} <= half of sample_rate {self.sample_rate}"
        self.require(self.fmin < self.fmax <= self.sample_rate / 2, f"preprocess: {band} does not hold")

    @property
    def duration(self) -> float:
        """Duration of one item in seconds."""
        return self.frames * self.hop_size / self.sample_rate


@dataclass
class LoraConfig(Strict):
    """Low-rank adapters of a frozen U-Net (LoRA, Hu et al. 2021)."""

    rank: int = 16  # rank of every adapter; a higher one learns more and makes a bigger file
    alpha: float = 16.0  # adapters are multiplied by alpha / rank
    targets: list[LoraTarget] = field(default_factory=lambda: [LoraTarget.attention])  # layers that get adapters

    def __post_init__(self) -> None:
        self.check_range("model.lora", 1, "rank")
        self.require(self.alpha > 0, f"model.lora.alpha must be above 0, got {self.alpha}")
        self.require(len(self.targets) > 0, "model.lora.targets must not be empty")


@dataclass
class EvaluationConfig(Strict):
    """Samples generated and scored during training: the curves eval/... in TensorBoard."""

    num_samples: int = 0  # validation clips whose captions are generated; 0 = off
    interval: int = 1  # evaluate at every n-th validation
    embedders: list[str] = field(default_factory=lambda: ["mel:"])  # each KIND:SOURCE, like --embedder of run_eval.sh
    references: int = 1000  # validation clips in the reference set of the Frechet distance; 0 = all
    num_steps: int = 0  # denoising steps; 0 = the pipeline's default
    guidance_scale: float = 0.0  # classifier-free guidance; 0 = the pipeline's default
    batch_size: int = 16  # samples generated, and clips embedded, at once

    def __post_init__(self) -> None:
        self.check_range("evaluation", 0, "num_samples", "references", maximum=MOST_SCENES)
        self.check_range("evaluation", 0, "num_steps", "guidance_scale")
        self.check_range("evaluation", 1, "interval", "batch_size")
        message = f"evaluation.embedders must name at least one, because num_samples is {self.num_samples}"
        self.require(not self.num_samples or len(self.embedders) > 0, message)


@dataclass
class RunConfig(Strict):
    """The top level of every recipe."""

    recipe: str = MISSING  # TASK/RECIPE of the schema and the model
    exp_name: str = MISSING  # folder name of the run
    log_dir: str = "ckpts"  # folder of all runs
    dataset: list[str] = MISSING  # data sets in preprocess.processed_dir, concatenated

    def __post_init__(self) -> None:
        valid = self.exp_name not in ("", ".", "..") and "/" not in self.exp_name
        self.require(valid, f"exp_name must be the name of a folder in log_dir, got {self.exp_name!r}")
        train: TrainConfig | None = getattr(self, "train", None)
        weights = train.dataset_weights if train else []
        found = f"train.dataset_weights: has {len(weights)} numbers for {len(self.dataset)} entries of dataset"
        self.require(not weights or len(weights) == len(self.dataset), found)

    @property
    def run_dir(self) -> Path:
        """The folder of this run, with config.json, checkpoints/, tensorboard/ and pipeline/."""
        return paths.resolve(self.log_dir) / self.exp_name

    def of_dataset(self, dataset: str) -> Self:
        """This config with a single data set, and so without weights of several."""
        changes: dict[str, Any] = {"dataset": [dataset]}
        if train := getattr(self, "train", None):
            changes["train"] = replace(train, dataset_weights=[])
        return replace(self, **changes)

    def to_dict(self) -> Any:
        """All values, of which JSON can be read by `load_config`."""
        return _plain(self)


def _plain(value: Any) -> Any:
    """Turn sections into dictionaries and options into their names, 80 times as fast as `OmegaConf.to_container`."""
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.name if isinstance(value, Enum) else value
