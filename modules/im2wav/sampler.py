"""Autoregressive sampling of tokens: one step of fixed shape, on static buffers, without a value from the device.

B clips, R = B rows without guidance and 2 B with it (conditional rows first), T positions, W width, K codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sonolume.modules.im2wav.transformer import Condition, TokenTransformer

CHUNK_STEPS = 64  # steps between two draws of noise, and between two reports of progress

Progress = Callable[[int], None]  # the number of tokens sampled since the last call


@dataclass(frozen=True)
class TokenSampling:
    """How a token is drawn from its logits.

    Args:
        temperature: divisor of the logits; 0 takes the most likely token.
        top_k: draw from this many most likely tokens; 0: from all.
        top_p: draw from the most likely tokens that together reach this probability; 0: from all.
        guidance: scale of classifier-free guidance: guided = scale * conditional + (1 - scale) * null logits.

    Raises:
        ValueError: a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature:g}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must be from 0 to 1, got {self.top_p:g}")


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """(..., K) with -inf for tokens that are not to be drawn; at least one token stays.

    Top-k keeps all values >= the k-th; top-p (Holtzman et al. 2020, arXiv 1904.09751) removes the tokens after the
    first one at which the cumulative probability exceeds p.
    """
    if top_k:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(dim=-1)
        removed = probabilities.cumsum(dim=-1) - probabilities > top_p
        logits = logits.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), -torch.inf)
    return logits


class TokenSampler:
    """Sampler for batches of one size; `step` can be replaced by its compiled form.

    All buffers keep their shape and place from call to call, and `step` only updates them in place, so that
    `torch.compile(sampler.step, fullgraph=True)` needs one compilation and a CUDA graph of it can be replayed.

    Args:
        transformer: of a prior, in evaluation mode.
        batch: B.
        sampling: how tokens are drawn; both branches are computed if its guidance is not 1.

    Attributes:
        tokens: (B, T) int64, those sampled so far.
        position: (1,) int64, the next position.
        logits: (B, K) of the last step, guided, before temperature and filters.
    """

    def __init__(self, transformer: TokenTransformer, batch: int, sampling: TokenSampling) -> None:
        self.transformer, self.sampling, self.batch = transformer, sampling, batch
        self.branches = 1 if sampling.guidance == 1 else 2
        places = transformer.places                                                    # (T, W)
        codes, rows = len(transformer.tokens.weight), self.branches * batch
        self.position = torch.zeros(1, dtype=torch.long, device=places.device)
        self.tokens = torch.zeros(batch, len(places), dtype=torch.long, device=places.device)
        self.logits = torch.zeros(batch, codes, device=places.device)
        self.noise = torch.zeros(batch, CHUNK_STEPS, codes, device=places.device)      # of the Gumbel distribution
        self.condition = Condition(places.new_zeros(rows, places.shape[1]), places.new_zeros(rows, *places.shape))
        self.caches = transformer.new_caches(rows)

    @torch.no_grad()
    def generate(
        self,
        condition: Condition,
        null: Condition | None = None,
        generators: Sequence[torch.Generator] = (),
        prefix: Tensor | None = None,
        stop: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Sample tokens (B, stop).

        Args:
            condition: of the B clips.
            null: the same without images, if guidance is used.
            generators: one a clip, on the transformer's device, so that a clip's tokens do not depend on its batch;
                not needed at temperature 0.
            prefix: (B, P) first tokens, given; they are part of the result.
            stop: number of tokens, from P to T; default T.
            progress: called every `CHUNK_STEPS` steps.

        Raises:
            ValueError: inputs of another batch size, a prefix longer than `stop`, or a branch or generator missing.
        """
        start = 0 if prefix is None else prefix.shape[1]
        stop = self.tokens.shape[1] if stop is None else stop
        self._check(condition, null, generators, prefix, start, stop)
        self.start(condition, null, prefix)
        for first in range(start, stop, CHUNK_STEPS):
            steps = min(CHUNK_STEPS, stop - first)
            self._draw_noise(generators)
            for _ in range(steps):
                self.step()
            if progress:
                progress(steps)
        return self.tokens[:, :stop].clone()

    @torch.no_grad()
    def start(self, condition: Condition, null: Condition | None = None, prefix: Tensor | None = None) -> None:
        """Set all buffers to the state before the first step."""
        length = 0 if prefix is None else prefix.shape[1]
        for rows, *branches in zip(self.condition, condition, *([null] if null else []), strict=True):
            rows.copy_(torch.cat(branches))
        for cache in self.caches:
            cache.zero_()
        self.tokens.zero_()
        self.position.fill_(length)
        if prefix is not None and length:
            self.tokens[:, :length] = prefix
            self.transformer(self.tokens.repeat(self.branches, 1), self.condition, self.caches, length)

    @torch.no_grad()
    def step(self) -> None:
        """Sample the token at `position` and advance."""
        previous = self.tokens.index_select(1, (self.position - 1).clamp(min=0))[:, 0]                 # (B,)
        rows = previous.repeat(self.branches)                                                          # (R,)
        logits = self.transformer.step(rows, self.position, self.condition, self.caches)               # (R, K)
        if self.branches == 2:
            conditional, null = logits.chunk(2)                                                        # (B, K)
            logits = self.sampling.guidance * conditional + (1 - self.sampling.guidance) * null
        self.logits.copy_(logits)
        self.tokens.index_copy_(1, self.position, self._draw(logits))
        self.position.add_(1)

    def _draw(self, logits: Tensor) -> Tensor:
        """(B, K) -> tokens (B, 1): the largest of logits plus Gumbel noise is a draw from their softmax."""
        if self.sampling.temperature:
            logits = filter_logits(logits / self.sampling.temperature, self.sampling.top_k, self.sampling.top_p)
            logits = logits + self.noise.index_select(1, self.position % CHUNK_STEPS)[:, 0]
        return logits.argmax(dim=1, keepdim=True)

    def _draw_noise(self, generators: Sequence[torch.Generator]) -> None:
        """Noise of the next `CHUNK_STEPS` steps, each clip's from its own generator: -ln of exponential draws."""
        if self.sampling.temperature:
            for noise, generator in zip(self.noise, generators, strict=True):
                noise.exponential_(generator=generator)
            self.noise.log_().neg_()

    def _check(
        self,
        condition: Condition,
        null: Condition | None,
        generators: Sequence[torch.Generator],
        prefix: Tensor | None,
        start: int,
        stop: int,
    ) -> None:
        sizes = [len(item.start) for item in (condition, null) if item] + ([] if prefix is None else [len(prefix)])
        if any(size != self.batch for size in sizes):
            raise ValueError(f"a sampler for {self.batch} clips got conditions or a prefix of {sizes}")
        if (null is None) == (self.branches == 2):
            raise ValueError(f"guidance {self.sampling.guidance:g} needs {self.branches} conditions a clip")
        if self.sampling.temperature and len(generators) != self.batch:
            raise ValueError(f"{self.batch} clips need as many generators, got {len(generators)}")
        if not start <= stop <= self.tokens.shape[1]:
            raise ValueError(f"{start} given tokens <= stop {stop} <= {self.tokens.shape[1]} positions does not hold")
