"""A tiny untrained Im2Wav with its own tiny CLIP."""

from pathlib import Path

import pytest
import torch
import transformers as tf

from sonolume.models.i2a.im2wav import parts
from sonolume.modules.im2wav.prior import LowPrior, UpPrior
from sonolume.modules.im2wav.vqvae import VQVAE

WINDOW, CODES, WIDTH = 40960, 32, 16  # samples, size of each codebook, width of the image vectors


@pytest.fixture(scope="session")
def tiny_clip(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CLIP with random weights for pictures of 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = tf.AutoTokenizer.from_pretrained(root / "pretrained/mini/stable_diffusion/tokenizer")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = tower | {"vocab_size": len(tokenizer), "max_position_embeddings": 48, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    vision = tower | {"image_size": 32, "patch_size": 8}
    config = tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH, world=1)
    tf.CLIPModel(config).save_pretrained(folder)
    tf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_im2wav(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of random weights: windows of 2.56 s, 40 coarse and 160 fine tokens."""
    folder = tmp_path_factory.mktemp("models") / "im2wav"
    torch.manual_seed(0)
    vqvae = VQVAE(downs=(4, 1), stride=4, embedding_width=8, codes=CODES, width=4, depth=1)
    for codebook in vqvae.codebooks:
        codebook.set_codes(torch.randn(CODES, 8), count=1.0)
    shared = {"codes": CODES, "width": 24, "depth": 3, "heads": 2, "image_width": WIDTH}
    shared["init_scale"] = 8.0  # tokens depend on the image vectors, as after training
    low = LowPrior(positions=40, blocks=8, **shared)
    up = UpPrior(positions=160, blocks=16, conv_width=8, conv_depth=1, dilation_cycle=1, **shared)
    settings = {
        "clip": str(tiny_clip), "sample_rate": 16000, "window": WINDOW, "fps": 30.0, "guidance_scale": 3.0,
        "low_overlap": 0.5, "up_overlap": 0.25, "mean_over_clip": False,
    }  # fmt: skip
    parts.save(folder, {"vqvae": vqvae, "low": low, "up": up}, settings)
    return folder
