"""Fine-tune a trained model on a few clips with captions: the result is a pipeline folder, or a LoRA file of a few MB.

python bins/finetune.py --config egs/tta/audioldm/finetune.json --input my_clips/ --checkpoint FOLDER_OR_ID
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
    description = "fine-tune a trained model on your own clips; the run's folder is {log_dir}/{exp_name}"
    given = command.parse("finetune", "FinetuneOptions", description, argv)
    finetune = recipe_code(given.config.recipe, "finetune")
    config = finetune.configure(given.config, given.options, given.given)
    launch.check_nodes(config.train.num_nodes)
    launch.check_run(config.run_dir, given.options.resume)
    finetune.prepare(config, given.options)
    from sonolume.models import training  # slow imports

    print(training.run(config, given.options.resume))


if __name__ == "__main__":
    sys.exit(cli.run(main))
