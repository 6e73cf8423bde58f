"""Networks of Im2Wav (Sheffer & Adi 2023, arXiv 2211.03089): a VQ-VAE of waveforms and two priors over its tokens."""
