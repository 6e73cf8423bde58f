"""IP-Adapter (arXiv 2308.06721) as a decoupled cross-attention: a frozen U-Net attends to tokens of an image vector.

It computes what diffusers' `load_ip_adapter` does, by the processors and in the place behind the text states that
sounds use. B vectors of width J, m vectors of one prompt, K tokens of a vector, D width of the text states, N inner
width of an attention layer.
"""

from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import ImageProjection
from torch import Tensor, nn

from sonolume.modules.decoupled_attention import AudioAttention, KeysAndValues


class IPAdapter(AudioAttention):
    """Tokens of an image vector, and their keys and values for every cross-attention layer of a U-Net.

    The K tokens of a vector are followed by one more state, which is 1 everywhere, so that it holds the strength by
    which all states are multiplied. The output of the attention is multiplied by this strength, and the attention
    weights do not depend on it, as with diffusers' `set_ip_adapter_scale`. States of zero are no picture.

    Args:
        layers, width, text_length: as of `AudioAttention`.
        num_states: K + 1.
        input_size: J.
    """

    @register_to_config
    def __init__(
        self, layers: dict[str, int], width: int, text_length: int, num_states: int = 5, input_size: int = 1024
    ) -> None:
        super().__init__(layers, width, text_length, num_states, input_size)
        self.project = ImageProjection(input_size, width, num_states - 1)
        self.projections = nn.ModuleList(TokenKeysAndValues(width, size, num_states) for size in layers.values())

    def forward(self, states: Tensor) -> Tensor:
        """Tokens of image vectors (B, J) with the state that holds the strength -> (B, K + 1, D)."""
        return nn.functional.pad(self.project(states), (0, 0, 0, 1), value=1.0)


class TokenKeysAndValues(KeysAndValues):
    """Projections of one layer for tokens that are not normalised."""

    def __init__(self, width: int, size: int, num_states: int) -> None:
        super().__init__(width, size)
        self.num_states = num_states

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, m K, N) of states (B, m (K + 1), D); the values alone are multiplied by the strength."""
        groups = states.to(self.to_v.weight.dtype).unflatten(1, (-1, self.num_states))  # (B, m, K + 1, D)
        scaled, strength = groups[:, :, :-1], groups[:, :, -1:, :1]                     # (B, m, K, D), (B, m, 1, 1)
        tokens = scaled / strength.masked_fill(strength == 0, 1.0)                      # (B, m, K, D)
        return self.to_k(tokens).flatten(1, 2), self.to_v(scaled).flatten(1, 2)
