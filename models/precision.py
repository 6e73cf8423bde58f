"""Precision of a computation on this machine: bfloat16 only where the processor has instructions for it."""

import functools

import torch

from sonolume.utils.text import message

FULL = "32-true"  # Lightning's name of float32


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16; without such instructions PyTorch emulates it, up to 90 times slower."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # built without oneDNN
        return False


def usable(precision: str, device: str) -> str:
    """Lightning's name of the precision to compute in: `precision`, or float32 instead of bfloat16 on such a CPU.

    Weights and checkpoints are float32 in both.

    Args:
        device: type of the device, such as "cpu", or Lightning's name of an accelerator.
    """
    if not precision.startswith("bf16") or not _is_cpu(device) or cpu_has_bfloat16():
        return precision
    _report(precision)
    return FULL


@functools.cache
def _report(precision: str) -> None:
    """Say once what is used instead."""
    message(f"train.precision {precision}: this processor does not multiply bfloat16, so float32 is used (faster here)")


def _is_cpu(device: str) -> bool:
    if device != "auto":
        return device == "cpu"
    return not (torch.cuda.is_available() or torch.backends.mps.is_available())
