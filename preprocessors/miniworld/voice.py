"""Speech synthesis: text -> phonemes -> formants, a source-filter synthesiser (Klatt 1980, cascade branch).

A glottal pulse train or noise passes three resonances that glide from phoneme to phoneme; the hiss of consonants passes
a resonance of its own. A phoneme is the same in every word.
"""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import sosfilt

from sonolume.preprocessors.miniworld import SAMPLE_RATE
from sonolume.utils import audio
from sonolume.utils.errors import UserError

STEP = 80  # samples between filter updates: 5 ms
BANDWIDTHS = (70.0, 100.0, 160.0)  # Hz, of the three formants
PEAK = 0.7  # amplitude
SILENCE_MS = 60  # before and after the text
PAUSE_MS = 160


@dataclass(frozen=True)
class Sound:
    """Steady state of a phoneme or of a part of it."""

    formants: tuple[float, float, float]  # Hz, for a throat of average size
    ms: float
    voice: float = 1.0  # level of the glottal pulses
    noise: float = 0.0  # level of the hiss
    hiss: float = 4000.0  # Hz, centre of the hiss
    breath: float = 0.0  # level of noise through the formants


@dataclass(frozen=True)
class Voice:
    """Speaker characteristics."""

    pitch: float  # Hz, mean of the melody
    throat: float  # factor on all formants; above 1 for a shorter throat
    speed: float  # factor on the tempo
    breath: float = 0.05  # noise mixed into the voice


VOICES: dict[str, Voice] = {
    "anna": Voice(210, 1.12, 1.0), "ben": Voice(112, 0.97, 1.0), "clara": Voice(238, 1.18, 1.1),
    "david": Voice(92, 0.92, 0.92), "emma": Voice(182, 1.08, 0.95, 0.12), "frank": Voice(132, 1.0, 1.12),
    "grace": Voice(258, 1.22, 1.02, 0.1), "henry": Voice(152, 1.02, 0.9, 0.15),
    "iris": Voice(224, 1.10, 1.06, 0.08), "jack": Voice(121, 0.95, 1.05, 0.1),
}  # fmt: skip
TEST_VOICES = ("iris", "jack")  # held out from training

VOWELS = {
    "IY": (280, 2250, 2900), "IH": (400, 1920, 2560), "EH": (550, 1770, 2490), "AE": (690, 1660, 2490),
    "AA": (720, 1100, 2500), "AO": (560, 860, 2480), "UH": (440, 1020, 2250), "UW": (310, 870, 2250),
    "AH": (620, 1220, 2550), "ER": (480, 1270, 1650),
}  # fmt: skip
DIPHTHONGS = {"EY": "EH IY", "AY": "AA IY", "OW": "AO UW", "AW": "AA UW", "OY": "AO IY"}
CLOSED = {  # stops: formants of the closure, hiss of the burst in Hz
    "P": ((300, 800, 2200), 900.0), "T": ((300, 1750, 2650), 4200.0), "K": ((300, 1900, 2300), 2000.0),
}  # fmt: skip
VOICED_STOPS = {"P": "B", "T": "D", "K": "G"}
SOUNDS: dict[str, list[Sound]] = {
    "_": [Sound((500, 1500, 2500), PAUSE_MS, voice=0)],
    "M": [Sound((260, 1000, 2200), 75, voice=0.5)], "N": [Sound((260, 1600, 2600), 70, voice=0.5)],
    "NG": [Sound((270, 2000, 2450), 80, voice=0.5)],
    "L": [Sound((360, 1100, 2800), 70, voice=0.75)], "R": [Sound((340, 1150, 1500), 75, voice=0.75)],
    "W": [Sound((290, 660, 2200), 70, voice=0.7)], "Y": [Sound((270, 2250, 3000), 60, voice=0.7)],
    "S": [Sound((350, 1700, 2600), 105, voice=0, noise=0.45, hiss=6200)],
    "Z": [Sound((300, 1700, 2600), 85, voice=0.35, noise=0.25, hiss=6200)],
    "SH": [Sound((350, 1800, 2500), 105, voice=0, noise=0.5, hiss=3000)],
    "ZH": [Sound((300, 1800, 2500), 70, voice=0.35, noise=0.3, hiss=3000)],
    "F": [Sound((350, 1100, 2300), 95, voice=0, noise=0.12, hiss=5000)],
    "V": [Sound((300, 1100, 2300), 65, voice=0.4, noise=0.06, hiss=5000)],
    "TH": [Sound((350, 1400, 2600), 90, voice=0, noise=0.12, hiss=7000)],
    "DH": [Sound((300, 1400, 2600), 50, voice=0.5, noise=0.05, hiss=7000)],
    "HH": [Sound((500, 1500, 2500), 65, voice=0, breath=0.6)],
}  # fmt: skip
SOUNDS.update({name: [Sound(formants, 125)] for name, formants in VOWELS.items()})
SOUNDS.update({name: [Sound(VOWELS[part], 85) for part in parts.split()] for name, parts in DIPHTHONGS.items()})
for _name, (_place, _hiss) in CLOSED.items():
    SOUNDS[_name] = [Sound(_place, 55, 0), Sound(_place, 20, 0, 0.5, _hiss), Sound(_place, 25, 0, breath=0.4)]
    SOUNDS[VOICED_STOPS[_name]] = [Sound(_place, 50, 0.12), Sound(_place, 12, 0.5, 0.25, _hiss)]
