"""AudioToken's only trained network: features of a sound -> one token in the space of a text encoder's embeddings.

B sounds, T tokens in time, C channels of the features, D width of the text encoder.
"""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from sonolume.modules.audiotoken.pooling import AttentionPooling


class AudioTokenEmbedder(ModelMixin, ConfigMixin):
    """Two linear layers and attention pooling (Yariv et al. 2023, 2305.13050); parameter names are the official ones.

    Args:
        input_size: C; 2304 = three layers of BEATs.
        output_size: D; 768 for Stable Diffusion 1, 1024 for Stable Diffusion 2.
        dropout: inside the pooling, in training only.
    """

    @register_to_config
    def __init__(self, input_size: int = 2304, output_size: int = 768, dropout: float = 0.5) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, input_size)
        self.fc2 = nn.Linear(input_size, output_size)
        self.fga = AttentionPooling(output_size, dropout)

    def forward(self, features: Tensor, seeds: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, D); `seeds` (B,) of each item's dropout, default: torch's global random numbers."""
        return self.fga(self.fc2(F.gelu(self.fc1(features))), seeds)
