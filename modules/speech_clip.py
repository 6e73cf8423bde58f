"""SpeechCLIP's parallel branch (Shih et al. 2022, arXiv 2210.00705): one vector of a recording, and its loss.

B recordings, N hidden states of HuBERT, T frames, d width of HuBERT, J width of the image vectors.
"""

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_SCALE = 100.0  # of the cosine similarities in the loss, as CLIP limits it


class SpeechEncoder(ModelMixin, ConfigMixin):
    """A unit vector of the hidden states of a HuBERT.

    A softmax-weighted sum of the states, a CLS vector before its frames, transformer layers (post-norm, GELU), and a
    linear projection of the CLS position. Of the last layer, only the CLS position is computed.

    Args:
        num_states: N; 25 for HuBERT large, 13 for base.
        width: d.
        output_size: J.
        normalize_layers: layer norm of each hidden state, without parameters; published for the large model.
        layers, num_heads, dropout: of the transformer; dropout in training only.
        ff_size: inner width of its feed-forward layers (default: 4 d).
        temperature: divides the cosine similarities in the loss.
        image_size: width of the image encoder's output, which a trained projector takes to J; 0 = no projector.
    """

    @register_to_config
    def __init__(
        self, num_states: int = 25, width: int = 1024, output_size: int = 768, normalize_layers: bool = True,
        layers: int = 1, num_heads: int = 8, dropout: float = 0.1, ff_size: int | None = None,
        temperature: float = 0.07, image_size: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.normalize_layers = normalize_layers
        self.layer_weights = nn.Parameter(torch.zeros(num_states))
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, num_heads, ff_size or 4 * width, dropout, "gelu", batch_first=True)
        self.pool = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.proj = nn.Linear(width, output_size)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.image_proj = nn.Linear(image_size, output_size) if image_size else None

    def frames(self, states: Tensor) -> Tensor:
        """Weighted sum of hidden states (B, N, T, d) -> (B, T, d)."""
        return weighted_sum(states.unbind(dim=1), self.layer_weights, self.normalize_layers)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Encode hidden states (B, N, T, d) with `lengths` (B,) frames of speech -> unit vectors (B, J)."""
        return self.encode_frames(self.frames(states), lengths)

    def encode_frames(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Encode weighted sums (B, T, d) with `lengths` (B,) frames of speech -> unit vectors (B, J)."""
        return F.normalize(self.proj(self.summarize(frames, lengths)), dim=-1)

    def summarize(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Output of the transformer at the CLS position, (B, d), for frames (B, T, d)."""
        x = torch.cat([self.cls.expand(len(frames), -1, -1), frames], dim=1)                 # (B, 1 + T, d)
        padding = torch.arange(x.shape[1], device=x.device) > lengths.to(x.device)[:, None]  # (B, 1 + T)
        for layer in self.pool.layers[:-1]:
            x = layer(x, src_key_padding_mask=padding)                                       # (B, 1 + T, d)
        norm: nn.Module = self.pool.norm  # type: ignore[assignment]
        return norm(cls_output(self.pool.layers[-1], x, padding))                            # (B, d)

    def project_images(self, vectors: Tensor) -> Tensor:
        """Take image vectors (B, image_size), or (B, J) without a projector, to (B, J) of length 1."""
        return F.normalize(vectors if self.image_proj is None else self.image_proj(vectors), dim=-1)

    @property
    def scale(self) -> Tensor:
        """Factor of the cosine similarities in the loss."""
        return self.logit_scale.exp().clamp(max=LARGEST_SCALE)


def weighted_sum(states: tuple[Tensor, ...] | list[Tensor], weights: Tensor, normalize: bool) -> Tensor:
    """Sum N hidden states (B, T, d) by the softmax of `weights` (N,), each normalised over d first if asked for."""
    shares = weights.softmax(dim=0)                                                           # (N,)
    stacked = torch.stack(list(states)).to(shares.dtype)                                      # (N, B, T, d)
    if normalize:
        stacked = F.layer_norm(stacked, stacked.shape[-1:])
    return torch.einsum("n,nbtd->btd", shares, stacked)                                       # (B, T, d)


def cls_output(layer: nn.Module, x: Tensor, padding: Tensor) -> Tensor:
    """Output (B, d) of a post-norm `nn.TransformerEncoderLayer` at the first position of x (B, T, d).

    Equal to `layer(x, src_key_padding_mask=padding)[:, 0]`, without the work for the other positions.

    Args:
        padding: (B, T), True for positions that are not attended to.
    """
    attend: nn.MultiheadAttention = layer.self_attn  # type: ignore[assignment]
    first = x[:, :1]                                                                          # (B, 1, d)
    found, _ = attend(first, x, x, key_padding_mask=padding, need_weights=False)              # (B, 1, d)
    hidden = layer.norm1(first + layer.dropout1(found))                                       # type: ignore[operator]
    inner = layer.dropout(layer.activation(layer.linear1(hidden)))                            # type: ignore[operator]
    return layer.norm2(hidden + layer.dropout2(layer.linear2(inner)))[:, 0]                   # type: ignore[operator]


def masked_contrastive_loss(
    a: Tensor,
    b: Tensor,
    scale: Tensor | float,
    ids: Tensor | None = None,
    *,
    margin: float = 0.0,
    decoupled: bool = False,
    a_to_b: bool = True,
    b_to_a: bool = True,
) -> Tensor:
    """SpeechCLIP's MaskedContrastiveLoss, in float32: mean over the directions of -S_ii + ln sum_j m_ij exp S_ij.

    With distinct ids and the default options, it is CLIP's symmetric cross entropy.

    Args:
        a, b: (B, J) of length 1; row i of both belong together.
        scale: factor of the cosine similarities S.
        ids: (B,); rows of equal ids are not negatives of each other (m_ij = 0), such as the captions of one picture.
            By default all are distinct.
        margin: subtracted from S_ii, after scaling.
        decoupled: m_ii = 0, as in decoupled contrastive learning (Yeh et al. 2022). A row without a negative is 0, not
            -inf as by the formula.

    Raises:
        ValueError: neither direction is asked for.
    """
    if not (a_to_b or b_to_a):
        raise ValueError("a contrastive loss needs at least one direction")
    with torch.autocast(a.device.type, enabled=False):  # bfloat16 is too coarse for cosines times 14
        own = torch.eye(len(a), dtype=torch.bool, device=a.device)                            # (B, B)
        similarity = a.float() @ b.float().T * scale - margin * own                           # (B, B)
        counted = ~own if ids is None else ids[:, None] != ids                                # (B, B)
        alone = ~counted.any(dim=1, keepdim=True)                                             # (B, 1)
        counted = counted | (own & alone if decoupled else own)
        right = similarity.diagonal()                                                         # (B,)
        logits = similarity.masked_fill(~counted, -torch.inf)
        ways = [side for side, chosen in ((logits, a_to_b), (logits.T, b_to_a)) if chosen]
        return torch.stack([(side.logsumexp(dim=1) - right).mean() for side in ways]).mean()


class TokenHead(ModelMixin, ConfigMixin):
    """A multilayer perceptron from a speech vector to tokens in the space of a text encoder's embeddings.

    Args:
        input_size: J.
        output_size: D, width of the text encoder.
        num_tokens: K.
        norm: length of the tokens at the start, such as the mean of the text encoder's embeddings.
    """

    @register_to_config
    def __init__(
        self, input_size: int = 768, output_size: int = 768, num_tokens: int = 4, norm: float = 0.38
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, 4 * input_size)
        self.fc2 = nn.Linear(4 * input_size, num_tokens * output_size)
        nn.init.zeros_(self.fc2.bias)
        if not self.fc2.weight.is_meta:  # it is while `from_pretrained` builds the network
            self._set_norm(norm)

    @torch.no_grad()
    def _set_norm(self, norm: float) -> None:
        """Scale the weights so that tokens of random unit vectors have the mean length `norm`."""
        vectors = F.normalize(torch.randn(256, self.fc1.in_features), dim=-1)                     # (256, J)
        self.fc2.weight *= norm / self(vectors).norm(dim=-1).mean()

    def forward(self, vectors: Tensor) -> Tensor:
        """Tokens (B, K, D) of speech vectors (B, J)."""
        return self.fc2(F.gelu(self.fc1(vectors))).unflatten(-1, (self.config["num_tokens"], -1))


class SequenceHead(ModelMixin, ConfigMixin):
    """A transformer decoder: learned queries, one for each text state, read the frames of a recording.

    Args:
        input_size: d of the frames.
        output_size: D, width of the text states.
        num_states: K, number of text states without the start state.
        width, layers, num_heads, dropout: of the decoder.
    """

    @register_to_config
    def __init__(
        self, input_size: int = 1024, output_size: int = 768, num_states: int = 76, width: int = 512, layers: int = 4,
        num_heads: int = 8, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input = nn.Sequential(nn.LayerNorm(input_size), nn.Linear(input_size, width))
        self.queries = nn.Parameter(torch.randn(1, num_states, width))
        layer = nn.TransformerDecoderLayer(
            width, num_heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        self.output = nn.Linear(width, output_size)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """States (B, K, D) of frames (B, T, d), of which the first `lengths` (B,) are speech."""
        memory = self.input(frames)                                                           # (B, T, w)
        memory = memory + positions(memory.shape[1], memory.shape[2]).to(memory)
        padding = torch.arange(memory.shape[1], device=memory.device) >= lengths.to(memory.device)[:, None]  # (B, T)
        queries = self.queries.expand(len(frames), -1, -1)                                    # (B, K, w)
        return self.output(self.decoder(queries, memory, memory_key_padding_mask=padding))    # (B, K, D)


def positions(count: int, width: int) -> Tensor:
    """Sinusoidal positions (count, width) of Vaswani et al. 2017, for frames of any number."""
    rates = torch.exp(-math.log(10_000) * torch.arange(0, width, 2) / width)                  # (w / 2,)
    angles = torch.arange(count)[:, None] * rates                                             # (count, w / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