SOUNDS["CH"] = [SOUNDS["T"][0], Sound((350, 1800, 2500), 75, 0, 0.5, 3000)]
SOUNDS["JH"] = [SOUNDS["D"][0], Sound((300, 1800, 2500), 55, 0.35, 0.3, 3000)]

# English text to phonemes (ARPAbet) by a small rule table: approximate, but the same in every word
EXCEPTIONS = {  # words too common or too irregular for the rules
    "a": "AH", "an": "AE N", "the": "DH AH", "is": "IH Z", "of": "AH V", "to": "T UW", "and": "AE N D",
    "one": "W AH N", "once": "W AH N S", "two": "T UW", "someone": "S AH M W AH N", "hear": "HH IY R", "can": "K AE N",
    "water": "W AO T ER", "engine": "EH N JH IH N", "before": "B IH F AO R", "while": "W AY L", "as": "AE Z",
    "siren": "S AY R EH N", "together": "T UH G EH DH ER", "background": "B AE K G R AW N D",
    "idles": "AY D AH L Z", "idling": "AY D L IH NG", "tolls": "T OW L Z", "tolling": "T OW L IH NG",
    "low": "L OW", "followed": "F AA L OW D", "blows": "B L OW Z", "blowing": "B L OW IH NG", "pours": "P AO R Z",
    "pouring": "P AO R IH NG", "climbing": "K L AY M IH NG", "wails": "W EY L Z", "rising": "R AY Z IH NG",
    "striding": "S T R AY D IH NG", "chiming": "CH AY M IH NG", "nearby": "N IY R B AY", "by": "B AY",
    "over": "OW V ER", "quietly": "K W AY AH T L IY", "whistle": "W IH S AH L",
    "zero": "Z IY R OW", "four": "F AO R", "eight": "EY T", "nine": "N AY N",
}  # fmt: skip
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# the first pattern that matches at a position wins; $ is the end of a word
RULES = [
    (re.compile(pattern), phonemes.split())
    for pattern, phonemes in (
        ("igh", "AY"), ("tch", "CH"), ("ing$", "IH NG"), ("ings$", "IH NG Z"), ("ch", "CH"), ("sh", "SH"),
        ("th(?=e)", "DH"), ("th", "TH"), ("wh", "W"), ("ph", "F"), ("ng", "NG"), ("nk", "NG K"), ("ck", "K"),
        ("qu", "K W"), ("kn", "N"), ("wr", "R"), ("mb$", "M"), ("dge", "JH"),
        ("ee", "IY"), ("ea", "IY"), ("oo", "UW"), ("ai", "EY"), ("ay", "EY"), ("oi", "OY"), ("oy", "OY"),
        ("ou", "AW"), ("ow", "AW"), ("oa", "OW"), ("oe$", "OW"), ("au", "AO"), ("aw", "AO"), ("ew", "UW"), ("ie", "IY"),
        ("war", "W AO R"), ("wa(?=[nst])", "W AA"), ("ar", "AA R"), ("or", "AO R"), ("(er|ir|ur)", "ER"),
        ("al(?=[kl])", "AO"),
        ("a(?=[^aeiouwxy]e[sd]?$)", "EY"), ("e(?=[^aeiouwxy]e[sd]?$)", "IY"), ("i(?=[^aeiouwxy]e[sd]?$)", "AY"),
        ("o(?=[^aeiouwxy]e[sd]?$)", "OW"), ("u(?=[^aeiouwxy]e[sd]?$)", "UW"),
        ("(?<=[bdgkpt])le$", "AH L"), ("(?<=[bdgkpt])les$", "AH L Z"),
        ("(?<=[sxz])es$", "IH Z"), ("(?<=[cs]h)es$", "IH Z"), ("(?<=..)e(?=[sd]$)", ""), ("(?<=..)e$", ""),
        ("c(?=[eiy])", "S"), ("g(?=[eiy]$)", "JH"), ("y$", "IY"), ("y(?=[aeiou])", "Y"), ("x", "K S"),
        ("(?<=[aeioubdglmnrvw])s$", "Z"), (r"(bb|b)", "B"), ("(cc|c|kk|k|q)", "K"), ("(dd|d)", "D"), ("(ff|f)", "F"),
        ("(gg|g)", "G"), ("h", "HH"), ("j", "JH"), ("(ll|l)", "L"), ("(mm|m)", "M"), ("(nn|n)", "N"), ("(pp|p)", "P"),
        ("(rr|r)", "R"), ("(ss|s)", "S"), ("(tt|t)", "T"), ("v", "V"), ("w", "W"), ("(zz|z)", "Z"),
        ("a", "AE"), ("e", "EH"), ("i", "IH"), ("o", "AA"), ("u", "AH"), ("y", "IH"),
    )
]  # fmt: skip


