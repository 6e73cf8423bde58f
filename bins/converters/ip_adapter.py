"""IP-Adapter."""

from dataclasses import dataclass
from pathlib import Path

from sonolume.config.audio_to_image import PLACEHOLDER, STABLE_DIFFUSION
from sonolume.config.options import Options, option
from sonolume.utils.errors import UserError


@dataclass(kw_only=True)
class IPAdapterOptions(Options):
    encoder: str = option(
        help="exported folder or hub id of a speech encoder, stage 1 of s2i/wavy", metavar="ENCODER_FOLDER",
        positional=True,
    )  # fmt: skip
    folder: Path = option(help="new folder with the head", metavar="FOLDER", positional=True, is_output=True)
    ip_adapter: str = option(
        "h94/IP-Adapter", help="IP-Adapter for the same Stable Diffusion, of the image encoder that the speech encoder "
        "was trained against: a .safetensors or .bin file, or a folder or hub id with models/ip-adapter_sd15.*",
        metavar="FILE_OR_ID",
    )  # fmt: skip
    stable_diffusion: str = option(
        STABLE_DIFFUSION[768], help="Stable Diffusion of the IP-Adapter", metavar="FOLDER_OR_ID"
    )
    images: Path | None = option(
        help="folder of pictures, on which the mean length of the image encoder's vectors is measured (default: as "
        "measured in the training of the speech encoder)", metavar="FOLDER", must_exist=True,
    )  # fmt: skip
    prompt: str = option(PLACEHOLDER, help=f"default prompt, with {PLACEHOLDER} for the speech", metavar="TEXT")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt.count(PLACEHOLDER) != 1:
            raise UserError(f"--prompt must contain {PLACEHOLDER} once, got {self.prompt!r}")


def speech_ip_adapter(options: IPAdapterOptions) -> None:
    """A trained speech encoder and an IP-Adapter (experimental) -> a folder for run_inference.sh --checkpoint."""
    from sonolume.models.convert import ip_adapter  # slow: imports torch

    ip_adapter.convert(
        options.encoder, options.folder, options.ip_adapter, options.stable_diffusion, options.images, options.prompt
    )
