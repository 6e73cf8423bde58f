"""Flags that every audio-to-image recipe shares; a recipe inherits them in its own config module."""

from dataclasses import dataclass
from pathlib import Path

from sonolume.config import options
from sonolume.utils.errors import UserError
from sonolume.utils.options import option

PLACEHOLDER = "<*>"  # stands for the sound in a prompt


@dataclass(kw_only=True)
class PreprocessOptions(options.PreprocessOptions):
    """Where the raw videos, or sounds with pictures, are."""

    input: Path | None = option(
        help="a folder of videos, VGGSound, or a csv, json or jsonl manifest of sounds with pictures or of videos",
        metavar="FOLDER_OR_MANIFEST",
        must_exist=True,
    )


@dataclass(kw_only=True)
class InferenceOptions(options.GenerationOptions, options.OutputOptions, options.ModelOptions):
    """Flags of run_inference.sh."""

    audio: list[Path] = option(
        help="sound file, video with sound, or folder of them; may be given several times", metavar="PATH"
    )
    prompt: str | None = option(
        help=f"words around the sound, with {PLACEHOLDER} in its place (default: the model's)", metavar="TEXT"
    )
    text: list[str] = option(
        help="text to mix into the conditioning, see --mix; each further --text makes a further picture",
        metavar="TEXT",
    )
    mix: float = option(
        0.5, help="weight of --text: 0 is the sound alone, 1 the text alone",
        metavar="WEIGHT", low=0, high=1, needs=("text",),
    )  # fmt: skip
    audio_strength: float = option(
        1.0, help="weight of the sound in the prompt, up to 2: 0 is no sound, 1 is as trained",
        metavar="WEIGHT", low=0, high=2,
    )  # fmt: skip
    together: bool = option(help=f"combine all sounds in one picture; needs a --prompt with one {PLACEHOLDER} for each")
    window: float | None = option(
        help="make a storyboard: one picture for each window of this length",
        metavar="SECONDS",
        low=0.1,
        high=3600,
        unit="s",
    )
    hop: float | None = option(
        help="seconds from one --window to the next (default: the window)",
        metavar="SECONDS", low=0.1, high=3600, unit="s", needs=("window",),
    )  # fmt: skip
    stable_diffusion: str | None = option(
        help="Stable Diffusion that makes the pictures (default: the one used in training)", metavar="FOLDER_OR_ID"
    )
    no_safety_checker: bool = option(help="do not run the safety checker of --stable_diffusion")
    init_image: Path | None = option(help="picture to start from, instead of noise", metavar="FILE", must_exist=True)
    strength: float | None = option(
        help="how much of --init_image to replace, above 0 to 1 (default: 0.8)",
        metavar="SHARE", above=0, high=1, needs=("init_image",),
    )  # fmt: skip
    height: int | None = option(
        help="height of the pictures, a multiple of 8 (default: the model's)",
        metavar="PIXELS", low=16, high=4096, multiple=8, unit="px",
    )  # fmt: skip
    width: int | None = option(
        help="width of the pictures, a multiple of 8 (default: the model's)",
        metavar="PIXELS", low=16, high=4096, multiple=8, unit="px",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None and PLACEHOLDER not in self.prompt:
            raise UserError(f'--prompt "{self.prompt}" has no {PLACEHOLDER}: write it where the sound belongs')
        if self.together and self.window is not None:
            raise UserError("--together makes one picture of all sounds, --window several of each: choose one of them")
        if any(not text.strip() for text in self.text):
            raise UserError("--text is empty: describe what the picture should show besides the sound")


@dataclass(kw_only=True)
class EvaluationOptions(options.ReportOptions, options.SamplingOptions, options.FolderOptions, options.EmbedderOptions):
    """Flags of run_eval.sh."""

    batch_size: int = 16
    text_to_audio: str | None = option(
        help="round trip: generate the sounds from captions with this text-to-audio pipeline", metavar="FOLDER_OR_ID"
    )
    captions: Path | None = option(
        help="manifest with the captions of the round trip (default: the captions of the test pairs)",
        metavar="FILE", must_exist=True, needs=("text_to_audio",),
    )  # fmt: skip
