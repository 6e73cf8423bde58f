"""Metrics of a classifier's logits: paired divergence, inception score, accuracy. N samples, K classes."""

from torch import Tensor
from torchmetrics.functional.regression import kl_divergence

MIN_PROBABILITY = 1e-12  # keeps logarithms finite


def paired_divergence(reference: Tensor, generated: Tensor, multilabel: bool = False) -> Tensor:
    """KL(reference | generated) in nats of each pair, (N,), from paired logits (N, K); a ValueError if shapes differ.

    Args:
        multilabel: mean over independent classes (AudioSet taggers) of Bernoulli divergences; else a softmax over the
            classes, as in audioldm_eval's "KL_Softmax".
    """
    if reference.shape != generated.shape or reference.ndim != 2:
        raise ValueError(f"paired logits must be (N, K) twice, got {tuple(reference.shape)}, {tuple(generated.shape)}")
    if multilabel:
        p, q = reference.double().sigmoid(), generated.double().sigmoid()
        yes = p * (p.clamp_min(MIN_PROBABILITY).log() - q.clamp_min(MIN_PROBABILITY).log())
        no = (1 - p) * ((1 - p).clamp_min(MIN_PROBABILITY).log() - (1 - q).clamp_min(MIN_PROBABILITY).log())
        return (yes + no).mean(dim=1)
    p, q = reference.double().log_softmax(1), generated.double().log_softmax(1)
    return kl_divergence(p, q, log_prob=True, reduction="none")


def inception_score(logits: Tensor) -> float:
    """exp of the mean KL(p(y|x) | p(y)) (Salimans et al. 2016), from 1 (all alike) to K.

    Over all samples at once: the customary 10 splits of few samples make it smaller.
    """
    log_p = logits.double().log_softmax(1)
    marginal = log_p.exp().mean(dim=0, keepdim=True).clamp_min(MIN_PROBABILITY).log()
    return float((log_p.exp() * (log_p - marginal)).sum(dim=1).mean().exp())


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Test whether the label's logit is the largest, (N,) bool; ties count as wrong."""
    return (logits >= logits.gather(1, labels[:, None])).sum(dim=1) == 1
