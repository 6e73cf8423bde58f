"""Turn raw files into the manifest and the features that training reads.

python bins/preprocess.py --config egs/tta/autoencoderkl/tiny.json
python bins/preprocess.py --config egs/tta/autoencoderkl/exp_config.json --input my_sounds/ --dataset mine
python bins/preprocess.py --config egs/tta/autoencoderkl/exp_config.json --input train.csv --audio_dir wavs/
"""

import sys

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.config import command
from sonolume.models.recipes import recipe_code
from sonolume.utils import cli
from sonolume.utils.errors import UserError


def main(argv: list[str]) -> None:
    description = "turn raw files into the manifest and the features that training reads"
    given = command.parse("preprocess", "PreprocessOptions", description, argv)
    config, options = given.config, given.options
    if not config.dataset:
        raise UserError(f"{given.path}: dataset: the list is empty, name at least one data set")
    options.dataset = options.dataset or config.dataset[0]
    complete = True
    if hasattr(recipe_code(config.recipe, "data"), "preprocess"):  # slow: imports torch
        from sonolume.models import preprocessing

        complete = preprocessing.run(config, options)
    else:
        print(f"{config.recipe}: training data are generated during training; there is nothing to prepare")
    if complete and options.dataset not in config.dataset:
        print(f"to train on it: dataset=[{options.dataset}]")


if __name__ == "__main__":
    sys.exit(cli.run(main))
