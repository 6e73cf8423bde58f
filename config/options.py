"""Groups of flags that recipes share. A recipe inherits the groups it has a use for and adds flags of its own.

The config module of a recipe declares `InferenceOptions`, `EvaluationOptions`, `PreprocessOptions`, `TrainOptions` or
`FinetuneOptions`; where it declares no `PreprocessOptions` or `TrainOptions`, those of this file are its own, and where
it declares none of the others the recipe has no such command.
"""

from dataclasses import dataclass
from pathlib import Path

from sonolume.utils.errors import UserError
from sonolume.utils.options import LARGEST_SEED, Options, option


@dataclass(kw_only=True)
class ModelOptions(Options):
    """Which model runs where."""

    checkpoint: str | None = option(
        help="exported pipeline folder or hub id (default: this run's, else the shipped miniature one)",
        metavar="FOLDER_OR_ID",
    )
    device: str = option("auto", help="auto, cpu, cuda, cuda:1, mps", metavar="NAME")


@dataclass(kw_only=True)
class OutputOptions(Options):
    """Where the results of inference go, and their precision."""

    output_dir: Path = option(Path("outputs"), help="folder of the results", metavar="FOLDER")
    dtype: str = option("float32", help="precision of the networks", choices=("float32", "bfloat16", "float16"))


@dataclass(kw_only=True)
class SamplingOptions(Options):
    """How a diffusion model samples."""

    seed: int = option(0, help="seed of the first sample; the next ones count on from it", low=0, high=LARGEST_SEED - 1)
    num_steps: int | None = option(help="denoising steps (default: the preset's)", low=1, metavar="N")
    guidance_scale: float | None = option(
        help="how closely to follow the input; 1 is no guidance (default: the model's)", metavar="SCALE"
    )
    preset: str | None = option(help="reference, balanced or fast (default: balanced)", metavar="NAME")
    batch_size: int = option(4, help="samples made at once", low=1, metavar="N")


@dataclass(kw_only=True)
class GenerationOptions(SamplingOptions):
    """Sampling for its own sake: several samples, another sampler, an unwanted text."""

    num_samples: int = option(1, help="samples of each input", low=1, metavar="N")
    negative_text: str = option("", help="what should not be in the result", metavar="TEXT")
    scheduler: str | None = option(
        help="sampler instead of the preset's: ddim, pndm, dpm++, euler, unipc, deis ...", metavar="NAME"
    )


@dataclass(kw_only=True)
class ReportOptions(ModelOptions):
    """What is measured, and where the report goes."""

    output_dir: Path = option(
        Path("evaluation"), help="folder of the report (default: evaluation/TASK_RECIPE)", metavar="FOLDER"
    )
    num_samples: int = option(600, help="captions or clips to score", low=1, metavar="N")


@dataclass(kw_only=True)
class FolderOptions(Options):
    """Score files that are there already, instead of generating."""

    generated: Path | None = option(
        help="score these sounds or pictures instead of generating", metavar="FOLDER", must_exist=True
    )
    reference: Path | None = option(
        help="real sounds or pictures to compare with", metavar="FOLDER_OR_MANIFEST", must_exist=True
    )


@dataclass(kw_only=True)
class EmbedderOptions(Options):
    """The frozen feature extractors that score."""

    embedder: list[str] = option(
        help="feature extractor used for scoring, such as clap:laion/clap-htsat-unfused; may be given several times",
        metavar="KIND:SOURCE",
    )
    cache_dir: Path | None = option(help="folder of cached features (default: in the output folder)", metavar="FOLDER")


@dataclass(kw_only=True)
class PreprocessOptions(Options):
    """Where the raw files are."""

    input: Path | None = option(
        help="recordings: a folder with captions in text files, a csv, json or jsonl manifest, or AudioCaps",
        metavar="FOLDER_OR_MANIFEST",
        must_exist=True,
    )
    audio_dir: Path | None = option(
        help="folder of the sound files that --input names, if it is another one", metavar="FOLDER", needs=("input",)
    )
    dataset: str | None = option(help="name of the prepared data (default: the config's first)", metavar="NAME")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.audio_dir is not None and not self.audio_dir.is_dir():
            raise UserError(f"--audio_dir {self.audio_dir}: no such folder")


@dataclass(kw_only=True)
class TrainOptions(Options):
    """How training starts."""

    resume: bool = option(help="continue the run from checkpoints/last.ckpt")
