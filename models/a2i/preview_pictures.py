"""Preview pictures in TensorBoard while an audio-to-image recipe trains."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sonolume.models import previews
from sonolume.modules import sampling


@torch.no_grad()
def log_preview(
    task: Any, audio_tokens: Tensor, real: Sequence[Tensor] = (), height: int | None = None, width: int | None = None
) -> None:
    """Draw pictures of audio tokens (N, K, D), always from the same noise, and write them as "preview".

    Args:
        task: a LightningModule with `pipeline()`, which returns its `AudioToImagePipeline`.
        real: N pictures (3, height, width) in 0..1, shown above those drawn.
        height, width: of the pictures in pixels; default: those of the pipeline.
    """
    pipe, generators = task.pipeline(), sampling.generators(range(len(audio_tokens)))
    images = pipe(audio_tokens, height=height, width=width, generator=generators).images
    processor = pipe.sd.image_processor
    drawn = processor.numpy_to_pt(processor.pil_to_numpy(images))                             # (N, 3, H, W)
    previews.log_pictures(task, "preview", [*([torch.stack(list(real))] if len(real) else []), drawn])
