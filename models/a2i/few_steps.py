"""Few-step sampling of pictures: a LoRA made by distillation, and what a Stable Diffusion with it takes.

It is the file `FOLDER`/pytorch_lora_weights.safetensors in the folder of a Stable Diffusion, or is given by --lora.
An LCM-LoRA (Luo et al. 2023, arXiv 2311.05556) and one made by our distillation both turn Stable Diffusion into a
network for `LCMScheduler`, with 1 to 8 steps and little or no guidance.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sonolume.modules.lora import FILE, read
from sonolume.modules.sampling import TURBO_STEPS
from sonolume.utils.errors import UserError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

FOLDER = "turbo"  # of such a LoRA, in the folder of a Stable Diffusion
LCM_NAME = re.compile(r"(?<![a-z])lcm(?![a-z])", re.IGNORECASE)  # in the name of a file, folder or hub id
LCM_MOST_STEPS, LCM_MOST_GUIDANCE = 50, 2.0


@dataclass(frozen=True)
class FewSteps:
    """Limits of a U-Net with such a LoRA."""

    name: str  # of the LoRA, for messages
    most_steps: int
    most_guidance: float  # 1 is none
    built_in: float | None = None  # guidance of the teacher, part of the result

    @property
    def steps(self) -> int:
        """Default number of steps."""
        return min(TURBO_STEPS, self.most_steps)

    def takes_steps(self, steps: int) -> bool:
        """Test whether the U-Net was made for a number of steps."""
        return 1 <= steps <= self.most_steps and (self.built_in is None or self.most_steps % steps == 0)

    @property
    def allowed(self) -> str:
        """Numbers of steps that the U-Net takes, for messages."""
        made_for = [str(one) for one in range(1, self.most_steps + 1) if self.takes_steps(one)]
        return f"1 to {self.most_steps}" if self.built_in is None else ", ".join(made_for)

    def check(self, steps: int, guidance_scale: float, has_negatives: bool) -> None:
        """Raise a ValueError for settings that such a U-Net does not take."""
        if not self.takes_steps(steps):
            raise ValueError(f"{self.name} takes {self.allowed} steps, got {steps}: another preset takes more")
        if guidance_scale > self.most_guidance:
            why = "takes" if self.built_in is None else f"has guidance of {self.built_in:g} built in, and takes"
            raise ValueError(f"{self.name} {why} a guidance scale of at most {self.most_guidance:g}, "
                             f"got {guidance_scale:g}: another preset takes more")  # fmt: skip
        if has_negatives and guidance_scale <= 1:
            raise ValueError(f"{self.name} takes no negative text or sound without guidance: use another preset")


LCM = FewSteps("an LCM-LoRA", LCM_MOST_STEPS, LCM_MOST_GUIDANCE)


def of_lora(source: str, header: dict[str, str]) -> FewSteps | None:
    """Recognise a LoRA for few steps: one of ours by its header, an LCM-LoRA by "lcm" in its name; else None.

    Raises:
        UserError: the header is damaged.
    """
    if "steps" in header:
        try:
            return FewSteps("this distilled LoRA", int(header["steps"]), 1.0, float(header["guidance_scale"]))
        except (KeyError, ValueError) as error:
            raise UserError(f"{source}: its header is damaged: steps or guidance_scale") from error
    return LCM if LCM_NAME.search(source) else None


def in_folder(folder: Path) -> "Turbo | None":
    """The preset of a Stable Diffusion's folder, if it has one; raises a UserError if the file is damaged."""
    file = folder / FOLDER / FILE
    if not file.is_file():
        return None
    try:
        header = read(file)[1]
    except ValueError as error:
        raise UserError(str(error)) from error
    limits = of_lora(str(file), header)
    return None if limits is None else Turbo(limits, file)


class Turbo:
    """Preset "turbo" of a U-Net: a LoRA that is in its weights already, or that is merged in while the preset is used.

    Args:
        limits: of the U-Net with the LoRA.
        file: LoRA of `models/lora.py` to merge; None if it is in the weights already.
    """

    def __init__(self, limits: FewSteps, file: Path | None = None) -> None:
        self.limits, self.file = limits, file
        self._replaced: dict[str, Tensor] | None = None  # weights without the LoRA, while it is merged in

    def merge(self, unet: "UNet2DConditionModel") -> None:
        """Merge the LoRA in, unless it is; raises a UserError if it does not fit."""
        if self.file is None or self._replaced is not None:
            return
        from sonolume.models import lora

        before = {name: weight.detach().clone() for name, weight in unet.named_parameters()}
        lora.load(SimpleNamespace(unet=unet), self.file)
        after = dict(unet.named_parameters())
        self._replaced = {name: weight for name, weight in before.items() if not weight.equal(after[name])}

    def unmerge(self, unet: "UNet2DConditionModel") -> None:
        """Put the weights back as they were before `merge`."""
        weights = dict(unet.named_parameters())
        with torch.no_grad():  # not through .data, whose changes prepacked layers cannot see
            for name, weight in (self._replaced or {}).items():
                weights[name].copy_(weight)
        self._replaced = None
