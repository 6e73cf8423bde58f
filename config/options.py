"""Groups of flags that several recipes share; a recipe inherits the groups it uses and adds flags of its own.

The config module of a recipe declares `InferenceOptions`, `EvaluationOptions` and `FinetuneOptions`; without a class it
lacks that command. `PreprocessOptions` and `TrainOptions` below serve every recipe that does not declare its own.
"""

from dataclasses import dataclass
from pathlib import Path

from sonolume.utils.errors import UserError
from sonolume.utils.options import LARGEST_SEED, Options, option


@dataclass(kw_only=True)
class ModelOptions(Options):
    """The model and its device."""

    checkpoint: str | None = option(
        help="folder or hub id of an exported model (default: that of this config's run, else the shipped one)",
        metavar="FOLDER_OR_ID",
    )
    device: str = option("auto", help="auto, cpu, cuda, cuda:1, mps", metavar="NAME")


@dataclass(kw_only=True)
class OutputOptions(Options):
    """Folder and precision of inference."""

    output_dir: Path = option(Path("outputs"), help="folder of the results", metavar="FOLDER")
    dtype: str = option("float32", help="precision of the networks", choices=("float32", "bfloat16", "float16"))


@dataclass(kw_only=True)
class ReconstructionOptions(ModelOptions, OutputOptions):
    """Inference of a model that reconstructs sounds."""

    audio: list[Path] = option(
        help="sound file, video with sound, or folder of them to reconstruct; may be given several times",
        metavar="PATH",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.audio:
            raise UserError("--audio FILE_OR_FOLDER is missing")


@dataclass(kw_only=True)
class SamplingOptions(Options):
    """Sampling from a diffusion model."""

    seed: int = option(0, help="seed of the noise", metavar="N", low=0, high=LARGEST_SEED - 1)
    num_steps: int | None = option(help="denoising steps (default: the preset's)", low=1, metavar="N")
    guidance_scale: float | None = option(
        help="strength of classifier-free guidance; 1 is no guidance (default: the model's)", metavar="SCALE"
    )
    preset: str | None = option(
        help="sampler and number of steps: reference, balanced or fast (default: the model's own)", metavar="NAME"
    )
    batch_size: int = option(4, help="samples generated at once", low=1, metavar="N")


@dataclass(kw_only=True)
class GenerationOptions(SamplingOptions):
    """Sampling for inference: several samples, another sampler, a negative prompt."""

    num_samples: int = option(1, help="samples of each input, from seed, seed + 1, seed + 2 ...", low=1, metavar="N")
    negative_text: str = option("", help="description of what the result should not contain", metavar="TEXT")
    scheduler: str | None = option(
        help="sampler instead of the preset's: ddim, pndm, dpm++, euler, unipc, deis; for flow: flow-euler, flow-unipc",
        metavar="NAME",
    )


@dataclass(kw_only=True)
class ReportOptions(ModelOptions):
    """Size and folder of a report."""

    output_dir: Path = option(Path("evaluation/TASK_RECIPE"), help="folder of the report", metavar="FOLDER")
    num_samples: int = option(600, help="maximum number of captions or clips to score", low=1, metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_dir.exists() and not self.output_dir.is_dir():
            raise UserError(f"--output_dir {self.output_dir}: is a file: name a folder")


@dataclass(kw_only=True)
class EmbedderOptions(Options):
    """Frozen feature extractors used for scoring."""

    embedder: list[str] = option(
        help="feature extractor used for scoring, such as clap:laion/clap-htsat-unfused; may be given several times",
        metavar="KIND:SOURCE",
    )
    cache_dir: Path | None = option(help="folder of cached features (default: in the output folder)", metavar="FOLDER")


@dataclass(kw_only=True)
class FolderOptions(EmbedderOptions):
    """Existing files to score instead of generating."""

    generated: Path | None = option(
        help="folder of sounds or pictures to score; nothing is generated", metavar="FOLDER", must_exist=True
    )
    reference: Path | None = option(
        help="real sounds or pictures to compare with", metavar="FOLDER_OR_MANIFEST", must_exist=True
    )


@dataclass(kw_only=True)
class PreprocessOptions(Options):
    """Raw files to prepare."""

    input: Path | None = option(
        help="recordings: a folder with captions in text files, a csv, json or jsonl manifest, or AudioCaps "
        "(default: the config's synthetic scenes, else {processed_dir}/{dataset}/raw)",
        metavar="FOLDER_OR_MANIFEST",
        must_exist=True,
    )
    audio_dir: Path | None = option(
        help="folder of the sound files named by --input (default: the folder of --input)", metavar="FOLDER",
        needs=("input",),
    )  # fmt: skip
    dataset: str | None = option(
        help="name of the prepared data set (default: the first `dataset` of the config)", metavar="NAME"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.audio_dir is not None and not self.audio_dir.is_dir():
            raise UserError(f"--audio_dir {self.audio_dir}: no such folder")


@dataclass(kw_only=True)
class TrainOptions(Options):
    """Start of a training run."""

    resume: bool = option(help="continue the run from checkpoints/last.ckpt")
