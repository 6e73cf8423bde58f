"""A waveform on which regions are dragged, in step with a text box that holds the same regions as `1-2,3.5-`.

The text box is what handlers get. No function of the server takes the value of the canvas: the server sends it the
waveform, and the rest happens in the browser. A factory, because Gradio writes a .pyi next to each subclass.
"""

from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from sonolume.utils import audio

SAMPLE_RATE = 16000  # Hz, of the samples behind the peaks
MAX_PEAKS = 600  # bars of the drawing, more than it has pixels on a phone

TEMPLATE = """\
<canvas tabindex="0" role="img" aria-label="Waveform. Drag over the seconds to replace; Delete clears. \
The text box below holds the same seconds."></canvas>
<p>Drag over the seconds to replace, as often as you like. Drag an edge to move it; double-click to clear all.</p>
"""  # constant, so that it is not rendered again: no text of a user may enter it

STYLE = """
canvas { display: block; width: 100%; height: 116px; border-radius: 6px; cursor: crosshair; touch-action: pan-y;
         background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
canvas:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px; }
p { margin: 4px 0 0; font-size: var(--text-sm); color: var(--body-text-color); opacity: 0.75; }
"""

TO_TEXT = """(canvas) => (canvas?.regions ?? [])
  .map(([start, end]) => `${start}-${end < canvas.duration ? end : ""}`).join(",")"""

# The notation of config.options.parse_spans; what is not written so, or lies after the end, is not drawn.
FROM_TEXT = r"""(text, canvas) => {
  if (!canvas?.duration) return canvas;
  const span = /^\s*(\d{1,6}(?:\.\d*)?|\.\d+)-(\d{1,6}(?:\.\d*)?|\.\d+)?\s*$/;
  const found = text.split(",").map((part) => part.match(span)).filter(Boolean)
    .map(([, start, end]) => [Number(start), Math.min(Number(end ?? Infinity), canvas.duration)]);
  return {...canvas, regions: found.filter(([start, end]) => start < end)};
}"""


def regions_canvas() -> gr.HTML:
    """Create the canvas; its value is that of `waveform`, or None without a sound."""
    code = (resources.files("sonolume.web") / "regions.js").read_text(encoding="utf-8")
    return gr.HTML(
        html_template=TEMPLATE, css_template=STYLE, js_on_load=code, apply_default_css=False, elem_id="regions"
    )


def connect(canvas: gr.HTML, text: gr.Textbox) -> None:
    """Write the dragged regions into the text box, and draw those that are typed; both in the browser alone."""
    common: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    canvas.input(None, canvas, text, js=TO_TEXT, **common)
    text.change(None, [text, canvas], canvas, js=FROM_TEXT, **common)  # .input misses a text that is set at once


def waveform(path: Path | str, max_seconds: float) -> dict[str, Any]:
    """Read a sound for the canvas: its loudest sample in each of up to `MAX_PEAKS` parts, and its duration.

    Args:
        max_seconds: longest duration that is read.

    Raises:
        SoundError: not readable, without samples, or not finite.
    """
    wave = audio.load(path, SAMPLE_RATE, seconds=max_seconds)
    audio.check_wave(wave, SAMPLE_RATE, Path(path).name, silent_ok=True)
    starts = np.linspace(0, len(wave), min(MAX_PEAKS, len(wave)), endpoint=False).astype(int)
    peaks = np.maximum.reduceat(np.abs(wave), starts)
    shares = peaks / max(float(peaks.max()), audio.SILENCE_PEAK)
    return {"peaks": shares.round(3).tolist(), "duration": round(len(wave) / SAMPLE_RATE, 4), "regions": []}
