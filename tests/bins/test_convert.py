"""The command line of bins/convert.py."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sonolume.bins import convert, converters, inference
from sonolume.models.tta.autoencoderkl import model as autoencoderkl
from sonolume.utils import cli

Run = Callable[..., tuple[int, str, str]]
VAE = "autoencoder_kl_debug"
NEW_CONVERTER = '''from dataclasses import dataclass

from sonolume.bins.converters import ConverterOptions
from sonolume.config.options import option


@dataclass(kw_only=True)
class Options(ConverterOptions):
    level: int = option(1, help="any number", high=5)


def my_system(options: Options) -> None:
    """Convert a system that was not there before."""
    print(options.source, options.level)
'''


@pytest.fixture
def run(capsys: Any) -> Run:
    """run(*arguments) -> (exit code, stdout, the error lines)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(convert.main, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out.strip(), "\n".join(x for x in captured.err.splitlines() if x.startswith("error"))

    return run


def test_a_run_folder_becomes_a_model_folder(run: Run, published: Path, in_folder: Path):
    assert run("amphion-vae", published / VAE, "a model") == (0, "a model", "")
    assert autoencoderkl.load(str(in_folder / "a model")).config.latent_channels == 4
    code, out, error = run("amphion-vae", published / VAE, "a model")
    assert (code, out) == (2, "") and "a model: exists and is not overwritten" in error
    (in_folder / "empty").mkdir()
    assert run("amphion-hifigan", published, "empty")[0] == 0


def test_the_whole_layout_and_one_by_one(run: Run, published: Path, tiny_checkpoint: Path, in_folder: Path):
    shutil.copytree(published, "ckpts/tta")
    code, _, error = run("amphion", "ckpts/tta", "pipe")
    assert code == 2 and "choose with --latent 4_5_39 or --latent 4_10_78" in error
    more = ["--latent", "4_5_39", "--text_encoder", str(tiny_checkpoint)]
    code, _, error = run("amphion", "ckpts/tta", "pipe", *more)
    assert code == 2 and "takes text states of width 24" in error  # it got as far as the text encoder
    parts = ["vae=ckpts/tta/autoencoder_kl_debug", f"text_encoder={tiny_checkpoint}"]
    parts += ["unet=ckpts/tta/audioldm_debug_latent_size_4_5_39"]
    code, _, error = run("assemble", "text-to-audio", "pipe", *parts)
    assert code == 2 and "takes text states of width 24" in error
    assert not Path("pipe").exists()


def test_parts_trained_here_are_put_together(run: Run, tiny_checkpoint: Path, in_folder: Path):
    parts = [f"{name}={tiny_checkpoint}" for name in ("vae", "unet", "text_encoder")]
    assert run("assemble", "text-to-audio", "pipe", *parts) == (0, "pipe", "")
    assert (in_folder / "pipe/model_index.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: SYSTEM"),
        (["amphion-va", "a", "b"], "invalid choice: 'amphion-va'"),
        (["amphion-vae", "a"], "the following arguments are required: FOLDER"),
        (["amphion-vae", "a", "b"], "a: no such file or folder"),
        (["amphion-vae", "a", "b", "--config", "c"], "unknown flag --config"),
        (["amphion", "a", "b", "--latent", "4_4"], "invalid choice: '4_4'"),
        (["amphion", "a", "b"], "a: no such folder"),
        (["assemble", "text-to-audio", "b", "vea=x"], "'vea=x' names no part, did you mean vae=?"),
        (["assemble", "text-to-audio", "b", "q=x"], "names no part (it takes vae, unet, text_encoder, vocoder, "),
        (["assemble", "text-to-audio", "b", "vae="], "no value after vae="),
        (["assemble", "text-to-audio", "b", "vae=x", "vae=y"], "'vae=y': give it once"),
        (["assemble", "text-to-audio", "b", "vae=x"], "needs unet=FOLDER text_encoder=FOLDER"),
        (["assemble", "a2i", "b", "vae=x"], "invalid choice: 'a2i'"),
    ],
)
def test_a_mistake_is_one_line(run: Run, in_folder: Path, arguments: list[str], message: str):
    code, out, error = run(*arguments)
    assert (code, out) == (2, "") and message in error and error.count("\n") == 0
    assert not list(in_folder.iterdir())


def test_mistakes_and_help_need_no_torch(in_folder: Path):
    code = (
        "import sys; from sonolume.bins import convert; from sonolume.utils import cli\n"
        "assert cli.run(convert.main, ['assemble', 'text-to-audio', 'b', 'vae=x']) == 2\n"
        "assert cli.run(convert.main, ['amphion', 'a', 'b']) == 2\n"
        "print([name for name in ('torch', 'numpy', 'diffusers', 'transformers') if name in sys.modules])\n"
        "convert.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, *page = done.stdout.splitlines()
    assert modules == "[]"
    systems = ("amphion", "amphion-audioldm", "amphion-hifigan", "amphion-vae", "assemble", "audiotoken", "beats")
    assert all(any(line.strip().startswith(system) for line in page) for system in systems)


def test_help_of_a_system_lists_its_own_flags(run: Run, capsys: Any):
    with pytest.raises(SystemExit):
        convert.main(["audiotoken", "--help"])
    page = capsys.readouterr().out
    assert all(flag in page for flag in ("SOURCE", "FOLDER", "--lora", "--beats", "--stable_diffusion"))
    assert "--latent" not in page and "--text_encoder" not in page


def test_a_new_converter_is_a_new_file(run: Run, in_folder: Path, monkeypatch: pytest.MonkeyPatch):
    (in_folder / "my_system.py").write_text(NEW_CONVERTER)
    monkeypatch.setattr(converters, "__path__", [*converters.__path__, str(in_folder)])
    assert run("my-system", "in", "out", "--level", "3") == (0, "in 3\nout", "")
    assert run("my-system", "in", "out", "--level", "9")[0] == 2


def test_a_full_disk_is_one_line_and_leaves_nothing(published: Path, in_folder: Path, capsys: Any):
    """No file may grow beyond 100 kB, as on a disk with no more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))
    try:
        code = cli.run(convert.main, ["amphion-vae", str(published / VAE), "model"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    printed = capsys.readouterr().err
    assert code == 1, printed
    assert printed.splitlines()[-1].startswith("error: ") and "Traceback" not in printed
    assert not list(in_folder.iterdir())


@pytest.mark.parametrize("where", [f"{VAE}/checkpoints/step-0445000_loss-0.3306.pt", VAE, ".", "hifigan_checkpoints"])
def test_inference_points_here(published: Path, in_folder: Path, root: Path, where: str, capsys: Any):
    config = str(root / "egs/tta/audioldm/exp_config.json")
    arguments = ["--config", config, "--text", "rain", "--checkpoint", str(published / where)]
    assert cli.run(inference.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "bins/convert.py" in error
