"""Compare reports: python bins/compare.py evaluation_a evaluation_b"""

import os
import sys
from pathlib import Path

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.utils import cli
from sonolume.utils.errors import UserError


def main(argv: list[str]) -> None:
    about = "Compare several reports in a table (Markdown in a file or pipe); the best value of each row is bold."
    parser = cli.parser(cli.program("compare"), about)
    parser.add_argument("report", nargs="+", type=Path, help="report.json files, or the folders that hold them")
    parser.add_argument("--unranked", action="store_true", help="show reports of different conditions, without ranks")
    args = parser.parse_args(argv)
    for path in args.report:
        if not os.path.exists(path):
            raise UserError(f"{path}: no such report.json or folder")
    from sonolume.models.evaluation.compare import comparison_table
    from sonolume.models.evaluation.report import align_tables

    lines = comparison_table(args.report, ranked=not args.unranked)
    print("\n".join(align_tables(lines) if sys.stdout.isatty() else lines))


if __name__ == "__main__":
    sys.exit(cli.run(main))
