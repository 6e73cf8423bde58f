"""Alignment of the states of a sound with those of its text, position by position: losses and metrics.

The contrastive loss is that of kardSIM/audio2img: each position of a sound picks its own text among the states of all
texts at the same position. B sounds, N texts of the batch (N = B, or more when gathered over processes), M further
texts, L positions, D width. Losses and metrics are computed in float32, also under autocast.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.modules.metrics.retrieval import recalls

TEMPERATURE = 0.15
EPS = 1e-8  # smallest norm, as in torch.cosine_similarity
METRICS = ("cosine", "E_mse", "euclidean_distance")


def contrastive_loss(
    audio: Tensor,
    text: Tensor,
    temperature: float = TEMPERATURE,
    *,
    own: Tensor | None = None,
    negatives: Tensor | None = None,
    false_negatives: Tensor | None = None,
    positions: Tensor | None = None,
    symmetric: bool = False,
    across: Callable[[Tensor], Tensor] = lambda mean: mean,
) -> Tensor:
    """Cross entropy of each position's cosines with all texts at that position, divided by the temperature.

    It is 0 for one sound without negatives, and about ln(N + M) by chance. The norm of the states has no influence.

    Args:
        audio: (B, L, D).
        text: (N, L, D).
        own: (B,) index of each sound's own text; 0 to B - 1 by default, if N = B.
        negatives: (M, L, D) further texts that are wrong for every sound, unless `false_negatives` excludes them.
        false_negatives: (B, N + M) bool, True for a text that is not counted as wrong for this sound, because it is
            equal to the sound's own (see `same_text`). A sound's own text always counts as right.
        positions: (B, L) bool, the positions of each sound that count, or their weights; all by default.
        symmetric: mean of both directions; the second one picks, for each text of the batch, its sound among the B
            sounds, and needs N = B. Negatives have no sound: they are columns of the first direction only. Positions
            of a sound that do not count are not among the sounds to pick from. The weight of a text's position is that
            of its sound's.
        across: mean over all processes of a process's number, without gradient, because `positions` may select more
            positions in one process than in another.

    Raises:
        ValueError: the shapes do not fit, or `own` is missing where N differs from B.
    """
    own = _own_indices(audio, text, own)
    if symmetric and len(audio) != len(text):
        raise ValueError(f"a symmetric loss of {len(text)} texts needs as many sounds, got {len(audio)}")
    columns = text if negatives is None else torch.cat([text.float(), negatives.float()])
    logits = _cosines(audio, columns) / temperature                                    # (B, N + M, L)
    excluded = None if false_negatives is None else false_negatives[..., None]         # (B, N + M, 1)
    loss = _mean(_cross_entropy(logits, own, excluded), positions, across)
    if not symmetric:
        return loss
    excluded = None if excluded is None else excluded[:, own].transpose(0, 1)          # (B texts, B sounds, 1)
    if positions is not None:
        excluded = ~positions.bool() if excluded is None else excluded | ~positions.bool()
        excluded = excluded.expand(len(audio), *positions.shape)                       # (B texts, B sounds, L)
    diagonal = torch.arange(len(audio), device=audio.device)                           # (B,)
    back = _cross_entropy(logits[:, own].transpose(0, 1), diagonal, excluded)          # (B, L)
    return (loss + _mean(back, positions, across)) / 2


def regression_terms(
    audio: Tensor,
    text: Tensor,
    positions: Tensor | None = None,
    across: Callable[[Tensor], Tensor] = lambda mean: mean,
) -> tuple[Tensor, Tensor]:
    """Compute the mean of 1 - cosine, and the mean squared error, of states (B, L, D) and their targets (B, L, D).

    `positions` and `across` are those of `contrastive_loss`.
    """
    _check_shapes(audio, text)
    audio, text = audio.float(), text.float()
    distance = 1 - F.cosine_similarity(audio, text, dim=-1, eps=EPS)                   # (B, L)
    squared_error = (audio - text).square().mean(dim=-1)                               # (B, L)
    return _mean(distance, positions, across), _mean(squared_error, positions, across)


def alignment_losses(
    audio: Tensor,
    text: Tensor,
    *,
    temperature: float = TEMPERATURE,
    symmetric: bool = False,
    lambda_contrastive: float = 1.0,
    lambda_cos: float = 0.0,
    lambda_mse: float = 0.0,
    center: Tensor | None = None,
    own: Tensor | None = None,
    negatives: Tensor | None = None,
    false_negatives: Tensor | None = None,
    positions: Tensor | None = None,
    across: Callable[[Tensor], Tensor] = lambda mean: mean,
) -> dict[str, Tensor]:
    """Compute the weighted sum "loss" and its terms "contrastive", "cosine_distance" (1 - cosine) and "mse".

    Args:
        center: (L, D) mean text state, subtracted from audio, text and negatives in the contrastive term only. Without
            it, a direction that all texts share makes perfectly aligned states worse than others.

    The other arguments are those of `contrastive_loss`.
    """
    own = _own_indices(audio, text, own)
    cosine, mse = regression_terms(audio, text[own], positions, across)
    contrastive = contrastive_loss(
        _centered(audio, center), _centered(text, center), temperature, own=own,
        negatives=None if negatives is None else _centered(negatives, center), false_negatives=false_negatives,
        positions=positions, symmetric=symmetric, across=across,
    )  # fmt: skip
    loss = lambda_contrastive * contrastive + lambda_cos * cosine + lambda_mse * mse
    return {"loss": loss, "contrastive": contrastive, "cosine_distance": cosine, "mse": mse}


def position_metrics(audio: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Compute the `METRICS` of each state (B, L, D) and its target (B, L, D), (B, L) each.

    They are the cosine similarity, the squared error (mean over the width) and the Euclidean distance.
    """
    _check_shapes(audio, text)
    cosine = F.cosine_similarity(audio, text, dim=-1, eps=EPS)                         # (B, L)
    squared_error = (audio - text).square().mean(dim=-1)                               # (B, L)
    distance = torch.linalg.vector_norm(audio - text, dim=-1)                          # (B, L)
    return dict(zip(METRICS, (cosine, squared_error, distance), strict=True))


