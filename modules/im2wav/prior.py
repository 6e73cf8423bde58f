"""The two priors of Im2Wav: Low models coarse tokens given images, Up models fine tokens given coarse tokens.

B clips, F frames, V width of the image vectors, T positions, K codes. The defaults are the published sizes.
"""

from collections.abc import Sequence

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from sonolume.modules.im2wav.conditioning import TokenConditioner, VideoConditioner
from sonolume.modules.im2wav.transformer import TokenTransformer


class LowPrior(ModelMixin, ConfigMixin):
    """Transformer over level-1 tokens, conditioned on CLIP vectors of the frames (157 million parameters).

    Args: see `TokenTransformer` and `VideoConditioner`.
    """

    @register_to_config
    def __init__(
        self,
        codes: int = 2048,
        positions: int = 2048,
        width: int = 1024,
        depth: int = 48,
        heads: int = 1,
        blocks: int = 64,
        attention_ratio: float = 0.25,
        mlp_ratio: float = 1.0,
        init_scale: float = 0.7,
        image_width: int = 512,
        image_dropout: float = 0.1,
        time_bins: int = 64,
        min_seconds: float = 2.05,
        max_seconds: float = 600.0,
        sample_rate: int = 16000,
        has_null: bool = True,
    ) -> None:
        super().__init__()
        self.transformer = TokenTransformer(
            codes, positions, width, depth, heads, blocks, attention_ratio, mlp_ratio, init_scale
        )
        self.conditioner = VideoConditioner(
            image_width, width, positions, image_dropout, time_bins, min_seconds, max_seconds, sample_rate, has_null
        )

    def forward(
        self, tokens: Tensor, frames: Tensor, times: Tensor, keep: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, K) of tokens (B, T); for the other arguments see `VideoConditioner.forward`."""
        return self.transformer(tokens, self.conditioner(frames, times, keep, seeds))


class UpPrior(ModelMixin, ConfigMixin):
    """Transformer over level-0 tokens, conditioned on level-1 tokens and one CLIP vector (203 million parameters).

    Args: see `TokenTransformer` and `TokenConditioner`.
    """

    @register_to_config
    def __init__(
        self,
        codes: int = 2048,
        positions: int = 8192,
        width: int = 1024,
        depth: int = 48,
        heads: int = 1,
        blocks: int = 64,
        attention_ratio: float = 0.25,
        mlp_ratio: float = 1.0,
        init_scale: float = 0.7,
        image_width: int = 512,
        image_dropout: float = 0.1,
        rates: Sequence[int] = (2, 2),
        conv_width: int = 512,
        conv_depth: int = 16,
        dilation_growth: int = 3,
        dilation_cycle: int | None = 8,
        has_null: bool = False,
    ) -> None:
        super().__init__()
        self.transformer = TokenTransformer(
            codes, positions, width, depth, heads, blocks, attention_ratio, mlp_ratio, init_scale
        )
        self.conditioner = TokenConditioner(
            image_width, width, image_dropout, codes, rates, conv_width, conv_depth, dilation_growth, dilation_cycle,
            has_null,
        )  # fmt: skip

    def forward(
        self,
        tokens: Tensor,
        images: Tensor,
        low_tokens: Tensor,
        keep: Tensor | None = None,
        seeds: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, K) of tokens (B, T); for the other arguments see `TokenConditioner.forward`."""
        return self.transformer(tokens, self.conditioner(images, low_tokens, keep, seeds))
