"""Score a trained model: python bins/evaluate.py --config egs/tta/audioldm/tiny.json [--checkpoint FOLDER]"""

import sys
from pathlib import Path

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.config import command
from sonolume.models.evaluation.embedders.load import check
from sonolume.models.recipes import recipe_code
from sonolume.utils import cli


def main(argv: list[str]) -> None:
    description = "score a trained model; writes report.json, report.md and pictures, and prints the scores"
    given = command.parse("evaluate", "EvaluationOptions", description, argv)
    recipe, options = given.config.recipe, given.options
    for spec in getattr(options, "embedder", []):  # before anything is generated
        check(spec)
    # one folder for each recipe, so that an interrupted evaluation continues in its own
    options.output_dir = Path(str(options.output_dir).replace("TASK_RECIPE", recipe.replace("/", "_")))
    recipe_code(recipe, "evaluate").run(given.config, options)  # slow imports


if __name__ == "__main__":
    sys.exit(cli.run(main))
