"""BEATs under the official names of its weights, with attention by torch's fused kernel and Kaldi's front end.

B sounds, n samples at 16 kHz, F = 1 + (n - 400) // 160 frames, M = 128 bands, T = 8 (F // 16) tokens, D width, H heads,
E = D / H, C classes.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLE_RATE = 16_000  # Hz
FRAME = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
FFT = 512  # samples: a frame padded with zeros
BANDS = 128
LOW, HIGH = 20.0, 8000.0  # Hz, lower edge of the first band and upper edge of the last
PRE_EMPHASIS = 0.97
FULL_SCALE = 2**15  # Kaldi counts in steps of 16 bits
FLOOR = 1.1920929e-07  # least energy of a band, float32's epsilon: silence is -15.942385
MEAN, DEVIATION = 15.41663, 6.55582  # statistics of AudioSet's log-mels, as published
GATES = 4  # values that the official code sums for each of its two gates
CACHE_ENTRIES = 2**20  # entries of gate x bias per step on a CPU, so that they stay in its cache


class BEATsOutput(NamedTuple):
    hidden: Tensor  # (B, T, D) output of the last layer
    layers: tuple[Tensor, ...]  # (B, T, D) outputs of the requested layers
    token_mask: Tensor | None  # (B, T) bool, True is padding; None without a mask


class BEATs(ModelMixin, ConfigMixin):
    """Audio transformer on tokens of 160 ms x 16 mel bands, with an optional classification head.

    BEATs (Chen et al. 2022, arXiv 2212.09058) is pretrained and finetuned on AudioSet. Tokens are in the order of time,
    the 8 bands of a moment next to each other. The defaults are the published iter3 model; settings have their official
    names.

    Args:
        input_patch_size: frames and bands of a token.
        embed_dim: width of a patch before `post_extract_proj`.
        conv_pos, conv_pos_groups: kernel and groups of the convolution that encodes positions.
        num_buckets, max_distance: of relative positions, as in T5.
        deep_norm: weight residuals by (2 layers)^(1/4).
        predictor_class: C, 0 without a head.
        labels: names or AudioSet ids of the C classes.

    Raises:
        ValueError: one setting does not divide another, or the labels are not C.
    """

    config_name = "config.json"
    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self, input_patch_size: int = 16, embed_dim: int = 512, conv_bias: bool = False, encoder_layers: int = 12,
        encoder_embed_dim: int = 768, encoder_ffn_embed_dim: int = 3072, encoder_attention_heads: int = 12,
        deep_norm: bool = True, conv_pos: int = 128, conv_pos_groups: int = 16, num_buckets: int = 320,
        max_distance: int = 800, predictor_class: int = 0, labels: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        if BANDS % input_patch_size or encoder_embed_dim % encoder_attention_heads:
            raise ValueError(f"input_patch_size {input_patch_size} must divide {BANDS} bands, and "
                             f"encoder_attention_heads {encoder_attention_heads} encoder_embed_dim "
                             f"{encoder_embed_dim}")  # fmt: skip
        if labels and len(labels) != predictor_class:
            raise ValueError(f"{len(labels)} labels for {predictor_class} classes")
        self.patch_embedding = nn.Conv2d(1, embed_dim, input_patch_size, input_patch_size, bias=conv_bias)
        self.layer_norm = nn.LayerNorm(embed_dim)
        self.post_extract_proj = None if embed_dim == encoder_embed_dim else nn.Linear(embed_dim, encoder_embed_dim)
        self.encoder = Encoder(
            encoder_layers, encoder_embed_dim, encoder_ffn_embed_dim, encoder_attention_heads,
            (2 * encoder_layers) ** 0.25 if deep_norm else 1.0, conv_pos, conv_pos_groups, num_buckets, max_distance,
        )  # fmt: skip
        self.predictor = nn.Linear(encoder_embed_dim, predictor_class) if predictor_class else None
        self.apply(_initialise)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the C classes, AudioSet's ids in words; () without a head or if they are unknown."""
        names = audioset_names()
        return tuple(names.get(label) or label for label in self.config.labels)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest sound, which fills one patch: 2800 (0.175 s) in the published model."""
        return FRAME + HOP * (self.config.input_patch_size - 1)

    def forward(self, waves: Tensor, padding_mask: Tensor | None = None, layers: Sequence[int] = ()) -> BEATsOutput:
        """Encode waveforms into token features.

        Args:
            waves: (B, n) at 16 kHz in [-1, 1], n at least `min_samples`; the front end is always float32.
            padding_mask: (B, n) bool, True is padding. It is reduced to tokens as in the official code, which treats
                the 8 tokens of a moment as if they were moments.
            layers: numbers of layers, from 1, whose outputs to return too; AudioToken uses 4, 8 and 12 of 12.

        Raises:
            ValueError: a wave is too short, not finite or all padding, or the mask or a layer does not fit.
        """
        if waves.ndim != 2 or waves.shape[1] < self.min_samples:
            needed = f"{self.min_samples} samples ({self.min_samples / SAMPLE_RATE:.3f} s at 16 kHz)"
            raise ValueError(f"waves must be (B, n) with n at least {needed}, got {tuple(waves.shape)}")
        if not waves.isfinite().all():
            raise ValueError("waves contain NaN or infinite values")
        if padding_mask is not None and padding_mask.shape != waves.shape:
            raise ValueError(f"padding_mask is {tuple(padding_mask.shape)}, the waves are {tuple(waves.shape)}")
        wrong = [layer for layer in layers if not 1 <= layer <= self.config.encoder_layers]
        if wrong:
            raise ValueError(f"layers {wrong}: there are 1 to {self.config.encoder_layers}")
        features = fbank(waves)                                                # (B, F, 128)
        patches = self.patch_embedding(features[:, None].to(self.dtype))       # (B, C, F / 16, 8)
        x = self.layer_norm(patches.flatten(2).mT)                             # (B, T, C)
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)                                      # (B, T, D)
        token_mask = None if padding_mask is None else _fewer(_fewer(padding_mask, features.shape[1]), x.shape[1])
        if token_mask is not None and token_mask.all(1).any():
            raise ValueError("padding_mask: a sound is all padding")
        hidden, outputs = self.encoder(x, token_mask, layers)
        return BEATsOutput(hidden, outputs, token_mask)

    def logits(self, output: BEATsOutput) -> Tensor:
        """Logits (B, C) of the head, averaged over the tokens without padding.

        Raises:
            ValueError: there is no head.
        """
        if self.predictor is None:
            raise ValueError("this BEATs has no classification head (predictor_class 0)")
        logits, mask = self.predictor(output.hidden), output.token_mask        # (B, T, C)
        if mask is None:
            return logits.mean(1)
        return logits.masked_fill(mask[..., None], 0).sum(1) / (~mask).sum(1, keepdim=True)

    @torch.no_grad()
    def tags(self, waves: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Probabilities (B, C) float32 of the classes, independent of each other; arguments as `forward`."""
        return self.logits(self(waves, padding_mask)).float().sigmoid()


