"""Train a recipe: python bins/train.py --config egs/tta/autoencoderkl/tiny.json [--resume] [train.batch_size=4 ...]"""

import sys

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.config import command
from sonolume.models import launch
from sonolume.utils import cli


def main(argv: list[str]) -> None:
    given = command.parse("train", "TrainOptions", "train a model; its folder is {log_dir}/{exp_name}", argv)
    launch.check_nodes(given.config.train.num_nodes)
    run_dir, options = given.config.run_dir, given.options
    resume = options.resume or (options.auto_resume and launch.last_checkpoint(run_dir).exists())
    launch.check_run(run_dir, resume)
    launch.check_data(given.config)
    from pytorch_lightning.utilities import rank_zero_only  # slow imports

    from sonolume.models import training

    rank_zero_only(print)(training.run(given.config, resume))


if __name__ == "__main__":
    sys.exit(cli.run(main))
