"""Named samplers: scheduler and number of steps for each training objective."""

import inspect
from typing import Any

import diffusers

KARRAS = {"solver_order": 2, "use_karras_sigmas": True}
FLOW = {"use_flow_sigmas": True, "solver_order": 2}
PRESETS: dict[str, dict[str, tuple[str, dict[str, Any], int]]] = {  # objective -> preset -> class, settings, steps
    "epsilon": {
        "reference": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}, 200),
        "balanced": ("UniPCMultistepScheduler", KARRAS, 20),
        "fast": ("DEISMultistepScheduler", KARRAS, 10),
    },
    "v_prediction": {
        "balanced": ("UniPCMultistepScheduler", KARRAS, 20),
        "fast": ("DEISMultistepScheduler", KARRAS, 10),
    },
    "flow": {
        "reference": ("FlowMatchEulerDiscreteScheduler", {}, 100),
        "balanced": ("UniPCMultistepScheduler", FLOW, 20),
        "fast": ("UniPCMultistepScheduler", FLOW, 10),
    },
}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {  # --scheduler name -> class and settings
    "ddim": ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1}),
    "pndm": PRESETS["epsilon"]["reference"][:2],
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
    """A diffusers scheduler for a network trained for `objective` on the noise schedule `noise`.

    Args:
        noise: num_train_timesteps, beta_start, beta_end, beta_schedule, clip_sample; not used by "flow".
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
