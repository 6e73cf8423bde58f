"""Generate with a recipe: python bins/inference.py --config egs/tta/audioldm/exp_config.json --text "A dog barks" """

import sys

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.config import command
from sonolume.models.recipes import recipe_code
from sonolume.utils import cli


def main(argv: list[str]) -> None:
    given = command.parse("inference", "InferenceOptions", "generate with a trained model", argv)
    code = recipe_code(given.config.recipe, "inference", without=("peft",))  # slow imports; diffusers would import peft
    code.run(given.config, given.options)


if __name__ == "__main__":
    sys.exit(cli.run(main))