class Encoder(nn.Module):
    def __init__(
        self, layers: int, width: int, hidden: int, heads: int, residual: float, kernel: int, groups: int,
        buckets: int, max_distance: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pos_conv = nn.Sequential(nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups))
        self.layer_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(EncoderLayer(width, hidden, heads, residual) for _ in range(layers))
        first: Attention = self.layers[0].self_attn  # type: ignore[assignment]
        first.relative_attention_bias = nn.Embedding(buckets, heads)  # shared by all layers, under its official name
        self.max_distance = max_distance

    def forward(self, x: Tensor, token_mask: Tensor | None, layers: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T, D) -> the outputs of the last layer and of `layers`, all (B, T, D)."""
        if token_mask is not None:
            x = x.masked_fill(token_mask[..., None], 0)
        positions = self.positions(x)[..., : x.shape[1]].mT                    # (B, T, D), one cut off an even kernel
        x = self.layer_norm(x + F.gelu(positions))
        bias, outputs = self.bias(x.shape[1]), []                              # (H, T, T), the same for all layers
        for layer in self.layers:
            x = layer(x, bias, token_mask)
            outputs.append(x)
        return x, tuple(outputs[layer - 1] for layer in layers)

    def positions(self, x: Tensor) -> Tensor:
        """Apply `pos_conv`, (B, T, D) -> (B, D, T + 1); as a 2-d convolution, a CPU needs a third less time."""
        conv: nn.Conv1d = self.pos_conv[0]  # type: ignore[assignment]
        if x.device.type != "cpu":
            return conv(x.mT)
        weight, padding = conv.weight[:, :, None], (0, int(conv.padding[0]))
        return F.conv2d(x.mT[:, :, None], weight, conv.bias, padding=padding, groups=conv.groups)[:, :, 0]

    def bias(self, tokens: int) -> Tensor:
        """Relative position bias (H, T, T), a function of j - i, so only 2 T - 1 values are looked up."""
        table: Tensor = self.get_parameter("layers.0.self_attn.relative_attention_bias.weight")  # (count, H)
        distances = torch.arange(1 - tokens, tokens, device=table.device)
        line = table[_buckets(distances, len(table), self.max_distance)].T     # (H, 2 T - 1)
        return line.contiguous().unfold(1, tokens, 1).flip(1)                  # row i begins at distance -i


class EncoderLayer(nn.Module):
    """Attention and two linear layers, each followed by a norm; `residual` is the weight of the skip connections."""

    def __init__(self, width: int, hidden: int, heads: int, residual: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.residual = residual

    def forward(self, x: Tensor, bias: Tensor, token_mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.self_attn_layer_norm(torch.add(self.self_attn(x, bias, token_mask), x, alpha=self.residual))
        parts = x.split(1) if x.device.type == "cpu" else (x,)  # one sound's hidden values fit a CPU's cache
        added = torch.cat([self.fc2(F.gelu(self.fc1(part))) for part in parts])        # (B, T, D)
        return self.final_layer_norm(torch.add(added, x, alpha=self.residual))


class Attention(nn.Module):
    """softmax(q k / sqrt(E) + gate bias) v; the gate of a row depends on its query (Chi et al. 2021, XLM-E)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // heads, 2 * GATES)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor, token_mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = (project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)   # (B, H, T, E)
                   for project in (self.q_proj, self.k_proj, self.v_proj))     # fmt: skip
        gate, cached = self.gate(q), x.device.type == "cpu"
        squares = max(1, CACHE_ENTRIES // bias[0].numel()) if cached else gate[..., 0, 0].numel()  # (T, T) at once
        mixed = torch.cat([
            torch.cat([
                _attend(q[some, few], k[some, few], v[some, few], gate[some, few], bias[few],
                        None if token_mask is None else token_mask[some])
                for few in _slices(self.heads, squares)
            ], -1) for some in _slices(len(x), squares // self.heads)
        ])                                                                     # (B, T, D)
        return self.out_proj(mixed)

    def gate(self, q: Tensor) -> Tensor:
        """(B, H, T, E) -> (B, H, T, 1). The official sums over four outputs are taken over the weights instead."""
        weight = self.grep_linear.weight.unflatten(0, (2, GATES)).sum(1)       # (2, E)
        offset = self.grep_linear.bias.unflatten(0, (2, GATES)).sum(1)         # (2,)
        a, b = F.linear(q, weight, offset).sigmoid().chunk(2, dim=-1)
        return a * (b * self.grep_a - 1) + 2


def _attend(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, token_mask: Tensor | None) -> Tensor:
    """Attention of b sounds and h heads, (b, h, T, E) -> (b, T, h E)."""
    added = (gate * bias).to(q.dtype)                                          # (b, h, T, T)
    if token_mask is not None:
        added = added.masked_fill(token_mask[:, None, None], -math.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added).transpose(1, 2).flatten(2)


def _slices(count: int, size: int) -> list[slice]:
    """Slices that cut `count` into parts of `size`, at least 1; the last may be smaller."""
    return [slice(start, start + max(1, size)) for start in range(0, count, max(1, size))]


def _buckets(distances: Tensor, count: int, max_distance: int) -> Tensor:
    """Table row of each signed distance: exact below count / 4, then logarithmic up to `max_distance`."""
    half, exact = count // 2, count // 4
    far = (distances.abs().float() / exact).log() / math.log(max_distance / exact) * (half - exact)
    wide = (exact + far.clamp(min=0).long()).clamp(max=half - 1)
    near = distances.abs()
    return half * (distances > 0) + torch.where(near < exact, near, wide)


def _fewer(mask: Tensor, count: int) -> Tensor:
    """Reduce a mask (B, N) -> (B, count): True where a whole group is; a remainder at the end is dropped."""
    whole = mask.shape[1] // count * count
    return mask[:, :whole].unflatten(1, (count, -1)).all(-1)


def _initialise(module: nn.Module) -> None:
    """Initialise as in the paper; DeepNorm (Wang et al. 2022) needs small weights."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, EncoderLayer):
        beta = 1 if module.residual == 1 else 2**-0.5 / module.residual  # (8 layers)^(-1/4)
        attention = module.self_attn
        for linear in (attention.v_proj, attention.out_proj, module.fc1, module.fc2):
            nn.init.xavier_normal_(linear.weight, gain=beta)
        for linear in (attention.q_proj, attention.k_proj):
            nn.init.xavier_normal_(linear.weight)


def log_mel(waves: Tensor) -> Tensor:
    """Log-mels of Kaldi's filter bank, (B, n) in [-1, 1] -> (B, F, M) ln energies from -15.94 to about 30, in float32.

    Equal to `torchaudio.compliance.kaldi.fbank(2^15 wave, num_mel_bins=128)` without dither: no padding at the ends,
    the mean of each frame removed, pre-emphasis inside the frame, Povey's window (a Hann window to the power of 0.85).

    Raises:
        ValueError: not (B, n), or less than one frame of 400 samples.
    """
    if waves.ndim != 2 or waves.shape[1] < FRAME:
        raise ValueError(f"waves must be (B, n) with at least {FRAME} samples, got {tuple(waves.shape)}")
    with torch.autocast(waves.device.type, enabled=False):
        frames = (waves.float() * FULL_SCALE).unfold(1, FRAME, HOP)            # (B, F, 400)
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)            # the first sample is its own predecessor
        frames = (frames - PRE_EMPHASIS * before) * _window(waves.device)
        spectrum = torch.view_as_real(torch.fft.rfft(frames, FFT))             # (B, F, 257, 2)
        power = spectrum.square().sum(-1)                                      # (B, F, 257)
        return (power @ _bands(waves.device)).clamp(min=FLOOR).log()           # (B, F, M)


def fbank(waves: Tensor) -> Tensor:
    """Log-mels as BEATs was trained on them, (B, n) in [-1, 1] -> (B, F, M): (log_mel - mean) / (2 deviation)."""
    return (log_mel(waves) - MEAN) / (2 * DEVIATION)


@functools.cache
@torch.inference_mode(False)  # the cached tensor may be used in training later
def _window(device: torch.device) -> Tensor:
    """Povey's window (400,)."""
    return torch.hann_window(FRAME, periodic=False, device=device).pow(0.85)


@functools.cache
@torch.inference_mode(False)
def _bands(device: torch.device) -> Tensor:
    """Mel filters (257, M): triangles evenly spaced on 1127 ln(1 + f / 700), without the highest bin."""
    lowest, highest = (1127 * math.log(1 + hertz / 700) for hertz in (LOW, HIGH))
    width = (highest - lowest) / (BANDS + 1)
    left = lowest + width * torch.arange(BANDS)                                # (M,)
    bins = 1127 * (1 + torch.arange(FFT // 2)[:, None] * (SAMPLE_RATE / FFT) / 700).log()
    rising, falling = (bins - left) / width, (left + 2 * width - bins) / width  # (256, M)
    return F.pad(torch.minimum(rising, falling).clamp(min=0), (0, 0, 0, 1)).to(device)


@functools.cache
def audioset_names() -> dict[str, str]:
    """Names of AudioSet's classes by their ids, "/m/05tny_" -> "Bark"; published heads list ids."""
    lines = Path(__file__).with_name("audioset.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if not line.startswith("#"))
