"""Where things are. Paths in a config are relative to the repository root, paths in flags to the working directory."""

from pathlib import Path


def root() -> Path:
    """The checkout that holds this file, or the working directory when sonolume was installed as a wheel."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "egs").is_dir() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """A path from a config as an absolute one: relative to `root()`, with `~` expanded; an absolute path stays."""
    return root() / Path(path).expanduser()
