"""Speech to picture."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from sonolume.utils import paths
from sonolume.web import uploads
from sonolume.web.controls import (
    check_samples,
    drawing_options,
    drawing_rows,
    file_name,
    sampling_options,
    sampling_rows,
    seed_row,
)
from sonolume.web.page import Outputs, Page

TITLE = "Speech to picture"
RECIPES = ("s2i/wavy",)
EXAMPLES = ("a bell rings.wav", "rain falls and then a dog barks.wav")  # in egs/s2i/wavy/examples


def build(page: Page) -> None:
    """Lay out the inputs, and connect them."""
    audio = gr.Audio(type="filepath", sources=["microphone", "upload"], label="Spoken sentence", buttons=[])
    folder = paths.root() / "egs" / RECIPES[0] / "examples"
    if examples := [[str(folder / one)] for one in EXAMPLES if (folder / one).is_file()]:
        gr.Examples(examples, audio, label="For example")
    drawing = drawing_rows("speech")
    seed, samples = seed_row()
    sampling = sampling_rows()

    def speech_to_picture(
        audio: str, prompt: str, text: str, mix: float, span: str, seed: float, random_seed: bool,
        num_samples: float, preset: str, num_steps: float | None, guidance_scale: float | None, negative_text: str,
        scheduler: str, history: list[Any],
    ) -> Iterator[Outputs]:  # fmt: skip
        """Draw pictures of what is said.

        Args:
            audio: recording of a sentence of at most 30 s.
            prompt: words with <*> in the place of the speech; empty for the model's.
            text: words to mix in; may be empty.
            mix: weight of these words: 0 is the speech alone, 1 the words alone.
            span: part of the recording in seconds, such as 3-6.8; empty for all of it.
            seed: number of the noise; the same number gives the same picture.
            random_seed: draw another seed instead; it is the second result.
            num_samples: pictures from seed, seed + 1 ...
            preset: sampler: the model's own, reference, balanced, fast or turbo.
            num_steps: denoising steps; 0 for the sampler's.
            guidance_scale: strength of speech and prompt; 0 for the model's.
            negative_text: what the picture should not contain.
            scheduler: another sampler by name.
        """

        def options(**given: Any) -> Any:
            from sonolume.config.s2i.wavy import InferenceOptions

            return InferenceOptions(
                audio=[uploads.check_sound(audio, page.settings)],
                num_samples=check_samples(num_samples),
                **drawing_options(prompt, text, mix, span),
                **sampling_options(preset, num_steps, guidance_scale, negative_text, scheduler),
                **given,
            )

        title = f"{file_name(audio)} {prompt or ''}".strip()
        yield from page.run(RECIPES[0], title, options, seed, random_seed, history)

    inputs = [audio, *drawing.inputs, seed.number, seed.random, samples, *sampling.inputs]
    page.connect(speech_to_picture, inputs, seed.number, seed.random, submit=[drawing.prompt, drawing.text])
