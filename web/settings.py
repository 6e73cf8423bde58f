"""Flags of `sonolume web`. Imports no gradio, so that `--help` and every mistake are answered at once."""

import stat
from dataclasses import dataclass
from pathlib import Path

from sonolume.config.load import recipes
from sonolume.config.options import Options, check_device, option
from sonolume.utils import paths
from sonolume.utils.errors import UserError
from sonolume.utils.files import read_text

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(kw_only=True)
class Settings(Options):
    """Flags of run_web.sh."""

    host: str = option(
        "127.0.0.1", help="address to listen on; 0.0.0.0 lets other computers connect", metavar="ADDRESS"
    )
    port: int = option(7860, help="port to listen on", metavar="N", low=1, high=65535)
    root_path: str = option(
        "", help="path under which a proxy serves the app, such as /sound; needed behind a proxy only", metavar="PATH"
    )
    allowed_host: list[str] = option(
        help="name by which browsers call this server, such as sounds.example.org; may be given several times "
        "(default: any with --host 0.0.0.0, else localhost only)", metavar="NAME",
    )  # fmt: skip
    share: bool = option(
        help="also open a public address through Gradio's servers; needs --auth_file", needs=("auth_file",)
    )
    auth_file: Path | None = option(
        help="file with a line user:password for each user who may log in (mode 600)", metavar="FILE", must_exist=True
    )
    checkpoint: list[str] = option(
        help="model of one recipe, such as tta/audioldm=my/pipeline; may be given several times (default: that of the "
        "recipe's run, else the shipped one)", metavar="RECIPE=FOLDER_OR_ID",
    )  # fmt: skip
    device: str = option("auto", help="device of the models: auto, cpu, cuda, cuda:1, mps", metavar="NAME")
    dtype: str = option("float32", help="precision of the models", choices=("float32", "bfloat16", "float16"))
    evaluations: Path = option(Path("evaluation"), help="folder of the reports to show", metavar="FOLDER")
    max_upload_mb: int = option(25, help="largest upload in megabytes", metavar="MB", low=1, high=10_000)
    max_seconds: float = option(
        60.0, help="longest sound or video that is read or generated", metavar="SECONDS", above=0, high=600, unit="s"
    )
    max_minutes: float = option(
        10.0, help="longest time of one generation, which is then ended", metavar="MINUTES", above=0, unit="minutes"
    )
    max_queue: int = option(8, help="generations that may wait; others are refused", metavar="N", low=1, high=1000)
    no_browser: bool = option(help="do not open a browser window")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise UserError(f"--root_path {self.root_path}: write it like /sound")
        if self.share and self.auth_file is None:
            raise UserError("--share opens the app to everybody: it needs --auth_file")
        self.users()
        self.checkpoints()

    @property
    def is_public(self) -> bool:
        """Test whether other computers can connect."""
        return self.share or self.host not in LOOPBACK

    def users(self) -> list[tuple[str, str]]:
        """Read the names and passwords of --auth_file; empty without the flag.

        Raises:
            UserError: a line is not user:password, or other users of this computer can read the file.
        """
        if self.auth_file is None:
            return []
        if stat.S_IMODE(self.auth_file.stat().st_mode) & 0o077:
            raise UserError(f"--auth_file {self.auth_file}: others can read it: chmod 600 {self.auth_file}")
        lines = read_text(self.auth_file, "users and passwords").splitlines()
        pairs = [tuple(line.strip().split(":", 1)) for line in lines if line.strip()]
        for number, pair in enumerate(pairs, 1):
            if len(pair) != 2 or not all(pair):
                raise UserError(f"--auth_file {self.auth_file}: entry {number} is not written as user:password")
        if not pairs:
            raise UserError(f"--auth_file {self.auth_file}: has no users: write a line user:password for each")
        return [(name, password) for name, password in pairs]

    def checkpoints(self) -> dict[str, str]:
        """Model of each recipe that --checkpoint names.

        Raises:
            UserError: no such recipe, or no such folder.
        """
        found = {}
        for one in self.checkpoint:
            recipe, _, source = one.partition("=")
            if recipe not in recipes() or not source:
                known = ", ".join(recipes())
                raise UserError(f"--checkpoint {one}: write RECIPE=FOLDER_OR_ID with a recipe of {known}")
            found[recipe] = paths.locate(source, f"--checkpoint {recipe}", flag=True)
        return found
