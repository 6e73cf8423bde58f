"""Steps that all converters of official checkpoints share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import transformers.utils.logging
from torch import Tensor
from tqdm import tqdm

from sonolume.models import card
from sonolume.utils import checkpoint, files, local_paths
from sonolume.utils.errors import UserError
from sonolume.utils.text import message

SOURCE_FILE = "source.json"  # in a converted folder: its official file, and how that was trained
KINDS = {  # part of a weight's name that only this kind of file has -> the kind
    "unet.": "Amphion's U-Net (amphion-audioldm)",
    "quantize.embedding.weight": "BEATs' tokenizer (Tokenizer_*.pt), the encoder is in a BEATs_*.pt file",
    "fga.reduce_potentials.": "AudioToken's embedder (audiotoken)",
    "cls_token": "a vision transformer or AST",
    "quant_conv.weight": "Amphion's autoencoder (amphion-vae)",
    "conv_pre.": "a HiFi-GAN generator (amphion-hifigan)",
    "prior.transformer.": "a prior of Im2Wav (im2wav-low or im2wav-up)",
    "bottleneck.level_blocks.": "Im2Wav's VQ-VAE (im2wav-vqvae)",
    "relative_attention_bias": "a BEATs encoder (beats)",
}


@contextmanager
def converted_folder(folder: Path, path: Path, what: str, source: dict[str, Any]) -> Iterator[Path]:
    """Yield an empty folder for the converted model of `path`; when complete it is `folder`, with a card."""
    message(f"{path}: {what}: writing {folder} ...")
    disable_progress_bars()
    with files.atomic_folder(folder) as temporary:
        yield temporary
        files.write_json(temporary / SOURCE_FILE, local_paths.strip(source))
        card.write(temporary, source=source)


def disable_progress_bars() -> None:
    """Silence the bars that the libraries show for every file."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the content of a checkpoint and its weights, without the prefix of training on several GPUs.

    The file is memory-mapped, so that what is dropped costs no memory, such as the optimizer's state.

    Raises:
        UserError: the file is damaged, a training checkpoint of Lightning, or without a dictionary of tensors.
    """
    content = checkpoint.read(path, mapped=True)
    if "state_dict" in content:
        raise UserError(f"{path}: a training checkpoint of Lightning: the model of a run is its folder pipeline/")
    if "mpd" in content or "msd" in content:
        raise UserError(f"{path}: a vocoder's discriminators (do_*): the generator is in the g_* file of that folder")
    weights = content.get("generator", content.get("model", content))
    if not isinstance(weights, dict) or not weights or not all(isinstance(one, Tensor) for one in weights.values()):
        raise UserError(f"{path}: no weights under 'model' or 'generator'; it holds {_first_names(content)}")
    return content, {str(name).removeprefix("module."): tensor for name, tensor in weights.items()}


def kind_of(weights: Mapping[str, Tensor]) -> str:
    """Describe the kind of file that weights come from, for a message."""
    found = (kind for part, kind in KINDS.items() if any(part in name for name in weights))
    return next(found, f"an unknown network with the weights {_first_names(weights)}")


def _first_names(content: Mapping[Any, Any]) -> str:
    names = [str(name) for name in content]
    return ", ".join(names[:3] + ["..."] * (len(names) > 3)) or "nothing"


def count_weights(model: Any) -> str:
    """Format the size of a model, as in "3.9 M weights"."""
    return f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M weights"


def fill(model: Any, weights: dict[str, Tensor]) -> Any:
    """Load all weights, which must fit and be finite (else a ValueError), into a model on meta, and freeze it."""
    if difference := checkpoint.first_difference(weights, model.state_dict()):
        raise ValueError(difference)
    for name, tensor in tqdm(weights.items(), desc="reading", unit="tensor", leave=False, delay=1):
        if not tensor.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinite values: its training had diverged")
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)
