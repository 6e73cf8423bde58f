"""BEATs (Chen et al. 2022, arXiv 2212.09058): an audio transformer, pretrained and finetuned on AudioSet."""
