import pytest
import torch
from torch import Tensor

from sonolume.modules.griffin_lim import mel_to_linear, mel_to_wave
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.modules.windows import CallSize

FRAMES = 64


@pytest.fixture(scope="module")
def waves() -> Tensor:
    """A chirp, a noise burst in frames 24 to 40, and a decaying bell: (3, 16384)."""
    time = torch.arange(FRAMES * 256) / 16000
    chirp = 0.5 * torch.sin(2 * torch.pi * (200 + 1500 * time) * time)
    burst = torch.zeros_like(time)
    burst[24 * 256 : 40 * 256] = 0.3 * torch.randn(16 * 256, generator=torch.Generator().manual_seed(1))
    bell = sum(0.2 * torch.sin(2 * torch.pi * hz * time) * torch.exp(-3 * time) for hz in (523, 1320, 2100))
    return torch.stack([chirp, burst, torch.as_tensor(bell)])


def convergence(wave: Tensor, log_mel: Tensor) -> Tensor:
    """Relative error of the mel magnitudes after re-analysis, per item."""
    error = MelSpectrogram()(wave).exp() - log_mel.exp()
    return error.flatten(1).norm(dim=1) / log_mel.exp().flatten(1).norm(dim=1)


def test_reanalysis_is_close_and_better_than_the_first_phases(waves: Tensor):
    log_mel = MelSpectrogram()(waves)
    wave = mel_to_wave(log_mel)
    assert wave.shape == (3, FRAMES * 256)
    assert convergence(wave, log_mel).max() < 0.15
    assert (convergence(wave, log_mel) < 0.5 * convergence(mel_to_wave(log_mel, num_iters=0), log_mel)).all()


def test_momentum_helps(waves: Tensor):
    log_mel = MelSpectrogram()(waves)
    fast, plain = (convergence(mel_to_wave(log_mel, num_iters=32, momentum=m), log_mel) for m in (0.99, 0.0))
    assert fast.mean() < plain.mean()


def test_events_stay_where_they_are(waves: Tensor):
    wave = mel_to_wave(MelSpectrogram()(waves[1:2]))[0]
    energy = wave.square().reshape(FRAMES, 256).mean(1)
    loud = (energy > 0.1 * energy.max()).nonzero().flatten()
    assert abs(loud[0].item() - 24) <= 1
    assert abs(loud[-1].item() - 39) <= 1


def test_same_seed_same_sound_whatever_the_batch(waves: Tensor):
    log_mel = MelSpectrogram()(waves)
    whole = mel_to_wave(log_mel, num_iters=4, seed=3)
    assert torch.equal(whole, mel_to_wave(log_mel, num_iters=4, seed=3))
    torch.testing.assert_close(whole[1:2], mel_to_wave(log_mel[1:2], num_iters=4, seed=3), atol=1e-3, rtol=0)
    assert not torch.allclose(whole, mel_to_wave(log_mel, num_iters=4, seed=4), atol=1e-2)


@pytest.mark.parametrize("frames", [2, 3, 625])
def test_length_is_exact_and_silence_stays_silent(frames: int):
    wave = mel_to_wave(torch.full((1, 80, frames), -11.5129), num_iters=2)
    assert wave.shape == (1, frames * 256)
    assert wave.abs().max() < 1e-3


def test_other_settings():
    settings = MelSettings(n_fft=512, win_size=400, hop_size=160, n_mel=40)
    time = torch.arange(8000) / 16000
    mel = MelSpectrogram(settings)
    log_mel = mel(torch.sin(2 * torch.pi * 700 * time)[None])
    wave = mel_to_wave(log_mel, settings)
    assert wave.shape == (1, 8000)
    assert wave.square().mean().sqrt() == pytest.approx(0.5**0.5, rel=0.15)


def test_linear_magnitudes_explain_the_mel(waves: Tensor):
    mel = MelSpectrogram()
    log_mel = mel(waves)
    magnitude = mel_to_linear(log_mel, mel.basis)
    assert magnitude.min() >= 0
    error = mel.basis @ magnitude - log_mel.exp()
    assert error.norm() < 0.03 * log_mel.exp().norm()


