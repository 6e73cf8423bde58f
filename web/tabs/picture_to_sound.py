"""Picture, video or words to sound."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from sonolume.utils import paths
from sonolume.utils.errors import UserError
from sonolume.web import uploads
from sonolume.web.controls import MAX_TEXT, check_samples, file_name, picture_input, seed_row
from sonolume.web.limits import check_number, check_text
from sonolume.web.page import Outputs, Page, Target

TITLE = "Picture to sound"
RECIPES = ("i2a/im2wav",)
PICTURES, VIDEOS = ("siren.png", "rain.png"), ("dog.mp4", "drops.mp4")  # in egs/i2a/im2wav/examples
MAX_HEAT, MAX_TOP_K = 2.0, 2**15
REPLACE = "(given, other) => given ? null : other"  # a picture takes the place of a video, and the other way round


def build(page: Page) -> None:
    """Lay out the inputs, and connect them."""
    with gr.Row():
        image = picture_input(label="Picture", height=220, min_width=200)
        video = gr.Video(sources=["upload"], label="or video", buttons=[], height=220, min_width=200)
    for given, other in ((image, video), (video, image)):
        given.change(None, [given, other], other, js=REPLACE, queue=False, api_visibility="private")
    folder = paths.root() / "egs" / RECIPES[0] / "examples"
    with gr.Row():
        for names, target, label in ((PICTURES, image, "For example"), (VIDEOS, video, "or")):
            if examples := [[str(folder / one)] for one in names if (folder / one).is_file()]:
                with gr.Column(min_width=200):
                    gr.Examples(examples, target, label=label)
    text = gr.Textbox("", label="or words in place of a picture", max_length=MAX_TEXT, placeholder="A dog barks")
    duration = gr.Slider(0, page.settings.max_seconds, 0, step=0.5,
                         label="Seconds (0: of the video; else one window of the model)")  # fmt: skip
    with gr.Row():
        mux = gr.Checkbox(True, label="Video with its new sound", min_width=140)
        draft = gr.Checkbox(False, label="Draft, several times faster", min_width=140)
    seed, samples = seed_row()
    with gr.Accordion("More settings", open=False):
        with gr.Row():
            guidance = gr.Number(0, label="Guidance (0: the model's)", minimum=0, maximum=100, min_width=120)
            temperature = gr.Slider(0, MAX_HEAT, 1, step=0.05, label="Temperature", min_width=120)
        with gr.Row():
            top_k = gr.Number(0, label="Likeliest tokens only (0: all)", precision=0, minimum=0, maximum=MAX_TOP_K,
                              min_width=120)  # fmt: skip
            top_p = gr.Slider(0, 1, 0, step=0.05, label="or those of this probability (0: all)", min_width=120)
        negative = gr.Textbox("", label="What the result should not contain", max_length=MAX_TEXT)

    def picture_to_sound(
        image: str | None, video: str | None, text: str, duration: float, mux: bool, draft: bool, seed: float,
        random_seed: bool, num_samples: float, guidance_scale: float | None, temperature: float | None,
        top_k: float | None, top_p: float | None, negative_text: str, history: list[Any],
    ) -> Iterator[Outputs]:  # fmt: skip
        """Generate sounds of a picture, a video or words; give one of the three.

        Args:
            image: picture; None for none.
            video: video; None for none.
            text: words in place of a picture; empty for none.
            duration: seconds, 0.1 or more; 0 is the length of the video, else one window of the model.
            mux: also write the video with its new sound.
            draft: decode the coarse tokens only, several times faster.
            seed: number of the draws; the same number gives the same sound.
            random_seed: draw another seed instead; it is the second result.
            num_samples: sounds from seed, seed + 1 ...
            guidance_scale: strength of the input; 0 for the model's.
            temperature: divisor of the logits; 0 takes the likeliest token.
            top_k: draw from this many likeliest tokens only; 0 for all.
            top_p: draw from the likeliest tokens that have this probability together; 0 for all.
            negative_text: what the sound should not contain.
        """

        def options(**given: Any) -> Any:
            from sonolume.config.i2a.im2wav import InferenceOptions, Level

            words = check_text("text", text or "", MAX_TEXT)
            if sum((bool(image), bool(video), bool(words.strip()))) != 1:
                raise UserError("give one of: a picture, a video, or words")
            return InferenceOptions(
                image=[uploads.check_picture(image, page.settings)] if image else [],
                video=[uploads.check_video(video, page.settings)] if video else [],
                text=[] if image or video else [words],
                duration=check_number("duration", duration, 0, page.settings.max_seconds) or None,
                mux=bool(video and mux),
                level=Level.low if draft else Level.up,
                num_samples=check_samples(num_samples),
                guidance_scale=check_number("guidance_scale", guidance_scale, 0, 100) or None,
                temperature=check_number("temperature", 1.0 if temperature is None else temperature, 0, MAX_HEAT),
                top_k=check_number("top_k", top_k, 0, MAX_TOP_K, whole=True) or 0,
                top_p=check_number("top_p", top_p, 0, 1) or 0.0,
                negative_text=check_text("negative_text", negative_text or "", MAX_TEXT),
                **given,
            )

        title = file_name(image) or file_name(video) or text
        yield from page.run(RECIPES[0], title, options, seed, random_seed, history)

    inputs = [image, video, text, duration, mux, draft, seed.number, seed.random, samples, guidance, temperature,
              top_k, top_p, negative]  # fmt: skip
    page.connect(picture_to_sound, inputs, seed.number, seed.random, submit=[text])
    page.targets.append(Target("To sound", "picture", "picture_to_sound", image))
