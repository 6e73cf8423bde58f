"""Autoregressive sampling of tokens with a step of fixed shape, on static buffers, without host sync.

B clips, R rows: B conditional ones, then with guidance B null ones, then with a negative condition B negative ones; T
positions, W width, K codes.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sonolume.modules.im2wav.compiled import compile_for_rows
from sonolume.modules.im2wav.linear import for_rows
from sonolume.modules.im2wav.transformer import Condition, TokenTransformer

CHUNK_STEPS = 64  # steps between two draws of noise, and between two reports of progress
WARM_UP_STEPS = 3  # before the capture of a CUDA graph

Progress = Callable[[int], None]  # (number of tokens since the last call)


@dataclass(frozen=True)
class TokenSampling:
    """Settings of sampling a token from logits.

    Logits are guided by classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), and by the negation of
    composed conditions (Liu et al. 2022, arXiv 2206.01714):
    guided = null + guidance * (conditional - null) - negative_guidance * (negative - null).

    Args:
        temperature: divisor of the logits; 0 for the most likely token.
        top_k: number of most likely tokens to draw from; 0 for all.
        top_p: total probability of the most likely tokens to draw from; 0 for all.
        guidance: scale of classifier-free guidance.
        negative_guidance: scale of a negative condition; 0 without one. Half of `guidance` is a good start.

    Raises:
        ValueError: a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    guidance: float = 1.0
    negative_guidance: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature:g}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must be from 0 to 1, got {self.top_p:g}")
        if self.negative_guidance < 0:
            raise ValueError(f"negative_guidance must not be negative, got {self.negative_guidance:g}")

    @property
    def branch_scales(self) -> tuple[float, ...]:
        """Factors of the conditional, null and negative logits; only of the branches that are needed."""
        if self.negative_guidance:
            return self.guidance, 1 - self.guidance + self.negative_guidance, -self.negative_guidance
        return (1.0,) if self.guidance == 1 else (self.guidance, 1 - self.guidance)


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Set the logits (..., K) of excluded tokens to -inf; at least one token remains.

    Top-k keeps all values >= the k-th largest. Top-p (Holtzman et al. 2020, arXiv 1904.09751) removes all tokens after
    the one at which the cumulative probability exceeds p.
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
    """Sampler for batches of one size.

    All buffers keep shape and address between calls, and `step` updates them in place: `sampler.step` can be replaced
    by `torch.compile(sampler.step, fullgraph=True)`, which compiles once. On CUDA, `generate` replaces it by the replay
    of its CUDA graph. On a CPU in float32, it uses linear layers made for its number of rows (`linear.py`).

    Args:
        transformer: the prior's transformer, in evaluation mode; its weights are read once.
        batch: B.
        sampling: settings; they decide which branches are computed.
        compiled: on a CPU, compile the step for few rows (`compiled.py`).

    Attributes:
        tokens: (B, T) int64, sampled up to `position`.
        position: (1,) int64, next position.
        logits: (B, K) guided logits of the last step, before temperature and filters.
    """

    def __init__(
        self, transformer: TokenTransformer, batch: int, sampling: TokenSampling, compiled: bool = False
    ) -> None:
        self.transformer, self.sampling, self.batch = transformer, sampling, batch
        self.branches = len(sampling.branch_scales)
        places = transformer.places                                                    # (T, W)
        codes, rows = len(transformer.tokens.weight), self.branches * batch
        stepper = compile_for_rows(transformer, rows) if compiled else None
        self.stepper = stepper or for_rows(transformer, rows)
        self.captured = False
        self.position = torch.zeros(1, dtype=torch.long, device=places.device)
        self.tokens = torch.zeros(batch, len(places), dtype=torch.long, device=places.device)
        self.logits = torch.zeros(batch, codes, device=places.device)
        self.noise = torch.zeros(batch, CHUNK_STEPS, codes, device=places.device)      # Gumbel noise
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
        negative: Condition | None = None,
    ) -> Tensor:
        """Sample tokens (B, stop).

        Args:
            condition: conditions of the B clips.
            null: conditions without images, with guidance only.
            generators: one for each clip, on the device of the transformer, so that the tokens of a clip do not depend
                on the batch; none at temperature 0.
            prefix: (B, P) given first tokens, part of the result.
            stop: number of tokens, P to T; default T.
            progress: called every `CHUNK_STEPS` steps.
            negative: conditions of what is not wanted, with negative guidance only.

        Raises:
            ValueError: inputs of another batch size, a prefix longer than `stop`, or a branch or generator missing.
        """
        branches = [item for item in (condition, null, negative) if item is not None]
        start = 0 if prefix is None else prefix.shape[1]
        stop = self.tokens.shape[1] if stop is None else stop
        self._check(branches, generators, prefix, start, stop)
        if self.position.is_cuda and not self.captured:
            self.capture()
        self.start(*branches, prefix=prefix)
        for first in range(start, stop, CHUNK_STEPS):
            steps = min(CHUNK_STEPS, stop - first)
            self._draw_noise(generators)
            for _ in range(steps):
                self.step()
            if progress:
                progress(steps)
        return self.tokens[:, :stop].clone()

    @torch.no_grad()
    def start(self, *branches: Condition, prefix: Tensor | None = None) -> None:
        """Reset all buffers to the conditions of all branches, and fill the caches with the prefix in parallel."""
        length = 0 if prefix is None else prefix.shape[1]
        for rows, *parts in zip(self.condition, *branches, strict=True):
            rows.copy_(torch.cat(parts))
        for cache in self.caches:
            cache.zero_()
        self.tokens.zero_()
        self.position.fill_(length)
        if prefix is not None and length:
            self.tokens[:, :length] = prefix
            self.transformer.fill(self.caches, length, self.tokens.repeat(self.branches, 1), self.condition)

    @torch.no_grad()
    def step(self) -> None:
        """Sample the token at `position` and advance."""
        previous = self.tokens.index_select(1, (self.position - 1).clamp(min=0))[:, 0]                 # (B,)
        rows = previous.repeat(self.branches)                                                          # (R,)
        logits = self.stepper.step(rows, self.position, self.condition, self.caches)                   # (R, K)
        if self.branches > 1:
            scaled = zip(self.sampling.branch_scales, logits.chunk(self.branches), strict=True)
            logits = torch.stack([scale * branch for scale, branch in scaled]).sum(dim=0)              # (B, K)
        self.logits.copy_(logits)
        self.tokens.index_copy_(1, self.position, self._draw(logits))
        self.position.add_(1)

    def capture(self) -> None:
        """Replace `step` by the replay of its CUDA graph; where that fails, warn and keep the step as it is.

        A step launches about 700 kernels, whose launches take longer than the kernels. Buffers are overwritten: `start`
        resets them.
        """
        self.captured = True
        self.position.zero_()
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
                for _ in range(WARM_UP_STEPS):
                    self.step()
            torch.cuda.synchronize()
            torch.clear_autocast_cache()  # the graph must not keep tensors of it
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.step()
            self.step = graph.replay  # type: ignore[method-assign]
        except RuntimeError as error:
            warnings.warn(f"sampling without a CUDA graph: {str(error).splitlines()[0]}", stacklevel=2)

    def _draw(self, logits: Tensor) -> Tensor:
        """(B, K) -> tokens (B, 1) by the Gumbel-max trick: argmax of logits plus noise is a draw from the softmax."""
        if self.sampling.temperature:
            logits = filter_logits(logits / self.sampling.temperature, self.sampling.top_k, self.sampling.top_p)
            logits = logits + self.noise.index_select(1, self.position % CHUNK_STEPS)[:, 0]
        return logits.argmax(dim=1, keepdim=True)

    def _draw_noise(self, generators: Sequence[torch.Generator]) -> None:
        """Draw the Gumbel noise, -ln of an exponential variable, of the next `CHUNK_STEPS` steps."""
        if self.sampling.temperature:
            for noise, generator in zip(self.noise, generators, strict=True):
                noise.exponential_(generator=generator)
            self.noise.log_().neg_()

    def _check(
        self,
        branches: Sequence[Condition],
        generators: Sequence[torch.Generator],
        prefix: Tensor | None,
        start: int,
        stop: int,
    ) -> None:
        sizes = [len(item.start) for item in branches] + ([] if prefix is None else [len(prefix)])
        if any(size != self.batch for size in sizes):
            raise ValueError(f"a sampler for {self.batch} clips got conditions and prefix for {sizes}")
        if len(branches) != self.branches:
            scales = f"guidance {self.sampling.guidance:g} and {self.sampling.negative_guidance:g}"
            raise ValueError(f"{scales} take {self.branches} conditions, got {len(branches)}")
        if self.sampling.temperature and len(generators) != self.batch:
            raise ValueError(f"{self.batch} clips need as many generators, got {len(generators)}")
        if not start <= stop <= self.tokens.shape[1]:
            raise ValueError(f"prefix {start} <= stop {stop} <= {self.tokens.shape[1]} positions does not hold")
