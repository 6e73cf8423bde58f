"""The published folders are recognised by their names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sonolume.models.convert import layout
from sonolume.utils.errors import UserError

RUN = "audioldm_debug_latent_size_4_5_39"


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., Path]:
    """touch("run/checkpoints/a.pt") makes an empty file under tmp_path."""

    def make(name: str, text: str = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return make


def test_the_newest_by_the_list_and_by_the_step(touch: Callable[..., Path], tmp_path: Path):
    old, new = (touch(f"{RUN}/checkpoints/step-{step}_loss-0.5.pt") for step in ("0900000", "1000000"))
    assert layout.weights_file(tmp_path / RUN, "audioldm") == new
    assert layout.weights_file(tmp_path / RUN / "checkpoints", "audioldm") == new
    assert layout.weights_file(tmp_path, "audioldm") == new
    touch(f"{RUN}/checkpoints/checkpoint", f"{new.name}\n/data/{old.name}\n")
    assert layout.weights_file(tmp_path / RUN, "audioldm") == old
    old.unlink()  # the list names a file that was not copied
    assert layout.weights_file(tmp_path / RUN, "audioldm") == new
    assert layout.weights_file(new, "audioldm") == new


@pytest.mark.parametrize("above", [".", "tta", "ckpts/tta"])
def test_the_root_and_what_is_above_it(published: Path, tmp_path: Path, above: str):
    (tmp_path / above).parent.mkdir(parents=True, exist_ok=True)
    source = published if above == "." else tmp_path
    if above != ".":
        (tmp_path / above).symlink_to(published)
    given = layout.published(source, "4_10_78")
    assert [Path(file).name for file in given.values()] == [
        "step-0390000_loss-0.2876.pt", "step-0325000_loss-0.1936.pt", "g_01250000",
    ]  # fmt: skip
    assert layout.latent_of(Path(given["unet"])) == "4_10_78"


def test_one_size_needs_no_choice(touch: Callable[..., Path], tmp_path: Path):
    touch(f"{RUN}/checkpoints/step-0000001_loss-1.pt")
    touch("autoencoder_kl_debug/checkpoints/step-0000002_loss-1.pt")
    assert set(layout.published(tmp_path, None)) == {"vae", "unet"}


def test_what_is_wrong_is_one_line(touch: Callable[..., Path], published: Path, tmp_path: Path):
    def refused(message: str, function: Callable[..., object], *arguments: object) -> None:
        with pytest.raises(UserError, match=message) as caught:
            function(*arguments)
        assert "\n" not in str(caught.value)

    refused("both published sizes are there: choose with --latent 4_5_39 or", layout.published, published, None)
    refused("name one: .*autoencoder_kl_debug or .*4_10_78", layout.weights_file, published, "vae")
    refused("absent: no such folder", layout.published, tmp_path / "absent", None)
    refused("absent: no such file or folder", layout.weights_file, tmp_path / "absent", "vae")
    (tmp_path / RUN).mkdir()
    refused(f"not the published layout: .* holds: {RUN}", layout.published, tmp_path, None)
    touch(f"{RUN}/readme.md")
    refused(r"no step-\*.pt in it; it holds: readme.md", layout.weights_file, tmp_path / RUN, "audioldm")
    model = touch("model/config.json", '{"_class_name": "AutoencoderKL"}').parent
    refused("already: nothing to convert", layout.weights_file, model, "vae")