def same_text(ids: Tensor, others: Tensor) -> Tensor:
    """Test which of the texts `others` (N + M,) are equal to those of the sounds, `ids` (B,): (B, N + M) bool.

    Both hold numbers of distinct texts, so that equal texts have equal numbers.
    """
    return ids[:, None] == others[None]


class AlignmentMetrics:
    """Distances of states from their targets, and retrieval both ways, over a set given in batches.

    Distances are running sums. For retrieval, one mean state (D,) of each sound and of each distinct text is kept, on
    the CPU. A sound's right answer is its text, which it shares with all sounds of an equal text; a text's right answer
    is any of its sounds. Ties count as wrong.

    Args:
        center: (L, D) mean text state, subtracted from all states for the retrieval.
    """

    def __init__(self, center: Tensor | None = None) -> None:
        self.center = None if center is None else center.detach().float().cpu()
        self.sums = torch.zeros(4, dtype=torch.float64)  # cosine, squared error, distance, weight
        self.sounds: list[Tensor] = []  # of shape (D,)
        self.sound_texts: list[int] = []  # number of each sound's text
        self.texts: dict[int, Tensor] = {}  # (D,) by the number of the text

    @torch.no_grad()
    def update(self, audio: Tensor, text: Tensor, text_ids: Tensor, positions: Tensor | None = None) -> None:
        """Add states (B, L, D), their targets (B, L, D) and the numbers (B,) of the distinct texts.

        `positions` (B, L) are those of the sounds that count; a text's mean state is always that of all positions.
        """
        audio, text = audio.float().cpu(), text.float().cpu()
        weights = torch.ones(audio.shape[:2]) if positions is None else positions.float().cpu()    # (B, L)
        found = position_metrics(audio, text)                                                      # (B, L) each
        values = torch.stack([*found.values(), torch.ones_like(weights)])                          # (4, B, L)
        self.sums += (values.double() * weights).sum(dim=(1, 2))
        shares = weights / weights.sum(dim=1, keepdim=True).clamp(min=EPS)                         # (B, L)
        self.sounds += torch.einsum("bl,bld->bd", shares, _centered(audio, self.center)).unbind()
        self.sound_texts += text_ids.tolist()
        for number, state in zip(text_ids.tolist(), _centered(text, self.center).mean(dim=1), strict=True):
            self.texts.setdefault(number, state.clone())

    def merge(self, other: "AlignmentMetrics") -> None:
        """Add what another process has collected."""
        self.sums += other.sums
        self.sounds += other.sounds
        self.sound_texts += other.sound_texts
        self.texts = other.texts | self.texts

    def compute(self) -> dict[str, float]:
        """Compute all metrics.

        "cosine", "E_mse" (mean squared error) and "euclidean_distance" are means over all positions.
        "R@1_audio_to_text" is the share of sounds whose text is the most similar one, "chance_R@1_audio_to_text" its
        value for answers in random order; likewise for 5, 10 and "text_to_audio".

        Raises:
            ValueError: no state has been added.
        """
        if not self.sums[3]:
            raise ValueError("the alignment of no states is undefined: call update() first")
        found = dict(zip(METRICS, (self.sums[:3] / self.sums[3]).tolist(), strict=True))
        audio, text = (F.normalize(torch.stack(states), dim=1) for states in (self.sounds, [*self.texts.values()]))
        similarity = (audio @ text.T).nan_to_num(nan=-torch.inf)                       # (sounds, texts)
        right = same_text(torch.tensor(self.sound_texts), torch.tensor([*self.texts]))  # (sounds, texts)
        return found | recalls(similarity, right, "audio_to_text") | recalls(similarity.T, right.T, "text_to_audio")


