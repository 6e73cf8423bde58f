"""Sampling of diffusion models: named schedulers for each training objective, and classifier-free guidance."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor
from torch.nn import functional as F

KARRAS = {"solver_order": 2, "use_karras_sigmas": True}
FLOW = {"use_flow_sigmas": True, "solver_order": 2}
PNDM = ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1})
QUICK = {"balanced": ("UniPCMultistepScheduler", KARRAS, 20), "fast": ("DEISMultistepScheduler", KARRAS, 10)}
PRESETS: dict[str, dict[str, tuple[str, dict[str, Any], int]]] = {  # objective -> preset -> class, settings, steps
    "epsilon": {"reference": (*PNDM, 200), **QUICK},
    "v_prediction": QUICK,
    "flow": {
        "reference": ("FlowMatchEulerDiscreteScheduler", {}, 100),
        "balanced": ("UniPCMultistepScheduler", FLOW, 20),
        "fast": ("UniPCMultistepScheduler", FLOW, 10),
    },
}
TURBO_STEPS = 4  # of the preset "turbo", the sampler of distilled models
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {  # --scheduler name -> class and settings
    "ddim": ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1}),
    "pndm": PNDM,
    "dpm++": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", KARRAS),
    "deis": ("DEISMultistepScheduler", KARRAS),
    "flow-euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow-unipc": ("UniPCMultistepScheduler", FLOW),
}


def objective_of(scheduler: Any) -> str:
    """Objective of a scheduler's network: "epsilon", "v_prediction" or "flow"."""
    prediction = scheduler.config.get("prediction_type", "epsilon")
    is_flow = type(scheduler).__name__.startswith("FlowMatch") or prediction == "flow_prediction"
    return "flow" if is_flow else prediction


def make_scheduler(name: str, settings: dict[str, Any], objective: str, noise: dict[str, Any]) -> Any:
    """A diffusers scheduler for a network trained for `objective`.

    `noise` has num_train_timesteps, beta_start, beta_end, beta_schedule and clip_sample, and is not used by "flow".
    """
    kind = getattr(diffusers, name)
    known = inspect.signature(kind).parameters
    if objective == "flow":
        wanted = {"num_train_timesteps": 1000, "prediction_type": "flow_prediction", **settings}
    else:
        wanted = {"prediction_type": objective, **noise, **settings}
    return kind(**{key: value for key, value in wanted.items() if key in known})


def preset(name: str, objective: str, noise: dict[str, Any]) -> tuple[Any, int]:
    """The scheduler and number of steps of a preset; raises a ValueError if this objective has none of this name."""
    if name == "turbo":
        kind = "FlowMatchLCMScheduler" if objective == "flow" else "LCMScheduler"
        return make_scheduler(kind, {}, objective, noise), TURBO_STEPS
    choices = PRESETS[objective]
    if name not in choices:
        raise ValueError(f"no preset {name!r} for a network that predicts {objective}: {', '.join(choices)}")
    kind, settings, steps = choices[name]
    return make_scheduler(kind, settings, objective, noise), steps


def scheduler(name: str, objective: str, noise: dict[str, Any]) -> Any:
    """A scheduler by its short name; raises a ValueError if this objective has none of this name."""
    fitting = [key for key in SCHEDULERS if key.startswith("flow") == (objective == "flow")]
    if name not in fitting:
        raise ValueError(f"no scheduler {name!r} for a network that predicts {objective}: {', '.join(fitting)}")
    return make_scheduler(*SCHEDULERS[name], objective, noise)


def begin(scheduler: Any, steps: int, strength: float, device: torch.device) -> int:
    """Set the timesteps; returns the index of the first one to run: the last `strength` of all steps, at least one.

    Schedulers of order 2 (Heun, KDPM2) call the network, and have a timestep, twice in each step but the last.
    """
    if type(scheduler).__name__ == "FlowMatchLCMScheduler":  # its own last noise level is nearly 0, a wasted step
        scheduler.set_timesteps(sigmas=[1 - number / steps for number in range(steps)], device=device)
    else:
        scheduler.set_timesteps(steps, device=device)
    first = (steps - max(1, round(steps * strength))) * getattr(scheduler, "order", 1)
    times = scheduler.timesteps
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    elif first and len(times) > 2 and times[1] == times[2]:
        rest = times.unique().flip(0)[first:]  # PNDM runs its second step twice, wherever it starts
        scheduler.timesteps = torch.cat([rest[:2], rest[1:]])
        return 0
    return first


def is_between_steps(scheduler: Any) -> bool:
    """False after the first of the two network calls of a step (schedulers of order 2)."""
    return getattr(scheduler, "state_in_first_order", True)


