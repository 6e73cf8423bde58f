"""What scores of sounds and of pictures have in common: distances, pairs, classes, texts, and one medium by another.

An embedder gives what it can. N samples, d width of an embedding, K classes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.cache import Embedded, embed_pictures, embed_sounds, embed_texts
from sonolume.models.evaluation.results import Result
from sonolume.models.evaluation.score import Score
from sonolume.modules.metrics.classes import correct, inception_score, paired_divergence
from sonolume.modules.metrics.frechet import RELIABLE, Moments, frechet_distance, frechet_infinity, is_reliable
from sonolume.modules.metrics.interval import GROUPS, Share, jackknife
from sonolume.modules.metrics.kernel import kernel_distance
from sonolume.modules.metrics.retrieval import by_chance, ranks, recall_at
from sonolume.modules.metrics.similarity import cosine_matrix, cosines, rank_share
from sonolume.utils.errors import UserError

RECALLS = (1, 5, 10)
EXTRAPOLATED = 16  # samples from which a line through several sample sizes means something
NO_DIRECTION = "its embedding is zero: it has no cosine"


class Medium(NamedTuple):
    """What sounds and pictures are called where they are scored."""

    name: str
    distance: str  # the Frechet distance's usual name
    agreement: str  # of a sample with its text
    accuracy: str  # of classes told by their names' embeddings
    prompt: str  # which holds a class's name for that


SOUND = Medium("sound", "FAD", "text agreement", "zero-shot accuracy", "the sound of a {label}")
PICTURE = Medium("picture", "FID", "CLIP score", "AIC", "a photo of a {label}")


@dataclass
class Scored:
    """One embedder at work for one result."""

    result: Result
    embedder: Embedder
    cache: Path | None
    batch_size: int

    @property
    def name(self) -> str:
        """The embedder's, without its version."""
        return re.sub(r"@[^+]*", "", self.embedder.name)


@dataclass
class Side:
    """The samples of one side that could be embedded."""

    uids: list[str]
    rows: Tensor  # (N, d)
    logits: Tensor | None  # (N, K)

    def of(self, uids: Sequence[str]) -> "Side":
        """The rows of these Uids, in this order."""
        place = {uid: index for index, uid in enumerate(self.uids)}
        chosen = torch.tensor([place[uid] for uid in uids], dtype=torch.long)
        return Side(list(uids), self.rows[chosen], None if self.logits is None else self.logits[chosen])


def embed(scored: Scored, medium: Medium, files: Mapping[str, Path], role: str) -> Side:
    """The embeddings of one side. What is empty is a fault of a reference, but a sample like any other of a generator.

    Args:
        role: "generated", "reference" ... for the counts.

    Raises:
        UserError: not one can be used.
    """
    result, embedder = scored.result, scored.embedder
    paths, keep = list(files.values()), role == "generated"
    found: Embedded[Path]
    if medium is SOUND:
        found = embed_sounds(paths, embedder, scored.cache, scored.batch_size, keep_silent=keep)
        result.counts |= {f"silent {role}": len(found.silent), f"clipped {role}": len(found.clipped)}
    else:
        found = embed_pictures(paths, embedder, scored.cache, scored.batch_size, keep_blank=keep)
        result.counts |= {f"of one colour, {role}": len(found.silent)}
    leave_out(result, [(str(path), reason) for path, reason in found.left_out])
    if not found.kept:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in found.left_out[:1])
        raise UserError(f"not one usable {role} {medium.name} among {len(files)} ({reasons or 'there is none'})")
    kept = set(found.kept)
    return Side([uid for uid, path in files.items() if path in kept], found.embeddings, found.logits)


def leave_out(result: Result, entries: Sequence[tuple[str, str]]) -> None:
    """List (file, reason), each once."""
    known = set(result.left_out)
    result.left_out += [entry for entry in entries if entry not in known]


def distances(scored: Scored, medium: Medium, real: Side, made: Side) -> None:
    """Frechet distance, also extrapolated, and kernel distance of two sets; needs two samples on each side."""
    smaller = min(len(real.rows), len(made.rows))
    if smaller < 2:
        scored.result.facts["distances"] = f"left out, they need 2 {medium.name}s on each side"
        return
    frechet(scored, medium, Moments.of(real.rows), made)
    mean, deviation = kernel_distance(real.rows, made.rows)
    note = f"deviation {deviation:.2g} over subsets; no interval" if deviation else "of the whole sets; no interval"
    scored.result.add(Score(f"KID {scored.name}", mean, "down", count=len(made.rows), note=note))