@pytest.mark.parametrize("shape", [(80, 10), (1, 64, 10), (1, 80, 1)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="expected|too few"):
        mel_to_wave(torch.zeros(shape))


def test_phases_of_a_wave_are_a_better_start_than_random_ones(waves: Tensor):
    log_mel = MelSpectrogram()(waves)
    from_wave = mel_to_wave(log_mel, num_iters=0, start=waves / 3)  # only its phases count
    assert (convergence(from_wave, log_mel) < 0.5 * convergence(mel_to_wave(log_mel, num_iters=0), log_mel)).all()
    assert (from_wave[0] * waves[0]).sum() / (from_wave[0].norm() * waves[0].norm()) > 0.9


def test_a_start_of_another_length_is_refused(waves: Tensor):
    with pytest.raises(ValueError, match=r"start is \(3, 16383\), expected \(3, 16384\)"):
        mel_to_wave(MelSpectrogram()(waves), start=waves[:, 1:])


@pytest.mark.parametrize("settings", [MelSettings(), MelSettings(n_fft=512, win_size=400, hop_size=160, n_mel=40)])
@pytest.mark.parametrize("from_wave", [False, True])
def test_pieces_equal_the_whole(settings: MelSettings, from_wave: bool):
    """The overlap holds all frames that can reach a piece; from the same phases even the bits are nearly equal."""
    log_mel = torch.randn(2, settings.n_mel, 150, generator=torch.Generator().manual_seed(0)) - 4
    start = 0.1 * torch.randn(2, 150 * settings.hop_size) if from_wave else None
    whole, pieces = (
        mel_to_wave(log_mel, settings, 6, start=start, size=CallSize(*size)) for size in ((150, 300), (40, 40))
    )
    assert whole.std() > 0.01
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


def test_it_can_be_stopped_after_each_piece():
    seen: list[tuple[int, int]] = []

    def stop(number: int, total: int) -> None:
        seen.append((number, total))
        if number == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        mel_to_wave(torch.full((1, 80, 100), -4.0), num_iters=2, size=CallSize(30, 30), on_chunk=stop)
    assert seen == [(1, 4), (2, 4)]


def test_the_reference_is_reached_to_rounding(waves: Tensor):
    """The same algorithm as published: dense products, torch's complex numbers and fold, in float64."""
    log_mel = MelSpectrogram()(waves)
    start = waves + 0.05 * torch.randn(waves.shape, generator=torch.Generator().manual_seed(0))
    expected = reference(log_mel.double(), start.double(), num_iters=8)
    torch.testing.assert_close(mel_to_wave(log_mel, num_iters=8, start=start).double(), expected, rtol=0, atol=3e-5)


def reference(log_mel: Tensor, start: Tensor, num_iters: int, momentum: float = 0.99) -> Tensor:
    """Plain fast Griffin-Lim of ln mel (B, M, T) from the phases of a wave (B, N)."""
    mel = MelSpectrogram().double()
    target = (log_mel.exp() - 1e-5).clamp(min=0)
    magnitude = (torch.linalg.pinv(mel.basis) @ target).clamp(min=0) + 1e-3 * (mel.basis.T @ target)
    for _ in range(40):
        magnitude = magnitude * (mel.basis.T @ target) / (mel.basis.T @ (mel.basis @ magnitude) + 1e-10)

    def fold(columns: Tensor) -> Tensor:
        length = (columns.shape[-1] - 1) * 256 + 1024
        return torch.nn.functional.fold(columns, (1, length), (1, 1024), stride=(1, 256)).flatten(1)

    def inverse(spectrum: Tensor) -> Tensor:
        weight = fold(mel.window.square()[None, :, None].expand(1, -1, spectrum.shape[-1])).clamp(min=1e-8)
        wave = fold(torch.fft.irfft(spectrum, n=1024, dim=1) * mel.window[:, None]) / weight
        return wave[:, 384 : 384 + spectrum.shape[-1] * 256]

    spectrum, previous = mel.stft(start), torch.zeros(())
    for _ in range(num_iters):
        consistent = mel.stft(inverse(magnitude * spectrum / (spectrum.abs() + 1e-10)))
        spectrum, previous = consistent + momentum * (consistent - previous), consistent
    return inverse(magnitude * spectrum / (spectrum.abs() + 1e-10))