def _own_indices(audio: Tensor, text: Tensor, own: Tensor | None) -> Tensor:
    """Index of each sound's own text, (B,)."""
    _check_shapes(audio, text, paired=False)
    if own is not None:
        return own.to(audio.device)
    if len(audio) != len(text):
        raise ValueError(f"{len(audio)} sounds among {len(text)} texts need the index of each one's own text")
    return torch.arange(len(audio), device=audio.device)


def _check_shapes(audio: Tensor, text: Tensor, paired: bool = True) -> None:
    """Raise a ValueError unless positions and width are equal, and the number of sounds and texts if `paired`."""
    if audio.shape[1:] != text.shape[1:] or (paired and len(audio) != len(text)):
        raise ValueError(
            f"audio states {tuple(audio.shape)} cannot be compared with text states {tuple(text.shape)}: the number of "
            "positions and the width must be equal" + ", and the number of items" * paired
        )


def _cosines(audio: Tensor, text: Tensor) -> Tensor:
    """Cosine of each sound (B, L, D) with each text (C, L, D) at each position, (B, C, L), in float32."""
    audio, text = (F.normalize(states.float(), dim=-1, eps=EPS) for states in (audio, text))
    with torch.autocast(audio.device.type, enabled=False):  # bfloat16 is too coarse for cosines divided by 0.15
        return torch.einsum("bld,cld->bcl", audio, text)


def _cross_entropy(logits: Tensor, target: Tensor, excluded: Tensor | None) -> Tensor:
    """Cross entropy (B, L) of logits (B, C, L); `excluded` (B, C, 1 or L) columns are left out, never the target."""
    if excluded is not None:
        right = F.one_hot(target, logits.shape[1]).bool()[..., None]                   # (B, C, 1)
        logits = logits.masked_fill(excluded & ~right, -torch.inf)
    return F.cross_entropy(logits, target[:, None].expand(-1, logits.shape[2]), reduction="none")


def _mean(values: Tensor, weights: Tensor | None, across: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean of values (B, L), weighted if there are weights; 0 if all weights are 0."""
    if weights is None:
        return values.mean()
    total = across(weights.float().sum())
    return (values * weights).sum() / total.clamp(min=EPS)


def _centered(states: Tensor, center: Tensor | None) -> Tensor:
    return states if center is None else states.float() - center.float()