def frechet(scored: Scored, medium: Medium, real: Moments, made: Side) -> None:
    """Frechet distance, also extrapolated, from what is known of a reference; needs two samples."""
    result, name, (count, dim) = scored.result, scored.name, made.rows.shape
    if count < 2:
        return
    smaller, value = min(real.count, count), frechet_distance(real, made.rows)
    low = high = None
    note = f"N {smaller}, below {RELIABLE} x {dim} dimensions: mostly the sample's size, so no interval"
    if is_reliable(smaller, dim) and count >= GROUPS:
        low, high = jackknife(lambda rows: frechet_distance(real, rows), made.rows, lowest=0)
        note = f"{dim} dimensions; interval by jackknife over the generated {medium.name}s"
    elif is_reliable(smaller, dim):
        note = f"{dim} dimensions; too few for an interval"
    result.add(Score(f"{medium.distance} {name}", value, "down", low, high, count, note))
    if count >= EXTRAPOLATED:
        line = frechet_infinity(real, made.rows)
        note = f"line in 1/N through N {line.sizes[0]} to {line.sizes[-1]}; no interval"
        if not is_reliable(smaller, dim):
            note = f"N {smaller}, below {RELIABLE} x {dim} dimensions: hardly a line; {note}"
        result.add(Score(f"{medium.distance}-infinity {name}", line.value, "down", count=count, note=note))


def pairs(scored: Scored, real: Side, made: Side) -> tuple[Side, Side]:
    """Each sample against the reference of its Uid: cosine, and divergence of the classes; returns the pairs."""
    both = common(scored.result, real, made)
    ours, theirs = made.of(both), real.of(both)
    if not both:
        return ours, theirs
    scored.result.add_mean(f"cosine to the reference {scored.name}", cosines(ours.rows, theirs.rows), both)
    if ours.logits is not None and theirs.logits is not None:
        for kind, multilabel in (("softmax", False), ("sigmoid", True)):
            divergence = paired_divergence(theirs.logits, ours.logits, multilabel)
            scored.result.add_mean(f"KL {kind} {scored.name}", divergence, both, better="down", unit="nats")
    return ours, theirs


def common(result: Result, *sides: Side) -> list[str]:
    """The Uids that all sides have, in the order of the last; those whose embedding is zero are listed as left out."""
    flat = {uid for side in sides for uid, row in zip(side.uids, side.rows, strict=True) if not row.any()}
    leave_out(result, [(uid, NO_DIRECTION) for uid in sorted(flat)])
    shared = set.intersection(*(set(side.uids) for side in sides)) - flat
    return [uid for uid in sides[-1].uids if uid in shared]


def classes(scored: Scored, made: Side, labels: Mapping[str, str]) -> bool:
    """Inception score, and accuracy where labels are among the embedder's classes; returns whether some were."""
    if made.logits is None:
        return False
    count, known = made.logits.shape
    if count > 1:
        mean, _ = inception_score(made.logits)
        low, high = (None, None)
        if count >= GROUPS:
            low, high = jackknife(lambda logits: inception_score(logits)[0], made.logits, lowest=1)
        note = f"1 to {known}; interval by jackknife" if low is not None else f"1 to {known}"
        scored.result.add(Score(f"IS {scored.name}", mean, "up", low, high, count, note))
    places = {label.lower(): index for index, label in enumerate(scored.embedder.labels)}
    told = [uid for uid in made.uids if labels.get(uid, "").lower() in places]
    if not told:
        return False
    logits = made.of(told).logits
    assert logits is not None
    right = correct(logits, torch.tensor([places[labels[uid].lower()] for uid in told]))
    scored.result.add_share(f"class accuracy {scored.name}", share(right), chance=1 / known, note=f"of {known} classes")
    return True