def word_phonemes(word: str) -> list[str]:
    """Convert one word of the letters a-z."""
    if word in EXCEPTIONS:
        return EXCEPTIONS[word].split()
    phonemes, place = [], 0
    while place < len(word):
        match, found = next((m, p) for pattern, p in RULES if (m := pattern.match(word, place)))
        phonemes += found
        place = match.end()
    return phonemes


def text_phonemes(text: str) -> list[list[str]]:
    """Convert every word of a text; a comma, full stop, colon or question mark becomes a pause, `["_"]`.

    Raises:
        UserError: the text has no letter of the Latin alphabet and no digit.
    """
    spaced = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit.group())]} ", text.lower())
    tokens = re.findall(r"[a-z]+|[,.;:!?]", spaced.replace("'", ""))
    if not any(token.isalpha() for token in tokens):
        raise UserError(f"nothing to speak in {text[:60]!r}: write English words or digits")
    return [word_phonemes(token) if token.isalpha() else ["_"] for token in tokens]


def _smoothed(track: np.ndarray, width: int) -> np.ndarray:
    """Moving average along the first axis, with edge values repeated."""
    padded = np.pad(track, [(width, width)] + [(0, 0)] * (track.ndim - 1), mode="edge")
    total = np.cumsum(padded, axis=0)
    size = 2 * width
    return ((total[size:] - total[:-size]) / size)[: len(track)]


