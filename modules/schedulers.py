"""Named samplers: scheduler and number of steps for each training objective."""

import inspect
from typing import Any

import diffusers

# objective -> preset -> (scheduler class, its settings, number of steps)
PRESETS: dict[str, dict[str, tuple[str, dict[str, Any], int]]] = {
    "epsilon": {
        "reference": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}, 200),
        "balanced": ("UniPCMultistepScheduler", {"solver_order": 2, "use_karras_sigmas": True}, 20),
        "fast": ("DEISMultistepScheduler", {"solver_order": 2, "use_karras_sigmas": True}, 10),
    },
    "v_prediction": {
        "balanced": ("UniPCMultistepScheduler", {"solver_order": 2, "use_karras_sigmas": True}, 20),
        "fast": ("DEISMultistepScheduler", {"solver_order": 2, "use_karras_sigmas": True}, 10),
    },
    "flow": {
        "reference": ("FlowMatchEulerDiscreteScheduler", {}, 100),
        "balanced": ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "solver_order": 2}, 20),
        "fast": ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "solver_order": 2}, 10),
    },
}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {  # --scheduler name -> class and settings
    "ddim": ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1}),
    "pndm": PRESETS["epsilon"]["reference"][:2],
    "dpm++": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "unipc": PRESETS["epsilon"]["balanced"][:2],
    "deis": PRESETS["epsilon"]["fast"][:2],
    "flow-euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow-unipc": PRESETS["flow"]["balanced"][:2],
}


def objective_of(scheduler: Any) -> str:
    """Objective of a scheduler's network: "epsilon", "v_prediction" or "flow"."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return "flow"
    prediction = scheduler.config.get("prediction_type", "epsilon")
    return "flow" if prediction == "flow_prediction" else prediction


def make_scheduler(name: str, settings: dict[str, Any], objective: str, noise: dict[str, Any]) -> Any:
    """A diffusers scheduler for a network trained for `objective` on the noise schedule `noise`.

    Args:
        noise: num_train_timesteps, beta_start, beta_end, beta_schedule, clip_sample; not used by "flow".
    """
    kind = getattr(diffusers, name)
    if name.startswith("FlowMatch"):
        return kind(num_train_timesteps=1000, **settings)
    if objective == "flow":
        return kind(num_train_timesteps=1000, prediction_type="flow_prediction", **settings)
    wanted = {"prediction_type": objective, **noise, **settings}
    known = inspect.signature(kind).parameters
    return kind(**{key: value for key, value in wanted.items() if key in known})


def preset(name: str, objective: str, noise: dict[str, Any]) -> tuple[Any, int]:
    """The scheduler and number of steps of a preset.

    Raises:
        ValueError: no such preset for this objective.
    """
    choices = PRESETS[objective]
    if name not in choices:
        raise ValueError(f"no preset {name!r} for a network that predicts {objective}: {', '.join(choices)}")
    kind, settings, steps = choices[name]
    return make_scheduler(kind, settings, objective, noise), steps


def scheduler(name: str, objective: str, noise: dict[str, Any]) -> Any:
    """A scheduler by its short name.

    Raises:
        ValueError: no such scheduler, or not for this objective.
    """
    fitting = [key for key in SCHEDULERS if key.startswith("flow") == (objective == "flow")]
    if name not in fitting:
        raise ValueError(f"no scheduler {name!r} for a network that predicts {objective}: {', '.join(fitting)}")
    kind, settings = SCHEDULERS[name]
    return make_scheduler(kind, settings, objective, noise)
