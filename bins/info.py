"""Print versions, devices, and where models and results are: python bins/info.py"""

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.utils import cli, paths
from sonolume.utils.files import read_json

PACKAGES = ("torch", "diffusers", "transformers", "pytorch-lightning")


def main(argv: list[str]) -> None:
    about = "Print versions, devices, and where models and results are; add it to a report of a problem."
    cli.parser(cli.program("info"), about).parse_args(argv)
    shipped = paths.root() / "pretrained" / "mini"
    kind = "checkout" if paths.is_checkout() else "installed"
    lines = [
        ("sonolume", importlib.metadata.version("sonolume")),
        ("Python", f"{platform.python_version()}, {sys.executable}, {platform.platform()}"),
        *((name, importlib.metadata.version(name)) for name in PACKAGES),
        ("devices", ", ".join(devices())),
        ("package", f"{paths.root()} ({kind})"),
        ("shipped models", f"{shipped}: {', '.join(sorted(one.name for one in shipped.iterdir() if one.is_dir()))}"),
        ("data, runs", f"in {paths.work_dir()}"),
        *(("trained model", f"{recipe}: {folder}") for recipe, folder in trained_models(paths.work_dir())),
    ]
    print("\n".join(f"{name:17}  {value}" for name, value in lines))


def devices() -> Iterator[str]:
    """Describe the devices that --device can name."""
    import torch  # slow

    yield f"cpu ({torch.get_num_threads()} threads)"
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield f"cuda:{index} ({card.name}, {card.total_memory / 2**30:.0f} GiB)"
    if torch.backends.mps.is_available():
        yield "mps"


def trained_models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Find the exported models of runs in ckpts/: recipe and folder."""
    for run in sorted(folder.glob("ckpts/*/*/config.json")):
        if (run.parent / "pipeline").is_dir():
            settings = read_json(run, "the config of a run")
            yield str(settings.get("recipe", "?")), run.parent / "pipeline"


if __name__ == "__main__":
    sys.exit(cli.run(main))
