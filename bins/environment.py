"""Message of a script in this folder if Python lacks this package. Needs the standard library only."""

import sys
from pathlib import Path
from typing import NoReturn

SHELL_NAMES = {"evaluate": "eval"}  # where run_X.sh has another name than bins/X.py


def explain(error: ModuleNotFoundError) -> NoReturn:
    """Print which command to use instead, and exit with 2."""
    script = Path(sys.argv[0]).resolve()
    shell = script.parent.parent / "egs" / "tta" / "audioldm" / f"run_{SHELL_NAMES.get(script.stem, script.stem)}.sh"
    use = f"{_shorten(script.parent.parent / '.venv' / 'bin' / 'python')} {_shorten(script)}"
    use = f"sh {_shorten(shell)}, or {use}" if shell.is_file() else use
    missing = f"the package {error.name} is not installed in {sys.executable}"
    print(f"error: {missing}: use {use} (any run_*.sh creates .venv on its first use)", file=sys.stderr)
    sys.exit(2)


def _shorten(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if Path.cwd() in path.parents else path
