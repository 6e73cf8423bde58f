"""Compilation of networks by torch.compile, for inference: a slow first call of each shape, then faster ones."""

import torch
from torch import Tensor, nn


def check_compiler() -> None:
    """Compile a small function.

    Raises:
        RuntimeError: TorchInductor has no working C++ compiler here.
    """
    torch.compile(_double, fullgraph=True)(torch.ones(1))


def _double(x: Tensor) -> Tensor:
    return x * 2


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Compile a network in place, once for each shape of its inputs; a network that is compiled already stays so.

    On a GPU with CUDA graphs (`reduce-overhead`), which replay all kernels of a call at once; on a CPU with frozen
    weights, which are constants of the code and reordered for its kernels. Copies of the network are not compiled.
    """
    if network._compiled_call_impl is not None:
        return
    if device.type == "cpu":
        network.compile(dynamic=False, options={"freezing": True})
    else:
        network.compile(dynamic=False, mode="reduce-overhead")
