"""Evaluate all shipped parts, and write the README's table of results: python bins/results.py

An interrupted run resumes.
"""

import sys
from pathlib import Path

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.bins import evaluate
from sonolume.utils import cli, paths


def main(argv: list[str]) -> None:
    folder, page = paths.work_dir() / "evaluation" / "results", paths.root() / "README.md"
    about = "Score all shipped models and replace the table of results in the README, or print it without a README."
    parser = cli.parser(cli.program("results"), about)
    parser.add_argument("--output_dir", type=Path, default=folder, help="folder of reports")
    parser.add_argument("--readme", type=Path, default=page if page.is_file() else None, help="page with the table")
    parser.add_argument("--num_samples", type=int, help="captions or clips of each recipe (default: run_eval.sh's)")
    args = parser.parse_args(argv)
    paths.check_folder(args.output_dir, "--output_dir")
    from sonolume.models.evaluation import compare

    number = [] if args.num_samples is None else ["--num_samples", str(args.num_samples)]
    parts = compare.shipped_parts()
    for count, part in enumerate(parts, 1):
        print(f"{count} of {len(parts)}: {part.title}", file=sys.stderr, flush=True)
        given = ["--config", str(part.config), "--checkpoint", str(part.checkpoint)]
        evaluate.main([*given, "--output_dir", str(args.output_dir / part.name), *number])
    table = compare.results_table(parts, args.output_dir)
    if args.readme is None:
        print("\n".join(table))
    else:
        compare.insert_lines(args.readme, table)
        print(args.readme)


if __name__ == "__main__":
    sys.exit(cli.run(main))
