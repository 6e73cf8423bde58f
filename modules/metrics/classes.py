"""Metrics on a classifier's logits: paired divergence, inception score, accuracy. N samples, K classes."""

import torch
from torch import Tensor
from torchmetrics.functional.regression import kl_divergence

SMALLEST = 1e-12  # probabilities are kept above it, so that a logarithm is finite


def paired_divergence(reference: Tensor, generated: Tensor, multilabel: bool = False) -> Tensor:
    """KL(reference | generated) in nats of each pair, (N,), from logits (N, K); rows must be paired by the caller.

    Args:
        multilabel: classes are independent (AudioSet taggers): the mean over classes of Bernoulli divergences;
            else a softmax over the classes, as in audioldm_eval's "KL_Softmax".

    Raises:
        ValueError: other shapes.
    """
    if reference.shape != generated.shape or reference.ndim != 2:
        raise ValueError(f"paired logits must be (N, K) twice, got {tuple(reference.shape)}, {tuple(generated.shape)}")
    if multilabel:
        p, q = reference.double().sigmoid(), generated.double().sigmoid()
        yes = p * (p.clamp_min(SMALLEST).log() - q.clamp_min(SMALLEST).log())
        no = (1 - p) * ((1 - p).clamp_min(SMALLEST).log() - (1 - q).clamp_min(SMALLEST).log())
        return (yes + no).mean(dim=1)
    p, q = reference.double().log_softmax(1), generated.double().log_softmax(1)
    return kl_divergence(p, q, log_prob=True, reduction="none")


def inception_score(logits: Tensor, splits: int = 1, seed: int = 0) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) | p(y)) (Salimans et al. 2016): mean and standard deviation over shuffled splits.

    From 1 (all alike) to K. More splits of few samples make it smaller; 1 (the default here) is unbiased by that, and
    has no deviation (0).

    Raises:
        ValueError: fewer samples than splits.
    """
    if len(logits) < splits or splits < 1:
        raise ValueError(f"{len(logits)} samples cannot be split into {splits}")
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    log_p = logits.double().log_softmax(1)[order]
    scores = []
    for part in log_p.tensor_split(splits):
        marginal = part.exp().mean(dim=0, keepdim=True).clamp_min(SMALLEST).log()
        scores.append((part.exp() * (part - marginal)).sum(dim=1).mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std(correction=0))


def correct(logits: Tensor, labels: Tensor, top: int = 1) -> Tensor:
    """(N,) bool: the label is among the `top` classes. Ties count against it."""
    own = logits.gather(1, labels[:, None])
    rivals = (logits >= own).sum(dim=1) - 1  # itself is not a rival
    return rivals < top
