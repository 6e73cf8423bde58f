"""Components of the latent diffusion model: the U-Net built from its config, and the frozen networks."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import AutoTokenizer, BatchEncoding, SpeechT5HifiGan, T5EncoderModel

from sonolume.config.tta.audioldm import AudioLDMConfig, Config, NoiseSchedulerConfig
from sonolume.models.training import Frozen
from sonolume.modules.mel import MelSettings
from sonolume.modules.unet import use_crop_upsampling
from sonolume.utils import checkpoint, paths
from sonolume.utils.errors import UserError, first_line

MAX_TOKENS = 512  # T5's training length


def build_unet(config: AudioLDMConfig) -> UNet2DConditionModel:
    """Amphion's U-Net in diffusers' class, with its upsampling at odd sizes and fresh weights."""
    levels = range(len(config.channel_mult))
    kinds = ["CrossAttn" if 2**level in config.attention_resolutions else "" for level in levels]
    unet = UNet2DConditionModel(
        in_channels=config.in_channels + config.position_channels,
        out_channels=config.out_channels,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        block_out_channels=tuple(config.model_channels * mult for mult in config.channel_mult),
        layers_per_block=config.num_res_blocks,
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.num_heads,  # diffusers' name for the number of heads
        transformer_layers_per_block=config.transformer_depth,
        norm_num_groups=config.norm_num_groups,
        norm_eps=1e-5,
        flip_sin_to_cos=True,
        freq_shift=0,
        downsample_padding=1,
        use_linear_projection=False,
    )
    if config.use_checkpoint:
        unet.enable_gradient_checkpointing()
    return use_crop_upsampling(unet)


def noise_settings(config: NoiseSchedulerConfig) -> dict[str, Any]:
    """Settings of the noise schedule, which the schedulers of inference share with training."""
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "clip_sample")
    return {name: getattr(config, name) for name in names} | {"beta_schedule": str(config.beta_schedule)}


def load_frozen(config: Config) -> Frozen:
    """Load "vae", "text" and "vocoder" (None for Griffin-Lim).

    Raises:
        UserError: one of them cannot be loaded or does not fit the U-Net; names the config key. So do all below.
    """
    vocoder = load_vocoder(config.model.vocoder, MelSettings.of(config.preprocess))
    return Frozen(**load_encoders(config), vocoder=vocoder)


def load_encoders(config: Config) -> Frozen:
    """Load "vae" and "text", whose outputs are cached as training data, and check that they fit the U-Net."""
    from sonolume.models.tta.autoencoderkl import model as autoencoder

    model, shape = config.model, config.model.audioldm
    vae = autoencoder.load(model.autoencoder_path, settings=MelSettings.of(config.preprocess))
    text = TextEncoder(model.text_encoder, model.text_mask)
    if shape.in_channels != (channels := vae.config.latent_channels):
        latents = f"{model.autoencoder_path} has {channels} latent channels (out_channels must be the same)"
        raise UserError(f"model.audioldm.in_channels is {shape.in_channels}, but the VAE {latents}")
    if shape.context_dim != (width := text.model.config.d_model):
        states = f"{model.text_encoder} gives states of width {width}"
        raise UserError(f"model.audioldm.context_dim is {shape.context_dim}, but the text encoder {states}")
    return Frozen(vae=vae, text=text)


def load_vocoder(source: str, settings: MelSettings) -> SpeechT5HifiGan | None:
    """Load a HiFi-GAN for mels of `settings` from its folder, a pipeline folder or a hub id; None for ""."""
    from sonolume.models.tta.hifigan import model as hifigan

    remedy = 'train one with egs/tta/hifigan/run_train.sh, or leave it "" for Griffin-Lim'
    return hifigan.load(source, "model.vocoder", settings, remedy) if source else None


class TextEncoder:
    """Frozen T5: texts -> hidden states, one (L, D) tensor each. Not a Module, so no checkpoint holds it.

    T5 itself always gets the attention mask, as in the published training, so texts do not depend on each other.

    Args:
        source: folder or hub id of a T5 with its tokenizer, or a pipeline folder that holds both.
        masked: the U-Net ignores padding, so states end with the text; False: T5's outputs at padding are used, too.
        key: config key or flag of `source`, for messages.
    """

    def __init__(self, source: str, masked: bool = True, key: str = "model.text_encoder") -> None:
        remedy, also = "a folder or a hub id of a T5 encoder", ["T5ForConditionalGeneration"]
        self.model = checkpoint.load_network(T5EncoderModel, source, key, "text_encoder", remedy, also=also)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(paths.inside(paths.locate(source, key), "tokenizer"))
        except (OSError, ValueError) as error:
            raise UserError(f"{key} {source}: its tokenizer cannot be loaded: {first_line(error)}") from error
        self.masked = masked
        self.max_tokens = min(self.tokenizer.model_max_length, MAX_TOKENS)  # of a text

    def count(self, texts: list[str]) -> list[int]:
        """Number of tokens of each text."""
        return [len(ids) for ids in self.tokenizer(texts, verbose=False).input_ids] if texts else []

    def __call__(self, texts: list[str], length: int = 0) -> list[Tensor]:
        """Hidden states of each text (L, D); (length, D), with T5's outputs at padding, if not `masked`."""
        return self.encode(self.tokenize(texts, length), length)

    def tokenize(self, texts: list[str], length: int = 0) -> BatchEncoding:
        """Tokens of texts, padded to the longest; to `length` if not `masked`. Not safe in several threads at once."""
        to_length = length > 0 and not self.masked
        padding, size = ("max_length", length) if to_length else (True, self.max_tokens)
        return self.tokenizer(texts, return_tensors="pt", truncation=True, padding=padding, max_length=size)

    @torch.no_grad()
    def encode(self, tokens: BatchEncoding, length: int = 0) -> list[Tensor]:
        """Hidden states of tokens, as of `__call__`; safe in several threads at once."""
        keep = 0 if self.masked else length
        mask = tokens.attention_mask.to(self.model.device)
        states = self.model(tokens.input_ids.to(self.model.device), attention_mask=mask).last_hidden_state
        return [state[: keep or int(count)] for state, count in zip(states, mask.sum(1), strict=True)]
