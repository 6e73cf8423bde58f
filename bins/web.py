"""Serve the app for the browser: python bins/web.py"""

import sys

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
import importlib.util

from sonolume.utils import cli, paths
from sonolume.utils.errors import UserError
from sonolume.web import app
from sonolume.web.settings import Settings

ABOUT = "Serve the app for the browser: sound from words, pictures and sounds; pictures from sounds and speech."


def main(argv: list[str]) -> None:
    parser = cli.parser(cli.program("web"), ABOUT)
    Settings.add_arguments(parser)
    settings = Settings.from_arguments(parser.parse_args(argv))
    if importlib.util.find_spec("gradio") is None:
        raise UserError(f"the app needs Gradio: {paths.pip_install('web')}")
    app.launch(settings, app.prepare_environment())


if __name__ == "__main__":
    sys.exit(cli.run(main))
