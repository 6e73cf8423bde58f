"""Inputs that several tabs have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from sonolume.config.audio_to_image import PLACEHOLDER
from sonolume.config.options import PRESETS, SCHEDULERS, TURBO
from sonolume.web.limits import MAX_SPAN, check_choice, check_number, check_span, check_text

MAX_SAMPLES, MAX_STEPS = 8, 200  # of one generation
MAX_TEXT = 300  # characters
OWN = "the model's own"


@dataclass(frozen=True)
class Seed:
    """Number of the noise; the drawn one is written back."""

    number: Any
    random: Any


def seed_row() -> tuple[Seed, Any]:
    """Seed, whether it is drawn anew, and the number of samples."""
    with gr.Row():
        number = gr.Number(0, label="Seed", precision=0, min_width=90)
        random = gr.Checkbox(True, label="New seed each time", min_width=90)
        samples = gr.Number(1, label=f"Samples (1 to {MAX_SAMPLES})", precision=0, min_width=90)
    return Seed(number, random), samples


def check_samples(value: float | None) -> int:
    """Return a number of samples, 1 by default; raises a UserError if it is out of range."""
    return check_number("samples", value, 1, MAX_SAMPLES, whole=True) or 1


@dataclass(frozen=True)
class Sampling:
    """Inputs of a diffusion model; their order is that of `inputs`."""

    preset: Any
    num_steps: Any
    guidance_scale: Any
    negative_text: Any
    scheduler: Any

    @property
    def inputs(self) -> list[Any]:
        return [self.preset, self.num_steps, self.guidance_scale, self.negative_text, self.scheduler]


def sampling_rows() -> Sampling:
    """Preset, steps, guidance, a negative text and the scheduler."""
    preset = gr.Radio([OWN, *PRESETS, TURBO], value=OWN, label="Sampler")
    with gr.Accordion("More settings", open=False):
        with gr.Row():
            steps = gr.Number(0, label="Steps (0: the sampler's)", precision=0)
            guidance = gr.Number(0, label="Guidance (0: the model's)")
        negative = gr.Textbox("", label="What the result should not contain", max_length=MAX_TEXT)
        scheduler = gr.Dropdown([OWN, *SCHEDULERS], value=OWN, label="Scheduler")
    return Sampling(preset, steps, guidance, negative, scheduler)


def sampling_options(
    preset: str | None, num_steps: float | None, guidance_scale: float | None, negative_text: str | None,
    scheduler: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Fields of `InferenceOptions` for the values of `Sampling.inputs`."""
    check_choice("preset", preset, (OWN, *PRESETS, TURBO))
    check_choice("scheduler", scheduler, (OWN, *SCHEDULERS))
    return {
        "preset": None if preset == OWN else preset,
        "num_steps": check_number("steps", num_steps, 0, MAX_STEPS, whole=True) or None,
        "guidance_scale": check_number("guidance", guidance_scale, 0, 100) or None,
        "negative_text": check_text("negative_text", negative_text or "", MAX_TEXT),
        "scheduler": None if scheduler == OWN else scheduler,
    }


@dataclass(frozen=True)
class Drawing:
    """Inputs of a model that draws a sound, besides the sound; their order is that of `inputs`."""

    prompt: Any
    text: Any
    mix: Any
    span: Any

    @property
    def inputs(self) -> list[Any]:
        return [self.prompt, self.text, self.mix, self.span]


def drawing_rows(what: str) -> Drawing:
    """Prompt, words to mix in with their weight, and the part of the sound.

    Args:
        what: name of the sound in the labels.
    """
    prompt = gr.Textbox("", label=f"Prompt, with {PLACEHOLDER} in the place of the {what}", max_length=MAX_TEXT,
                        placeholder="the model's own")  # fmt: skip
    with gr.Row():
        text = gr.Textbox("", label="Words to mix in", max_length=MAX_TEXT, min_width=160)
        mix = gr.Slider(0, 1, 0.5, step=0.05, label="Weight", min_width=120)
        span = gr.Textbox("", label=f"Part of the {what}", placeholder="3-6.8 or 3- (seconds)", max_length=MAX_SPAN,
                          min_width=120)  # fmt: skip
    return Drawing(prompt, text, mix, span)


def drawing_options(prompt: str | None, text: str | None, mix: float | None, span: str | None) -> dict[str, Any]:
    """Fields of `InferenceOptions` for the values of `Drawing.inputs`."""
    words = check_text("text", text or "", MAX_TEXT)
    return {
        "prompt": check_text("prompt", prompt or "", MAX_TEXT) or None,
        "text": [words] if words.strip() else [],
        "mix": check_number("mix", 0.5 if mix is None else mix, 0, 1),
        "span": check_span("span", span),
    }


def picture_input(**settings: Any) -> gr.Image:
    """A picture of which the handler gets the uploaded file unchanged, and unopened: that is left to web/uploads.py."""
    image = gr.Image(type="filepath", image_mode=None, sources=["upload", "clipboard"], buttons=[], **settings)
    image.preprocess = lambda payload: payload and payload.path  # Gradio's own has no message for a damaged file
    return image


def file_name(path: str | None) -> str:
    """Name of an uploaded file, for titles."""
    return Path(path).name if isinstance(path, str) else ""
