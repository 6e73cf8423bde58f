"""Sound synthesis in numpy: one function per kind, each with a distinct shape in time and frequency.

Every synthesiser is a function (event, n, rng) -> wave of n samples at 16 kHz, peak about 1.
"""

from collections.abc import Callable

import numpy as np

from sonolume.preprocessors.miniworld import SAMPLE_RATE, SAMPLES
from sonolume.preprocessors.miniworld.scene import Event, Scene

Rng = np.random.Generator
QUIET_DB = -20.0  # gain at loudness 0; loudness 1 is 0 dB
NOISE_FLOOR = 3e-4  # background noise, so that silence is never digital zero


def _time(n: int) -> np.ndarray:
    return np.arange(n) / SAMPLE_RATE


def _tone(frequency: np.ndarray | float, n: int) -> np.ndarray:
    """Sine of constant or per-sample frequency in Hz."""
    return np.sin(2 * np.pi * np.cumsum(np.broadcast_to(frequency, (n,))) / SAMPLE_RATE)


def _noise(n: int, low: float, high: float, rng: Rng) -> np.ndarray:
    """Band-pass noise between two frequencies in Hz, peak about 1."""
    spectrum, frequency = np.fft.rfft(rng.standard_normal(n)), np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    spectrum *= 1 / (1 + (low / (frequency + 1)) ** 4) / (1 + (frequency / high) ** 4)
    wave = np.fft.irfft(spectrum, n)
    return wave / (3 * wave.std() + 1e-9)


