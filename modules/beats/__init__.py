"""BEATs (Chen et al. 2022, arXiv 2212.09058): a transformer on patches of log-mels that tells AudioSet's classes."""