def _tracks(text: str, voice: Voice, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Formants (steps, 3) in Hz; levels (steps, 3) of voice, hiss and breath; and the hiss (steps,) in Hz.

    Piecewise constant, then smoothed over about 50 ms (formants) and 20 ms (levels).
    """
    silence = Sound((500, 1500, 2500), SILENCE_MS, voice=0)
    phonemes = [phoneme for word in text_phonemes(text) for phoneme in word]
    sounds = [silence, *(sound for phoneme in phonemes for sound in SOUNDS[phoneme]), silence]
    tempo = voice.speed * rng.uniform(0.93, 1.07)
    steps = [max(2, round(s.ms * rng.uniform(0.92, 1.08) / tempo * SAMPLE_RATE / 1000 / STEP)) for s in sounds]
    formants = np.repeat([s.formants for s in sounds], steps, axis=0) * voice.throat
    levels = np.repeat([(s.voice, s.noise, s.breath + voice.breath * s.voice) for s in sounds], steps, axis=0)
    hiss = np.repeat([s.hiss for s in sounds], steps)
    return _smoothed(formants, 5), _smoothed(levels, 2), np.minimum(hiss * voice.throat**0.5, 7200.0)


def _pulses(pitch: np.ndarray) -> np.ndarray:
    """Band-limited (polyBLEP) sawtooth of per-sample pitch: -6 dB per octave, glottis and radiation together."""
    step = pitch / SAMPLE_RATE
    phase = np.cumsum(step) % 1
    wave = 1 - 2 * phase
    early, late = phase < step, phase > 1 - step
    ahead, behind = phase[early] / step[early], (phase[late] - 1) / step[late]
    wave[early] += 2 * ahead - ahead**2 - 1
    wave[late] += behind**2 + 2 * behind + 1
    return wave


def _melody(steps: int, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Pitch in Hz per sample: falling through the sentence, with slow variations."""
    time = np.linspace(0, 1, steps * STEP)
    wave = 0.06 * np.sin(2 * np.pi * (steps * STEP / SAMPLE_RATE * rng.uniform(1.2, 1.8) * time + rng.uniform()))
    drift = np.interp(time, np.linspace(0, 1, steps), _smoothed(0.04 * rng.standard_normal(steps), 4))
    return voice.pitch * rng.uniform(0.95, 1.05) * (1.1 - 0.22 * time + wave + drift)


def _resonators(frequency: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Second-order sections (..., 6) of resonances (...) in Hz, with gain 1 at 0 Hz (Klatt 1980, eq. 2)."""
    radius = np.exp(-np.pi * np.broadcast_to(width, frequency.shape) / SAMPLE_RATE)
    b = 2 * radius * np.cos(2 * np.pi * frequency / SAMPLE_RATE)
    c = -(radius**2)
    zero, one = np.zeros_like(b), np.ones_like(b)
    return np.stack([1 - b - c, zero, zero, one, -b, -c], axis=-1)


def _filtered(wave: np.ndarray, sections: np.ndarray) -> np.ndarray:
    """Filter a wave (steps * STEP,) with sections (steps, n, 6) that change at every step; their state carries over."""
    state, out = np.zeros((sections.shape[1], 2)), np.empty_like(wave)
    for index, section in enumerate(sections):
        part = slice(index * STEP, (index + 1) * STEP)
        out[part], state = sosfilt(section, wave[part], zi=state)
    return out


def speak(text: str, voice: str = "anna", seed: int = 0) -> np.ndarray:
    """Synthesise speech in one of `VOICES`, deterministically: float32 (n,) at 16 kHz, peak 0.7.

    Args:
        seed: for tempo, melody and noise.

    Raises:
        UserError: an unknown voice, or no English letter or digit in the text.
    """
    if voice not in VOICES:
        raise UserError(f"unknown voice {voice!r}: choose from {', '.join(VOICES)}")
    rng = np.random.default_rng([seed, *voice.encode()])
    formants, levels, hiss = _tracks(text, VOICES[voice], rng)
    pitch, steps = _melody(len(hiss), VOICES[voice], rng), len(hiss)
    places = np.linspace(0, steps - 1, len(pitch))
    voiced, hissed, breath = (np.interp(places, np.arange(steps), level) for level in levels.T)
    noise = rng.standard_normal(len(pitch))
    source = voiced * _pulses(pitch) + 0.3 * breath * noise
    higher = np.broadcast_to([3500.0, 4600.0], (steps, 2))  # the same for all phonemes
    poles = _resonators(np.concatenate([formants, higher], axis=1), np.array([*BANDWIDTHS, 250.0, 300.0]))
    band = _resonators(hiss, 1200.0)
    band[:, :3] = band[:, :1] * [1.0, 0.0, -1.0]  # no low frequencies in the hiss: zeros at 0 and 8000 Hz
    band[:, :3] /= np.abs(band[:, :1])
    wave = _filtered(source, poles) + 0.35 * _filtered(hissed * noise, band[:, None])
    return (PEAK * wave / np.abs(wave).max()).astype(np.float32)


def espeak(text: str, voice: str = "en", pitch: int = 50, speed: int = 165) -> np.ndarray:
    """Synthesise speech with espeak-ng, if it is installed: float32 (n,) at 16 kHz.

    Args:
        voice, pitch, speed: flags -v ("en-us+f3"), -p (0..99) and -s (words a minute) of espeak-ng.

    Raises:
        UserError: espeak-ng is not on the PATH, or refuses.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise UserError("espeak-ng is not on the PATH: install it, or use `speak`, which needs no other program")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = [program, "-v", voice, "-p", str(pitch), "-s", str(speed), "-w", str(path), "--stdin"]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        if done.returncode or not path.exists():
            raise UserError(f"espeak-ng failed: {re.sub(chr(10), ' ', done.stderr.strip())[:200] or done.returncode}")
        return audio.load(path, SAMPLE_RATE)