def zero_shot(scored: Scored, medium: Medium, made: Side, labels: Mapping[str, str]) -> None:
    """Accuracy where the class is the label whose prompt is nearest to the sample."""
    names = sorted(set(labels.values()))
    made = made.of([uid for uid in common(scored.result, made) if uid in labels])
    if not made.uids or len(names) < 2:
        return
    prompts = [medium.prompt.format(label=name) for name in names]
    texts = embed_texts(prompts, scored.embedder, scored.cache, scored.batch_size).embeddings
    if not texts.any(dim=1).all():
        scored.result.facts[medium.accuracy] = f"left out, {scored.name} does not read all of {len(names)} class names"
        return
    right = correct(cosine_matrix(made.rows, texts), torch.tensor([names.index(labels[uid]) for uid in made.uids]))
    note = f'zero-shot among {len(names)} names, "{medium.prompt}"'
    scored.result.add_share(f"{medium.accuracy} {scored.name}", share(right), chance=1 / len(names), note=note)


def texts(scored: Scored, medium: Medium, made: Side, captions: Mapping[str, str]) -> None:
    """Agreement of each sample with its caption, and retrieval both ways."""
    told = [uid for uid in made.uids if uid in captions]
    if not told:
        return
    wanted = [captions[uid] for uid in told]
    read = Side(told, embed_texts(wanted, scored.embedder, scored.cache, scored.batch_size).embeddings, None)
    told = common(scored.result, read, made)
    if not told:
        return
    ours, read = made.of(told), read.of(told)
    note = "mean cosine, not times 100 and not cut at 0"
    scored.result.add_mean(f"{medium.agreement} {scored.name}", cosines(ours.rows, read.rows), told, note=note)
    names = [captions[uid] for uid in told]
    different = len(read.rows.unique(dim=0))
    if 2 * different < len(set(names)):  # ties count against a query: the scores would be about the captions alone
        scored.result.facts["retrieval by text"] = (
            f"left out, {scored.name} tells only {different} of {len(set(names))} captions apart"
        )
        return
    retrieval(scored, "text", medium.name, cosine_matrix(read.rows, ours.rows), told, names)


def retrieval(
    scored: Scored, query: str, answer: str, similarity: Tensor, uids: Sequence[str], contents: Sequence[str]
) -> None:
    """R@k and mean reciprocal rank both ways, of (N queries, N answers).

    Args:
        contents: of the queries; those of one content are right answers for each other.
    """
    if len(uids) < 2:
        return
    number = {content: index for index, content in enumerate(dict.fromkeys(contents))}
    group = torch.tensor([number[content] for content in contents])
    right = group[:, None] == group
    random, note = by_chance(right), f"among {len(uids)}"
    for way, matrix in ((f"{query} to {answer}", similarity), (f"{answer} to {query}", similarity.T)):
        found = ranks(matrix, right)
        for k in (k for k in RECALLS if k < len(uids)):
            hits = share(recall_at(found, k))
            scored.result.add_share(f"R@{k} {way} {scored.name}", hits, chance=float(random[:k].sum()), note=note)
        chance = float((random / torch.arange(1, len(random) + 1)).sum())
        scored.result.add_mean(
            f"MRR {way} {scored.name}", 1 / found.double(), uids, list_worst=False, chance=chance, note=note
        )


def across(scored: Scored, medium: Medium, made: Side, other: Medium, inputs: Mapping[str, Path]) -> None:
    """Each sample against the sound or picture that it was made from: AIS by rank and as a cosine, and retrieval."""
    given = embed(scored, other, inputs, "input")
    uids = common(scored.result, given, made)
    if not uids:
        return
    ours, theirs = made.of(uids), given.of(uids)
    note = f"raw cosine of {medium.name} and its own {other.name}"
    scored.result.add_mean(f"AIS cosine {scored.name}", cosines(ours.rows, theirs.rows), uids, note=note)
    if len(uids) < 2:
        return
    similarity = cosine_matrix(ours.rows, theirs.rows)
    note = f"rank form: the share of the other {len(uids) - 1} {other.name}s less like the {medium.name} than its own"
    ranked = rank_share(similarity)
    scored.result.add_mean(f"AIS {scored.name}", ranked, uids, chance=0.5, note=note, list_worst=False)
    contents = [str(inputs[uid]) for uid in uids]
    retrieval(scored, other.name, medium.name, similarity.T, uids, contents)


def share(right: Tensor) -> Share:
    """Of (N,) yes or no."""
    return Share(int(right.sum()), len(right))
