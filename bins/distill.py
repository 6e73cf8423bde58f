"""Distill a trained model into one of 1 to 8 network calls, given captions only: the result is a pipeline folder.

python bins/distill.py --config egs/tta/audioldm/distill.json --checkpoint FOLDER_OR_ID --text_file captions.txt
"""

import sys

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.config import command
from sonolume.models import launch
from sonolume.models.recipes import recipe_code
from sonolume.utils import cli


def main(argv: list[str]) -> None:
    description = "distill a trained model into one of a few network calls; the run's folder is {log_dir}/{exp_name}"
    given = command.parse("distill", "DistillOptions", description, argv)
    distill = recipe_code(given.config.recipe, "distill")
    stages = distill.configure(given.config, given.options, given.given)
    launch.check_nodes(given.config.train.num_nodes)
    for config in stages:
        launch.check_run(config.run_dir, distill.resumes(config, given.options.resume))
    from sonolume.models import training  # slow imports

    for config in stages:
        print(training.run(config, distill.resumes(config, given.options.resume)))


if __name__ == "__main__":
    sys.exit(cli.run(main))