def _fade(wave: np.ndarray, seconds: float = 0.03) -> np.ndarray:
    edge = min(int(seconds * SAMPLE_RATE), len(wave) // 2)
    wave[:edge] *= np.linspace(0, 1, edge)
    wave[len(wave) - edge :] *= np.linspace(0, 1, edge)[::-1]
    return wave


def _place(n: int, starts: np.ndarray, one: Callable[[int], np.ndarray]) -> np.ndarray:
    """Add `one(index)` at every start (in seconds), cut at the end."""
    wave = np.zeros(n)
    for index, start in enumerate(starts):
        at = int(start * SAMPLE_RATE)
        piece = one(index)[: max(0, n - at)]
        wave[at : at + len(piece)] += piece
    return wave


def _repeats(event: Event, n: int, rng: Rng, length: float) -> np.ndarray:
    """Start times in seconds of `event.count` sounds of about `length` seconds, evenly spaced with jitter."""
    room, step = n / SAMPLE_RATE, min(0.75, n / SAMPLE_RATE / event.count)
    slack = max(0.0, room - step * (event.count - 1) - length)
    return rng.uniform(0, 0.5 * slack) + step * np.arange(event.count) * rng.uniform(0.9, 1.0)


def _bell(event: Event, n: int, rng: Rng) -> np.ndarray:
    base = 350 * 4**event.pitch
    time = _time(int(0.9 * SAMPLE_RATE))
    partials = ((1.0, 1.0, 4), (2.0, 0.6, 6), (2.76, 0.5, 7), (4.1, 0.25 + 0.3 * event.timbre, 9))
    strike = sum(a * np.exp(-d * time) * np.sin(2 * np.pi * base * r * time) for r, a, d in partials)
    return _place(n, _repeats(event, n, rng, 0.5), lambda _: 0.5 * strike * (1 - time / time[-1]))


def _rain(event: Event, n: int, rng: Rng) -> np.ndarray:
    wave = 0.5 * _noise(n, 1200 + 1200 * event.timbre, 7500, rng)
    clicks = rng.standard_normal(n) * (rng.uniform(size=n) < 0.004)
    return _fade(wave + 0.6 * clicks, 0.12)


def _siren(event: Event, n: int, rng: Rng) -> np.ndarray:
    low, high = 400 * 1.6**event.pitch, 1100 * 1.6**event.pitch
    glide = np.geomspace(low, high, n) if event.direction == "up" else np.geomspace(high, low, n)
    wave = _tone(glide, n) + (0.3 + 0.3 * event.timbre) * _tone(2 * glide, n) + 0.25 * _tone(3 * glide, n)
    return _fade(0.6 * wave, 0.05)


def _clock(event: Event, n: int, rng: Rng) -> np.ndarray:
    time = _time(int(0.03 * SAMPLE_RATE))
    pitches = (3200 + 800 * event.timbre, 2500 + 800 * event.timbre)
    ticks = [np.exp(-220 * time) * np.sin(2 * np.pi * f * time) + np.exp(-900 * time) for f in pitches]
    return _place(n, np.arange(0.02, n / SAMPLE_RATE, rng.uniform(0.19, 0.23)), lambda i: ticks[i % 2])


def _engine(event: Event, n: int, rng: Rng) -> np.ndarray:
    base = 45 * 2.2**event.pitch * (1 + 0.02 * np.sin(2 * np.pi * 1.5 * _time(n)))
    wave = sum(_tone(base * k, n) / k**0.7 for k in range(1, 9))
    wave = 0.3 * wave * (1 + 0.4 * _tone(base / 2, n))
    return _fade(wave + 0.1 * _noise(n, 60, 500 + 400 * event.timbre, rng), 0.08)


def _bird(event: Event, n: int, rng: Rng) -> np.ndarray:
    base, size = 3000 * 1.5**event.pitch, int(0.09 * SAMPLE_RATE)
    chirp = np.hanning(size) * _tone(np.linspace(base * (1.15 + 0.25 * event.timbre), base * 0.9, size), size)
    song = np.concatenate([chirp, np.zeros(int(0.025 * SAMPLE_RATE)), chirp, np.zeros(1)])
    return _place(n, _repeats(event, n, rng, 0.25), lambda _: song)


def _thunder(event: Event, n: int, rng: Rng) -> np.ndarray:
    wave = _noise(n, 30, 110 + 120 * event.timbre, rng)
    time = _time(n) / (n / SAMPLE_RATE)
    swell = np.minimum(1, 25 * time) * np.exp(-2.5 * time) * (1 + 0.4 * np.sin(2 * np.pi * 3 * time))
    crack = _noise(n, 200, 1500, rng) * np.exp(-30 * time)
    return _fade(1.2 * wave * swell + 0.5 * crack, 0.02)


def _phone(event: Event, n: int, rng: Rng) -> np.ndarray:
    low, size = 900 * 1.5**event.pitch, int(0.38 * SAMPLE_RATE)
    carrier = np.where(_tone(20.0, size) > 0, _tone(low, size), _tone(low * 1.27, size))
    ring = _fade(carrier + (0.2 + 0.3 * event.timbre) * carrier**3, 0.01)
    return _place(n, _repeats(event, n, rng, 0.42), lambda _: 0.7 * ring)


def _footsteps(event: Event, n: int, rng: Rng) -> np.ndarray:
    size = int(0.11 * SAMPLE_RATE)
    time = _time(size)

    def step(index: int) -> np.ndarray:
        thud = np.exp(-35 * time) * np.sin(2 * np.pi * (95 + 15 * (index % 2)) * time)
        scuff = np.exp(-60 * time) * _noise(size, 250, 900 + 600 * event.timbre, rng)
        return thud + 0.7 * scuff

    return _place(n, np.arange(0.05, n / SAMPLE_RATE - 0.1, rng.uniform(0.38, 0.45)), step)


def _whistle(event: Event, n: int, rng: Rng) -> np.ndarray:
    size = int(0.45 * SAMPLE_RATE)
    base = 1700 * 1.5**event.pitch * (1 + 0.012 * np.sin(2 * np.pi * 7 * _time(size)))
    blow = _fade(_tone(base, size) + 0.08 * _noise(size, 1500, 5000, rng) * (0.3 + event.timbre), 0.04)
    return _place(n, _repeats(event, n, rng, 0.5), lambda _: 0.8 * blow)


def _dog(event: Event, n: int, rng: Rng) -> np.ndarray:
    size = int(0.17 * SAMPLE_RATE)
    bend = np.concatenate([np.linspace(0.8, 1.15, size // 3), np.linspace(1.15, 0.7, size - size // 3)])
    base = 230 * 1.9**event.pitch * bend

    def bark(_: int) -> np.ndarray:
        formant = 700 + 500 * event.timbre
        harmonics = sum(np.exp(-(((k * base - formant) / 600) ** 2)) * _tone(base * k, size) for k in range(1, 9))
        return np.hanning(size) * (0.7 * harmonics + 0.25 * _noise(size, 400, 2000, rng))

    return _place(n, _repeats(event, n, rng, 0.22), bark)


def _drops(event: Event, n: int, rng: Rng) -> np.ndarray:
    size = int(0.10 * SAMPLE_RATE)
    rise = np.geomspace(600 + 200 * event.timbre, 1700 + 400 * event.timbre, size)
    drop = np.exp(-22 * _time(size)) * _tone(rise, size)
    return _place(n, _repeats(event, n, rng, 0.15), lambda _: drop)


SYNTHESISERS: dict[str, Callable[[Event, int, Rng], np.ndarray]] = {
    "bell": _bell, "rain": _rain, "siren": _siren, "clock": _clock, "engine": _engine, "bird": _bird,
    "thunder": _thunder, "phone": _phone, "footsteps": _footsteps, "whistle": _whistle, "dog": _dog, "drops": _drops,
}  # fmt: skip


def render(scene: Scene) -> np.ndarray:
    """Render the sound of a scene, deterministically: float32 (40960,), 16 kHz, peak at most 0.95."""
    rng = np.random.default_rng(scene.seed)
    wave = NOISE_FLOOR * rng.standard_normal(SAMPLES)
    for event in scene.events:
        start, end = int(event.start * SAMPLE_RATE), min(SAMPLES, int(event.end * SAMPLE_RATE))
        gain = 0.5 * 10 ** (QUIET_DB * (1 - event.loudness) / 20)
        wave[start:end] += gain * SYNTHESISERS[event.kind](event, end - start, rng)
    return (wave * min(1.0, 0.95 / np.abs(wave).max())).astype(np.float32)
