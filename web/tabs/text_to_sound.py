"""Words to sound."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from sonolume.web.controls import MAX_TEXT, check_samples, sampling_options, sampling_rows, seed_row
from sonolume.web.limits import check_number, check_text
from sonolume.web.page import Outputs, Page

TITLE = "Words to sound"
RECIPES = ("tta/audioldm",)
EXAMPLES = ("A bell rings, then rain falls", "A dog barks twice over rain", "A siren, far away")


def build(page: Page) -> None:
    """Lay out the inputs, and connect them."""
    text = gr.Textbox(EXAMPLES[0], label="Description of the sound", lines=2, max_length=MAX_TEXT, submit_btn=False)
    gr.Examples([[one] for one in EXAMPLES], text, label="For example")
    duration = gr.Slider(0, page.settings.max_seconds, 0, step=0.5, label="Seconds (0: one clip of the model)")
    seed, samples = seed_row()
    sampling = sampling_rows()

    def text_to_sound(
        text: str, duration: float, seed: float, random_seed: bool, num_samples: float, preset: str,
        num_steps: float | None, guidance_scale: float | None, negative_text: str, scheduler: str, history: list[Any],
    ) -> Iterator[Outputs]:  # fmt: skip
        """Generate sounds from a description.

        Args:
            text: description of the sound, such as "A bell rings".
            duration: seconds, 0.5 or more; 0 is one clip of the model.
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

            check_number("duration", duration, 0, page.settings.max_seconds)
            return InferenceOptions(
                text=[check_text("text", text, MAX_TEXT, required=True)],
                duration=duration or None,
                num_samples=check_samples(num_samples),
                **sampling_options(preset, num_steps, guidance_scale, negative_text, scheduler),
                **given,
            )

        yield from page.run(RECIPES[0], text, options, seed, random_seed, history)

    inputs = [text, duration, seed.number, seed.random, samples, *sampling.inputs]
    page.connect(text_to_sound, inputs, seed.number, seed.random, submit=[text])
