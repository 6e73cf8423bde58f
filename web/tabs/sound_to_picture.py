"""Sound to picture, and the tags of a sound."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from sonolume.config import shipped
from sonolume.config.load import load_config, recipe_module, recipes
from sonolume.models.recipes import recipe_code
from sonolume.utils import paths
from sonolume.utils.text import collect_messages
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
from sonolume.web.limits import check_choice, check_number, check_span
from sonolume.web.page import PRIVATE, Outputs, Page, Target, error_line, status_html

TITLE = "Sound to picture"
RECIPES = ("a2i/audiotoken", "a2i/audio2img")
NAMES = {"a2i/audiotoken": "AudioToken", "a2i/audio2img": "audio2img"}
TAGGER = "a2i/audiotoken"  # recipe with BEATs
EXAMPLES = ("egs/s2i/wavy/examples/a bell rings.wav", "egs/i2a/im2wav/examples/dog.mp4")
MAX_WINDOW = 30.0  # seconds of sound in a picture of a storyboard
MAX_WINDOWS = 120  # pictures of a storyboard
SHORTEST_HOP = 0.5  # seconds


def build(page: Page) -> None:
    """Lay out the inputs, and connect them."""
    present = [recipe for recipe in RECIPES if recipe in recipes()]
    audio = gr.Audio(type="filepath", sources=["upload", "microphone"], label="Sound", buttons=[])
    if examples := [[str(paths.root() / one)] for one in EXAMPLES if (paths.root() / one).is_file()]:
        gr.Examples(examples, audio, label="For example")
    tag = gr.Button("Tags", size="sm", visible=TAGGER in present)
    tags = gr.Label(label="Tags by BEATs", show_heading=False, visible=False)
    recipe = gr.Radio([(NAMES[one], one) for one in present], value=present[0], label="Model")
    drawing = drawing_rows("sound")
    with gr.Row():
        longest = min(MAX_WINDOW, page.settings.max_seconds)
        window = gr.Slider(0, longest, 0, step=0.5, label="Storyboard: seconds in a picture (0: off)")
        hop = gr.Slider(0, longest, 0, step=0.5, label="Seconds from one picture to the next (0: the window)")
    seed, samples = seed_row()
    sampling = sampling_rows()

    def sound_to_picture(
        audio: str, recipe: str, prompt: str, text: str, mix: float, span: str, window: float, hop: float,
        seed: float, random_seed: bool, num_samples: float, preset: str, num_steps: float | None,
        guidance_scale: float | None, negative_text: str, scheduler: str, history: list[Any],
    ) -> Iterator[Outputs]:  # fmt: skip
        """Draw pictures of a sound.

        Args:
            audio: sound, or video with sound.
            recipe: a2i/audiotoken or a2i/audio2img.
            prompt: words with <*> in the place of the sound; empty for the model's.
            text: words to mix in; may be empty.
            mix: weight of these words: 0 is the sound alone, 1 the words alone.
            span: part of the sound in seconds, such as 3-6.8; empty for all of it.
            window: seconds of sound in a picture of a storyboard; 0 makes one picture of all.
            hop: seconds from one picture of a storyboard to the next; 0 is the window.
            seed: number of the noise; the same number gives the same picture.
            random_seed: draw another seed instead; it is the second result.
            num_samples: pictures from seed, seed + 1 ...
            preset: sampler: the model's own, reference, balanced, fast or turbo.
            num_steps: denoising steps; 0 for the sampler's.
            guidance_scale: strength of sound and prompt; 0 for the model's.
            negative_text: what the picture should not contain.
            scheduler: another sampler by name.
        """

        def options(**given: Any) -> Any:
            check_choice("recipe", recipe, present)
            return recipe_module(recipe).InferenceOptions(
                audio=[uploads.check_sound(audio, page.settings)],
                num_samples=check_samples(num_samples),
                **drawing_options(prompt, text, mix, span),
                **storyboard_options(window, hop, page.settings.max_seconds),
                **sampling_options(preset, num_steps, guidance_scale, negative_text, scheduler),
                **given,
            )

        title = f"{file_name(audio)}: {prompt or NAMES.get(recipe)}"
        yield from page.run(recipe, title, options, seed, random_seed, history)

    def show_tags(audio: str | None, span: str | None) -> Iterator[tuple[Any, str]]:
        yield None, status_html("Tagging.")
        try:
            found, notes = find_tags(page, audio, span)
        except Exception as error:
            raise error_line(error) from None
        yield gr.Label(found, visible=True), status_html("Tagged.", 1.0, notes)

    inputs = [audio, recipe, *drawing.inputs, window, hop, seed.number, seed.random, samples, *sampling.inputs]
    page.connect(sound_to_picture, inputs, seed.number, seed.random, submit=[drawing.prompt, drawing.text])
    tag.click(show_tags, [audio, drawing.span], [tags, page.status], concurrency_id="model", concurrency_limit=1,
              trigger_mode="once", **PRIVATE)  # fmt: skip
    page.targets.append(Target("To picture", "sound", "sound_to_picture", audio))


def storyboard_options(window: float | None, hop: float | None, max_seconds: float) -> dict[str, Any]:
    """Fields of `InferenceOptions` for a storyboard; both are None without one."""
    length = check_number("window", window or None, SHORTEST_HOP, MAX_WINDOW)
    if length is None:
        return {"window": None, "hop": None}
    least = max(SHORTEST_HOP, max_seconds / MAX_WINDOWS)
    check_number("hop (from one picture to the next)", hop or length, least, MAX_WINDOW)
    return {"window": length, "hop": hop or None}


def find_tags(page: Page, audio: str | None, span: str | None) -> tuple[dict[str, float], list[str]]:
    """Classify a sound -> probabilities by name, and messages; its BEATs takes the place of the loaded model."""
    path, spans = uploads.check_sound(audio, page.settings), check_span("span", span)
    checkpoint, device = page.settings.checkpoints().get(TAGGER), page.settings.device
    code = recipe_code(TAGGER, "inference")
    with page.generation.lock, collect_messages() as messages:
        config = load_config(shipped.find(TAGGER))
        beats = page.generation.load(("tags", checkpoint), lambda: code.load_tagger(config, checkpoint, device))
        _, tags = code.tag_recording(beats, path, spans=spans)
    return dict(tags), messages
