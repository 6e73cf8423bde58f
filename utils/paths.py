"""Locations. Paths in a config are relative to the repository root, paths in flags to the working directory."""

from pathlib import Path


def root() -> Path:
    """The checkout of this file, or the working directory if sonolume was installed as a wheel."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "egs").is_dir() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """Make a path from a config absolute: relative to `root()`, with `~` expanded."""
    return root() / Path(path).expanduser()