def step_arguments(scheduler: Any, generator: Any = None, eta: float = 0.0) -> dict[str, Any]:
    """Optional arguments of `scheduler.step`: `generator` and `eta`, if it takes them.

    Args:
        generator: one, or one per sample, for schedulers that draw noise (DDPM, Euler ancestral).
        eta: 0 to 1, noise of DDIM and TCD.

    Raises:
        ValueError: `eta` is out of range, or not 0 although this scheduler has none.
    """
    known = inspect.signature(scheduler.step).parameters
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be from 0 to 1, got {eta:g}")
    if eta and "eta" not in known:
        raise ValueError(f"{type(scheduler).__name__} has no eta: leave it at 0, or use DDIM")
    return {name: value for name, value in (("generator", generator), ("eta", eta)) if name in known}


def scale_noise(scheduler: Any, noise: Tensor) -> Tensor:
    """Noise at the level of the first timestep."""
    return noise * getattr(scheduler, "init_noise_sigma", 1.0)


def scale_model_input(scheduler: Any, latents: Tensor, t: Tensor) -> Tensor:
    """Input of the network; schedulers of rectified flow do not scale it."""
    return scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents


def add_noise(scheduler: Any, clean: Tensor, noise: Tensor, index: int) -> Tensor:
    """`clean` at the noise level of timestep number `index`, the next one to run; `clean` itself after the last."""
    if index == len(scheduler.timesteps):
        return clean
    time = scheduler.timesteps[index : index + 1]
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, time, noise)
    return scheduler.add_noise(clean, noise, time)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

    Raises:
        ValueError: rescale or interval out of range.
    """

    scale: float  # 1 is no guidance
    # how far to bring the deviation back to the conditional prediction's, 0 to 1 (Lin et al. 2023, arXiv 2305.08891)
    rescale: float = 0.0
    # noise times, 0 (clean) to 1 (noise), outside of which only the conditional branch is computed (Kynkaanniemi et al.
    # 2024, arXiv 2404.07724)
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance_rescale must be from 0 to 1, got {self.rescale:g}")
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"guidance_interval must be LOW HIGH with 0 <= LOW < HIGH <= 1, got {low:g} {high:g}")

    @property
    def is_used(self) -> bool:
        return self.scale != 1

    def is_on(self, time: float) -> bool:
        """True if a step at this time, from 0 (clean) to 1 (noise), needs the unconditional branch."""
        return self.is_used and self.interval[0] <= time <= self.interval[1]

    def combine(self, unconditional: Tensor, conditional: Tensor) -> Tensor:
        """Predictions (B, ...) of both branches -> the guided prediction (Lin et al. 2023, equations 14 to 16)."""
        guided = unconditional + self.scale * (conditional - unconditional)
        if not self.rescale:
            return guided
        axes = tuple(range(1, guided.ndim))
        ratio = conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-8)
        return guided * (1 + self.rescale * (ratio - 1))


class TextStates(NamedTuple):
    """Hidden states of B texts, behind those of their negative texts where guidance is used."""

    states: Tensor  # (2B, L, D) or (B, L, D)
    mask: Tensor | None  # (2B, L) or (B, L), 1 for text, 0 for padding; None: padding is attended to
    size: int  # B

    @property
    def is_guided(self) -> bool:
        return len(self.states) > self.size

    def rows(self, texts: Tensor) -> "TextStates":
        """States of the texts (b,) by their index, and of their negative texts."""
        rows = torch.arange(len(self.states), device=texts.device).unflatten(0, (-1, self.size))[:, texts].flatten()
        return TextStates(self.states[rows], None if self.mask is None else self.mask[rows], len(texts))

    def conditional(self) -> "TextStates":
        """States without those of the negative texts."""
        mask = None if self.mask is None else self.mask[-self.size :]
        return TextStates(self.states[-self.size :], mask, self.size)


def join_states(states: Sequence[Tensor], masks: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """States (b, L, D) of different lengths L, and masks (b, L) of some -> all in one batch, and its mask.

    What is padded here is masked. The mask is None if nothing was padded or masked.
    """
    longest = max(one.shape[1] for one in states)
    joined = torch.cat([F.pad(one, (0, 0, 0, longest - one.shape[1])) for one in states])
    if all(mask is None for mask in masks) and all(one.shape[1] == longest for one in states):
        return joined, None
    pairs = zip(states, masks, strict=True)
    full = [one.new_ones(one.shape[:2], dtype=torch.int64) if mask is None else mask for one, mask in pairs]
    return joined, torch.cat([F.pad(mask.to(joined.device), (0, longest - mask.shape[1])) for mask in full])


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """Build one generator per sample, independent of batching; on the CPU, so that all devices draw the same noise."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
