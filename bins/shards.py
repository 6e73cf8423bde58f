"""Check, export or upload prepared features (shards), pack or extract sounds: python bins/shards.py info FOLDER"""

import argparse
import sys
from pathlib import Path

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.utils import cli, paths
from sonolume.utils.errors import UserError

ABOUT = (
    "Check, export or upload prepared features: folders of shards with an index.json. "
    "Pack sounds with captions into WebDataset tars, or extract them."
)
PLACE = "folder of shards, a data set with several of them, or an address such as s3://bucket/folder"
MOST_LINES = 100  # damaged files that are named


def main(argv: list[str]) -> None:
    parser = cli.parser(cli.program("shards"), ABOUT)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, about: str, place: str = PLACE) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=about, description=about, allow_abbrev=False)
        added.add_argument("place", metavar="FOLDER", help=place)
        return added

    add("info", "print rows, columns with their types and bytes, and rows left out")
    verify = add("verify", "compare every file with its checksum, and name the damaged ones")
    verify.add_argument("--remove", action="store_true", help="let the next preparation compute damaged shards again")
    export = add("export", "write each shard as a WebDataset tar or a Parquet file")
    export.add_argument("--format", choices=("wds", "parquet"), default="wds", help="default: %(default)s")
    export.add_argument("--output_dir", type=Path, required=True, metavar="FOLDER", help="for the exported files")
    about = "copy shards, or a data set in shards, to an object store; files that are there already are skipped"
    upload = add("upload", about, "of shards, or {processed_dir}/{dataset}")
    upload.add_argument("address", metavar="ADDRESS", help="such as s3://bucket/folder")
    about = "make a folder from which a data set in an object store is read, as if it were on this machine"
    link = actions.add_parser("link", help=about, description=about, allow_abbrev=False)
    link.add_argument("place", metavar="ADDRESS", help="to which a data set was uploaded, such as s3://bucket/folder")
    link.add_argument("folder", type=Path, metavar="FOLDER", help="new folder: {processed_dir}/{dataset}")
    pack = add("pack", "write sounds and captions as WebDataset tars", "of sounds, or a manifest, as of --input")
    pack.add_argument("--output_dir", type=Path, required=True, metavar="FOLDER", help="for the tars")
    about = "extract WebDataset tars of sounds and captions into a folder for --input"
    extract = actions.add_parser("extract", help=about, description=about, allow_abbrev=False)
    extract.add_argument("tars", nargs="+", type=Path, metavar="TAR", help="with sounds and .txt or .json files")
    extract.add_argument("--output_dir", type=Path, required=True, metavar="FOLDER", help="for the sounds")
    args = parser.parse_args(argv)
    ACTIONS[args.action](args)


def print_info(args: argparse.Namespace) -> None:
    from sonolume.utils.shard_check import folders, summary  # imports numpy, like the imports below

    for place in folders(args.place):
        print(*summary(place), sep="\n")


def verify_files(args: argparse.Namespace) -> None:
    from sonolume.utils.shard_check import folders

    places = folders(args.place)
    if args.remove and not all(isinstance(place, Path) for place in places):
        raise UserError(f"--remove {args.place}: is for folders of this machine; upload the damaged shards again")
    damages, incomplete = 0, list[str]()
    for place in places:
        found, is_complete = _verify(place, args.remove)
        damages += found
        incomplete += [] if is_complete else [str(place)]
    remedy = "upload them again" if not isinstance(places[0], Path) else "run it with --remove, and prepare again"
    if damages and not args.remove:
        raise UserError(f"{args.place}: {damages:,} files are damaged or missing: {remedy}")
    if damages:
        print(f"{args.place}: {damages:,} files were damaged or missing: prepare again, which computes their shards")
    elif incomplete:
        raise UserError(f"{', '.join(incomplete)}: not complete, there is no index.json: prepare to the end")


def _verify(place: Path | str, remove: bool) -> tuple[int, bool]:
    """Print what is damaged in a folder of shards; return the number of damages, and whether there is an index."""
    from tqdm import tqdm

    from sonolume.utils import shard_check
    from sonolume.utils.shards import INDEX_FILE

    listed, damaged = shard_check.checks(place)
    found = shard_check.find_damage(place, listed)
    damaged += filter(None, tqdm(found, "files", len(listed), unit="file", delay=1))
    is_complete = not isinstance(place, Path) or (place / INDEX_FILE).is_file()
    if not damaged:
        print(f"{place}: all {len(listed):,} files are as they were written")
    print(*(f"{place}/{damage.file}: {damage.what}\n" for damage in damaged[:MOST_LINES]), sep="", end="")
    if len(damaged) > MOST_LINES:
        print(f"... and {len(damaged) - MOST_LINES:,} more")
    if remove and isinstance(place, Path):
        shard_check.remove(place, damaged)
    return len(damaged), is_complete


def _check_new(folder: Path, suffix: str) -> None:
    """Raise a UserError unless a folder can be written and has no files that an earlier command wrote."""
    paths.check_folder(folder, "--output_dir")
    if next(folder.glob(f"*{suffix}"), None) is not None:
        raise UserError(f"--output_dir {folder}: contains {suffix} files already: choose another folder")


def export_files(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from sonolume.utils.shard_check import folders
    from sonolume.utils.shard_export import FORMATS, export

    _check_new(args.output_dir, FORMATS[args.format][0])
    (place, *others) = folders(args.place)
    if others:
        names = ", ".join(str(one) for one in (place, *others))
        raise UserError(f"{args.place}: contains several folders of shards, of which one is exported: {names}")
    count = sum(1 for _ in tqdm(export(place, args.output_dir, args.format), "shards", unit="shard", delay=1))
    print(f"{args.output_dir}: {count:,} files")


def upload_files(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from sonolume.utils.shard_link import shard_folders, upload_all
    from sonolume.utils.shard_upload import upload

    folder = Path(args.place)
    copy = upload_all if "." not in (found := shard_folders(folder)) and found else upload
    with tqdm(desc="shards", unit="shard", delay=1) as bar:
        done = copy(folder, args.address, bar.update)
    print(f"{args.address}: {done.sent:,} files sent ({done.bytes / 1e6:,.1f} MB), {done.present:,} were there already")


def link_folder(args: argparse.Namespace) -> None:
    from sonolume.utils.shard_link import link

    print(f"{args.folder}: {len(list(link(args.place, args.folder))):,} folders of shards are read from {args.place}")


def pack_sounds(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from sonolume.preprocessors.webdataset import pack
    from sonolume.utils.manifest import read_manifest

    _check_new(args.output_dir, ".tar")
    rows = read_manifest(args.place, require=["Audio"])
    count = sum(1 for _ in tqdm(pack(rows, args.output_dir), "tars", unit="tar", delay=1))
    print(f"{args.output_dir}: {len(rows):,} sounds in {count:,} tars")


def extract_tars(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from sonolume.preprocessors.webdataset import extract

    paths.check_folder(args.output_dir, "--output_dir")
    with tqdm(total=len(args.tars), desc="tars", unit="tar", delay=1) as bar:
        count = extract(args.tars, args.output_dir, bar.update)
    print(f"{args.output_dir}: {count:,} sounds; prepare them with --input {args.output_dir}")


ACTIONS = {"info": print_info, "verify": verify_files, "export": export_files, "upload": upload_files,
           "link": link_folder, "pack": pack_sounds, "extract": extract_tars}  # fmt: skip

if __name__ == "__main__":
    sys.exit(cli.run(main))
