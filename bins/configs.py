"""List the configs of the recipes, or copy them to change them: python bins/configs.py tta/audioldm --to my/"""

import shutil
import sys
from pathlib import Path

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.config import shipped, sources
from sonolume.utils import cli, paths
from sonolume.utils.errors import UserError


def main(argv: list[str]) -> None:
    parser = cli.parser(cli.program("configs"), "List the configs of the recipes, or copy them into a folder.")
    name_help = "a recipe such as tta/audioldm, or a config such as tta/audioldm/tiny (default: all)"
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help=name_help)
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="copy them into this folder, with their base_config")
    args = parser.parse_args(argv)
    name = args.name.rstrip("/")
    found = shipped.group(name)
    if not found:
        raise shipped.unknown(name)
    if args.to is None:
        width = max(map(len, found))
        print("\n".join(f"{one:{width}}  {describe(file)}" for one, file in found.items()))
    else:
        for file in copy(name, list(found.values()), args.to):
            print(file)


def describe(file: Path) -> str:
    """First sentence of the comment at the top of a config."""
    lines = file.read_text(encoding="utf-8").splitlines()[1:]
    end = next((number for number, line in enumerate(lines) if not line.lstrip().startswith("//")), 0)
    return " ".join(line.strip().removeprefix("//").strip() for line in lines[:end]).partition(". ")[0].rstrip(".:")


def copy(name: str, files: list[Path], folder: Path) -> list[Path]:
    """Copy configs, and those they are based on, as {folder}/{path inside of egs/name}; nothing is overwritten."""
    paths.check_folder(folder, "--to")
    egs = paths.root() / "egs"
    start = egs / name if (egs / name).is_dir() else (egs / name).parent
    chains = {Path.cwd() / source.name for file in files for source in sources.read(file)}
    targets = {file: folder / file.relative_to(start) for file in sorted(chains)}
    for target in targets.values():
        if target.exists():
            raise UserError(f"{target}: exists and is not overwritten: choose another --to FOLDER, or remove it")
    for file, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return list(targets.values())


if __name__ == "__main__":
    sys.exit(cli.run(main))
