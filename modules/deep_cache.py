"""Re-use of the deep layers of a diffusion U-Net from one sampling step to the next.

DeepCache (Ma et al. 2024, arXiv 2312.00858): the outputs of the deep layers change little from step to step, so they
need not be computed at each of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn


@contextmanager
def deep_cache(unet: UNet2DConditionModel, interval: int, calls_per_step: int = 1) -> Iterator[None]:
    """Compute the deep layers of a U-Net at every `interval`-th step, within the block, which is one run of a sampler.

    The other steps compute the first down block and the last up block, and take the outputs of all blocks between them
    from the last step that computed these. The first step always does, and so does one with another batch size than
    the step before, such as when guidance ends.

    Args:
        interval: 1 changes nothing; as many as the steps, or more: the deep layers are computed once.
        calls_per_step: calls of the U-Net at each step, if the samples are divided among several; each has outputs of
            its own.

    Raises:
        ValueError: the interval is no whole number or below 1, or the U-Net is compiled or has one level only.
    """
    if type(interval) is not int or interval < 1:
        raise ValueError(f"cache_interval must be a whole number of at least 1, got {interval!r}")
    if interval == 1:
        yield
        return
    if len(unet.down_blocks) < 2:
        raise ValueError("cache_interval must be 1: this U-Net has one level, so it has no deep layers")
    if getattr(unet, "_compiled_call_impl", None) is not None:
        raise ValueError("cache_interval must be 1: this U-Net is compiled")
    cache = _Cache(interval, calls_per_step)
    hook = unet.register_forward_pre_hook(cache.begin_call, with_kwargs=True)
    blocks = [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]]
    replaced = [(block, vars(block).get("forward")) for block in blocks if block is not None]
    try:
        for number, (block, _) in enumerate(replaced):
            block.forward = cache.cached(number, block.forward)
        yield
    finally:
        hook.remove()
        for block, forward in replaced:
            del block.forward
            if forward is not None:  # another library had replaced it, such as accelerate
                block.forward = forward


class _Cache:
    """Outputs of deep blocks, for each call of a step."""

    def __init__(self, interval: int, calls_per_step: int) -> None:
        self.interval, self.calls_per_step = interval, calls_per_step
        self.calls = 0
        self.place = 0  # of the current call among those of its step
        self.is_computing = True
        self.shapes: dict[int, torch.Size] = {}  # of the input of the last call at a place
        self.outputs: dict[tuple[int, int], Any] = {}  # place and block -> output

    def begin_call(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Decide whether this call of the U-Net computes its deep blocks."""
        step, self.place = divmod(self.calls, self.calls_per_step)
        self.calls += 1
        shape = (arguments[0] if arguments else named["sample"]).shape
        self.is_computing = step % self.interval == 0 or self.shapes.get(self.place) != shape
        self.shapes[self.place] = shape

    def cached(self, block: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A forward of the block with this number that gives its last output where the call does not compute it."""

        def wrapper(*arguments: Any, **named: Any) -> Any:
            if self.is_computing:
                self.outputs[self.place, block] = forward(*arguments, **named)
            return self.outputs[self.place, block]

        return wrapper
