"""Convert official checkpoints to folders that this toolkit, diffusers and transformers load.

python bins/convert.py amphion ckpts/tta my_pipeline
python bins/convert.py assemble text-to-audio my_pipeline vae=vae unet=unet text_encoder=google-t5/t5-base
Every public function in bins/converters/ is such a SYSTEM; see there for how to add one.
"""

import sys
from typing import Any

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.bins import converters
from sonolume.utils import cli
from sonolume.utils.errors import UserError


def main(argv: list[str]) -> None:
    parser = cli.parser(
        cli.program("convert"), "Convert published checkpoints to model folders, or assemble parts into a pipeline."
    )
    systems = parser.add_subparsers(dest="system", metavar="SYSTEM", required=True)
    found = converters.commands()
    for name, (convert, kind) in found.items():
        title = (convert.__doc__ or "").partition("\n")[0].rstrip(".")
        kind.add_arguments(systems.add_parser(name, help=title, description=title, allow_abbrev=False))
    args = parser.parse_args(argv)
    convert, kind = found[args.system]
    options: Any = kind.from_arguments(args)
    if options.folder.is_file() or (options.folder.is_dir() and any(options.folder.iterdir())):
        raise UserError(f"{options.folder}: exists and is not overwritten: choose another folder, or remove it")
    convert(options)
    print(options.folder)


if __name__ == "__main__":
    sys.exit(cli.run(main))
