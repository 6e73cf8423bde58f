"""Publish an exported model on the hub, after checks: python bins/publish.py FOLDER REPO_ID [--dry_run]"""

import sys
from pathlib import Path

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.utils import cli
from sonolume.utils.errors import UserError

ABOUT = (
    "Check an exported folder, list what would be sent, and upload it to the model hub. "
    "The access token is that of `hf auth login`, or HF_TOKEN."
)


def main(argv: list[str]) -> None:
    parser = cli.parser(cli.program("publish"), ABOUT)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="exported model: pipeline/ or lora/ of a run")
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name on the hub; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--pr", action="store_true", help="open a pull request in place of a commit")
    parser.add_argument("--dry_run", action="store_true", help="check and list only; contacts nobody, writes nothing")
    parser.add_argument("--revision", metavar="NAME", help="branch to send to (default: main)")
    parser.add_argument("--license", metavar="ID", help="licence of the weights for the card, such as cc-by-nc-4.0")
    report_help = "scores for the card: report.json of an evaluation of FOLDER, or its folder"
    parser.add_argument("--report", type=Path, metavar="PATH", help=report_help)
    args = parser.parse_args(argv)
    if args.pr and args.revision is not None:
        raise UserError("--pr and --revision: choose one; a pull request is for main")
    from sonolume.models import publish  # slow: imports torch

    plan = publish.plan(args.folder, args.repo_id, args.license, args.report)
    print(*plan.lines(), sep="\n")
    if args.dry_run:
        print(f"all checks passed; nothing was sent to {args.repo_id} (--dry_run)")
    else:
        print(publish.upload(plan, args.repo_id, args.private, args.pr, args.revision))


if __name__ == "__main__":
    sys.exit(cli.run(main))
