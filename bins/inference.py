"""Generate with a recipe: python bins/inference.py --config egs/tta/audioldm/exp_config.json --text "A dog barks" """

import importlib
import sys

from sonolume.config import command
from sonolume.utils import cli


def main(argv: list[str]) -> None:
    description = "generate with a trained model, or with the shipped miniature one"
    given = command.parse("inference", "InferenceOptions", description, argv)
    recipe = given.config.recipe.replace("/", ".")
    inference = importlib.import_module(f"sonolume.models.{recipe}.inference")  # slow imports start here
    inference.run(given.config, given.options)


if __name__ == "__main__":
    sys.exit(cli.run(main))
