"""Sound to sound: replace parts of a recording, change all of it, or continue it."""

import argparse
from collections.abc import Iterator
from typing import Any

import gradio as gr

from sonolume.config.options import Spans, parse_spans
from sonolume.utils.audio import format_span
from sonolume.utils.errors import UserError
from sonolume.web import regions, uploads
from sonolume.web.controls import MAX_TEXT, check_samples, sampling_options, sampling_rows, seed_row
from sonolume.web.limits import check_number, check_text
from sonolume.web.page import PRIVATE, Outputs, Page, Target, error_line

TITLE = "Sound to sound"
RECIPES = ("tta/audioldm",)
MAX_REGIONS = 16


def build(page: Page) -> None:
    """Lay out the inputs, and connect them."""
    longest = page.settings.max_seconds
    audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label=f"Sound (up to {longest:g} s)",
                     waveform_options={"show_recording_waveform": False}, buttons=[])  # fmt: skip
    canvas = regions.regions_canvas()
    mask = gr.Textbox("", label="Seconds to replace (empty: all)", max_length=MAX_TEXT,
                      placeholder="1-2,3.5- (to the end)")  # fmt: skip
    text = gr.Textbox("", label="Description of the whole result", lines=2, max_length=MAX_TEXT,
                      placeholder="Rain falls, then a bell rings")  # fmt: skip
    with gr.Row():
        strength = gr.Slider(0, 1, 0, step=0.05, label="Strength", min_width=200,
                             info="share to replace; 0 chooses: 0.8, or 1 in marked parts")
        duration = gr.Slider(0, longest, 0, step=0.5, label="Continue up to", info="seconds; 0: keep the length",
                             min_width=200)  # fmt: skip
    seed, samples = seed_row()
    sampling = sampling_rows()
    regions.connect(canvas, mask)
    _show_sound(page, audio, mask, canvas)
    page.targets.append(Target("Edit", "sound", "edit_sound", audio))

    def edit_sound(
        audio: str | None, mask: str, text: str, strength: float, duration: float, seed: float, random_seed: bool,
        num_samples: float, preset: str, num_steps: float | None, guidance_scale: float | None, negative_text: str,
        scheduler: str, history: list[Any],
    ) -> Iterator[Outputs]:  # fmt: skip
        """Replace parts of a sound, change all of it, or continue it.

        Args:
            audio: sound to start from.
            mask: seconds to replace, such as "1-2,3.5-" (to the end); the rest is kept. Empty: the whole sound changes.
            text: description of the whole result, such as "Rain falls, then a bell rings".
            strength: how much is replaced, above 0 to 1; 0 is 0.8, and 1 with a mask or a continuation.
            duration: continue the sound up to this many seconds; 0 keeps its length.
            seed: number of the noise; the same number gives the same sound.
            random_seed: draw another seed instead; it is the second result.
            num_samples: sounds from seed, seed + 1 ...
            preset: sampler: the model's own, reference, balanced, fast or turbo.
            num_steps: denoising steps; 0 for the sampler's.
            guidance_scale: strength of the description; 0 for the model's.
            negative_text: what the sound should not contain.
            scheduler: another sampler by name.
        """

        def options(**given: Any) -> Any:
            from sonolume.config.tta.audioldm import InferenceOptions

            path, spans = uploads.check_sound(audio, page.settings), check_mask(mask)
            check_number("duration", duration, 0, longest)
            check_lengths(spans, duration, regions.waveform(path, longest)["duration"])
            return InferenceOptions(
                init_audio=path,
                mask=spans,
                text=[check_text("text", text, MAX_TEXT, required=True)],
                strength=check_number("strength", strength, 0, 1) or None,
                continuation=bool(duration),
                duration=duration or None,
                num_samples=check_samples(num_samples),
                **sampling_options(preset, num_steps, guidance_scale, negative_text, scheduler),
                **given,
            )

        yield from page.run(RECIPES[0], text, options, seed, random_seed, history)

    inputs = [audio, mask, text, strength, duration, seed.number, seed.random, samples, *sampling.inputs]
    page.connect(edit_sound, inputs, seed.number, seed.random, submit=[mask, text])


def _show_sound(page: Page, audio: Any, mask: Any, canvas: Any) -> None:
    """Draw each new sound, however it came, without the regions of the one before."""

    def show(path: str | None) -> dict[str, Any] | None:
        try:
            if path is None:
                return None
            return regions.waveform(uploads.check_sound(path, page.settings), page.settings.max_seconds)
        except Exception as error:
            raise error_line(error) from None

    audio.change(None, None, mask, js="() => ''", queue=False, **PRIVATE)
    shown = audio.change(show, audio, canvas, queue=False, **PRIVATE)
    shown.then(None, [mask, canvas], canvas, js=regions.FROM_TEXT, queue=False, **PRIVATE)  # typed in the meantime


def check_mask(text: Any) -> Spans:
    """Return the seconds to replace, none for an empty text; raises a UserError for anything else."""
    if not check_text("mask", text or "", MAX_TEXT).strip():
        return []
    try:
        spans = parse_spans(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"seconds to replace: {error}") from None
    if len(spans) > MAX_REGIONS:
        raise UserError(f"seconds to replace: {len(spans)} regions, at most {MAX_REGIONS} are possible")
    return spans


def check_lengths(spans: Spans, duration: float | None, seconds: float) -> None:
    """Raise a UserError unless the spans lie in the result of a sound of `seconds`, which `duration` continues."""
    if duration and duration <= seconds:
        raise UserError(f"continue up to {duration:g} s: must be longer than the {seconds:g} s of the sound, or 0")
    for start, end in spans:
        if start >= (duration or seconds) or (end or 0) > (duration or seconds):
            name, verb = format_span(start, end), "ends" if end else "begins"
            raise UserError(f"seconds to replace: {name} {verb} after the {duration or seconds:g} s of the sound")
