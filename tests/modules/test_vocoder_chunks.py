import torch
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from sonolume.modules.vocoder_chunks import vocode_in_chunks


@torch.no_grad()
def test_chunks_equal_the_whole():
    """With the published rates and kernels, which decide how far a vocoder sees."""
    torch.manual_seed(0)
    config = SpeechT5HifiGanConfig(
        model_in_dim=8, upsample_initial_channel=16, upsample_rates=[8, 8, 2, 2],
        upsample_kernel_sizes=[16, 16, 4, 4], normalize_before=False, initializer_range=0.3,
    )  # fmt: skip
    vocoder = SpeechT5HifiGan(config).eval()
    mel = torch.randn(2, 8, 200)
    whole = vocode_in_chunks(mel, vocoder)
    assert whole.shape == (2, 200 * 256) and whole.std() > 1e-3
    torch.testing.assert_close(vocode_in_chunks(mel, vocoder, chunk=70), whole, rtol=0, atol=1e-4)
    assert (vocode_in_chunks(mel, vocoder, chunk=70, context=2) - whole).abs().max() > 1e-3
