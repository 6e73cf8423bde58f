"""Metrics of samples in the space of an embedder, as scores in a report.

What an embedder provides decides: distances of distributions always, classes with logits, agreement and retrieval with
texts or with the inputs' medium. FID, KID and IS use the named embedder, not Inception. AIS, IIS and AIC have the form
of SonicDiffusion's evaluation; AudioToken, which named them, released none. N samples, d width, K classes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.models.evaluation.embedders import cache
from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.cache import Embedded
from sonolume.models.evaluation.report import Report, Score
from sonolume.models.evaluation.samples import PICTURE, SOUND, Files, Medium, Samples, read_sound
from sonolume.modules.metrics import embeddings, onsets
from sonolume.modules.metrics.embeddings import Moments, cosine_matrix, frechet_distance, inception_score, is_correct
from sonolume.modules.metrics.interval import JACKKNIFE_GROUPS, Share, jackknife
from sonolume.utils import audio
from sonolume.utils.errors import UserError

RECALLS = (1, 5, 10)
MIN_EXTRAPOLATED = 16  # samples needed for a line through several sample sizes


@dataclass
class Scorer:
    """Adds the scores by one embedder to one report. The items of an `Embedded` are the Uids of its samples."""

    report: Report
    embedder: Embedder
    folder: Path | None  # cache of embeddings
    batch_size: int
    cache_generated: bool = True  # also cache the embeddings of generated samples

    def __post_init__(self) -> None:
        self.name = re.sub(r"@[^+]*", "", self.embedder.name)  # without versions

    def add_scores(self, samples: Samples, known: Moments | None = None) -> None:
        """Add all scores that the embedder allows; raises a UserError if a set has not one usable file.

        The Frechet distance is to the `known` moments, if given; then `samples.reference` is used for pairs only.
        """
        medium, takes = samples.medium, self.embedder.takes
        made = self.embed(samples.generated, medium, "generated")
        if samples.reference:
            real = self.embed(samples.reference, medium, "reference")
            if known is None:
                self.add_distances(medium, real, made)
            self.add_pair_scores(medium, real, made)
        if known is not None:
            self.add_frechet(medium, known, made)
        classified = self.add_class_scores(made, samples.labels)
        if "texts" in takes:
            self.add_text_scores(medium, made, samples.captions)
            if not classified:
                self.add_zero_shot(medium, made, samples.labels)
        if samples.inputs and samples.other.plural in takes:
            self.add_input_scores(samples, made)

    def embed(self, files: Files, medium: Medium, role: str) -> Embedded:
        """Embed the "generated", "reference" or "input" set. Empty files count as samples of a generator only."""
        is_generated = role == "generated"
        folder = self.folder if self.cache_generated or not is_generated else None
        found = cache.embed(list(files.values()), medium.plural, self.embedder, folder, self.batch_size, is_generated)
        if medium is SOUND:
            self.report.counts |= {f"silent {role}": len(found.empty), f"clipped {role}": len(found.clipped)}
        else:
            self.report.counts |= {f"of one colour, {role}": len(found.empty)}
        self.report.leave_out((str(path), reason) for path, reason in found.left_out)
        if not found.kept:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in found.left_out[:1]) or "there is none"
            raise UserError(f"not one usable {role} {medium.name} among {len(files)} ({reasons})")
        kept = set(found.kept)
        return found._replace(kept=[uid for uid, path in files.items() if path in kept])

    def add_distances(self, medium: Medium, real: Embedded, made: Embedded) -> None:
        """Add Frechet and kernel distance of two sets, if both have two samples."""
        smaller = min(len(real.embeddings), len(made.embeddings))
        if smaller < 2:
            self.report.facts["distances"] = f"left out, they need 2 {medium.plural} on each side"
            return
        self.add_frechet(medium, Moments.of(real.embeddings), made)
        mean, deviation = embeddings.kernel_distance(real.embeddings, made.embeddings)
        note = f"deviation {deviation:.2g} over subsets; no interval" if deviation else "of the whole sets; no interval"
        if smaller < embeddings.RELIABLE_COUNT:
            note = f"N {smaller}, below {embeddings.RELIABLE_COUNT}: unbiased, but mostly chance; {note}"
        self.report.scores.append(Score(f"KID {self.name}", mean, "down", count=len(made.embeddings), note=note))

    def add_frechet(self, medium: Medium, real: Moments, made: Embedded) -> None:
        """Add the Frechet distance, also extrapolated, if there are two samples."""
        count, dim = made.embeddings.shape
        if count < 2:
            return
        smaller, value = min(real.count, count), frechet_distance(real, made.embeddings)
        reliable = smaller >= embeddings.RELIABLE_RATIO * dim
        few = f"N {smaller}, below {embeddings.RELIABLE_RATIO} x {dim} dimensions"
        low = high = None
        note = f"{few}: mostly the sample's size, so no interval"
        if reliable and count >= JACKKNIFE_GROUPS:
            low, high = jackknife(lambda rows: frechet_distance(real, rows), made.embeddings, lowest=0)
            note = f"{dim} dimensions; interval by jackknife over the generated {medium.plural}"
        elif reliable:
            note = f"{dim} dimensions; too few for an interval"
        self.report.scores.append(Score(f"{medium.frechet} {self.name}", value, "down", low, high, count, note))
        if count >= MIN_EXTRAPOLATED:
            value, sizes = embeddings.frechet_infinity(real, made.embeddings)
            note = f"line in 1/N through N {sizes[0]} to {sizes[-1]}; no interval"
            note = note if reliable else f"{few}: hardly a line; {note}"
            name = f"{medium.frechet}-infinity {self.name}"
            self.report.scores.append(Score(name, value, "down", count=count, note=note))

    def add_pair_scores(self, medium: Medium, real: Embedded, made: Embedded) -> None:
        """Add the cosine and the class divergence of each sample and the reference of its Uid; of pictures also IIS."""
        ours, theirs = self._add_cosines("cosine to the reference", made, real)
        if not ours.kept:
            return
        if ours.logits is not None and theirs.logits is not None:
            for kind, multilabel in (("softmax", False), ("sigmoid", True)):
                divergence = embeddings.paired_divergence(theirs.logits, ours.logits, multilabel)
                self.report.add_mean(f"KL {kind} {self.name}", divergence, ours.kept, better="down", unit="nats")
        if medium is PICTURE:
            similarity = cosine_matrix(ours.embeddings, theirs.embeddings)
            self._add_rank_share("IIS", similarity, ours.kept, "references", "picture")

    def _add_cosines(self, title: str, made: Embedded, other: Embedded, note: str = "") -> list[Embedded]:
        """Add the mean cosine of samples and their counterparts, and return the pairs, in the order of the samples."""
        uids = self._common_uids(other, made)
        ours, theirs = made.select(uids), other.select(uids)
        if uids:
            cosines = embeddings.cosines(ours.embeddings, theirs.embeddings)
            self.report.add_mean(f"{title} {self.name}", cosines, uids, note=note)
        return [ours, theirs]

    def _common_uids(self, *sets: Embedded) -> list[str]:
        """Return the Uids in all sets, in the order of the last; Uids with a zero embedding are left out."""
        zero = {uid for one in sets for uid, row in zip(one.kept, one.embeddings, strict=True) if not row.any()}
        self.report.leave_out((uid, "its embedding is zero: it has no cosine") for uid in sorted(zero))
        shared = set.intersection(*(set(one.kept) for one in sets)) - zero
        return [uid for uid in sets[-1].kept if uid in shared]

    def add_class_scores(self, made: Embedded, labels: Mapping[str, str]) -> bool:
        """Add the inception score, and the accuracy on labels that are classes; returns whether there were any."""
        if made.logits is None:
            return False
        count, known = made.logits.shape
        if count > 1:
            value, low, high, note = inception_score(made.logits), None, None, f"1 to {known}"
            if count >= JACKKNIFE_GROUPS:
                low, high = jackknife(inception_score, made.logits, lowest=1)
                note += "; interval by jackknife"
            self.report.scores.append(Score(f"IS {self.name}", value, "up", low, high, count, note))
        index = {label.lower(): index for index, label in enumerate(self.embedder.labels)}
        uids = [uid for uid in made.kept if labels.get(uid, "").lower() in index]
        if not uids:
            return False
        logits, targets = made.select(uids).logits, torch.tensor([index[labels[uid].lower()] for uid in uids])
        assert logits is not None
        share = Share.of(is_correct(logits, targets))
        self.report.add_share(f"class accuracy {self.name}", share, chance=1 / known, note=f"of {known} classes")
        return True

    def add_zero_shot(self, medium: Medium, made: Embedded, labels: Mapping[str, str]) -> None:
        """Add the share of samples that are nearest to the prompt of their own label."""
        names = sorted(set(labels.values()))
        uids = [uid for uid in self._common_uids(made) if uid in labels]
        if not uids or len(names) < 2:
            return
        prompts = self._embed_texts([medium.prompt.format(label=name) for name in names])
        if not prompts.any(dim=1).all():
            self.report.facts[medium.zero_shot] = f"left out, {self.name} cannot embed all of {len(names)} class names"
            return
        targets = torch.tensor([names.index(labels[uid]) for uid in uids])
        share = Share.of(is_correct(cosine_matrix(made.select(uids).embeddings, prompts), targets))
        note = f'zero-shot among {len(names)} names, "{medium.prompt}"'
        self.report.add_share(f"{medium.zero_shot} {self.name}", share, chance=1 / len(names), note=note)

    def add_text_scores(self, medium: Medium, made: Embedded, captions: Mapping[str, str]) -> None:
        """Add the cosine of each sample and its caption, and retrieval both ways."""
        uids = [uid for uid in made.kept if uid in captions]
        if not uids:
            return
        texts = Embedded(self._embed_texts([captions[uid] for uid in uids]), None, uids)
        ours, texts = self._add_cosines(medium.agreement, made, texts, "mean cosine, not times 100 and not cut at 0")
        if not ours.kept:
            return
        wordings = [captions[uid] for uid in ours.kept]
        distinct, different = len(texts.embeddings.unique(dim=0)), len(set(wordings))
        if 2 * distinct < different:  # ties count against a query: the scores would be about captions alone
            reason = f"left out, {self.name} distinguishes only {distinct} of {different} captions"
            self.report.facts["retrieval by text"] = reason
        else:
            similarity = cosine_matrix(texts.embeddings, ours.embeddings)
            self._add_retrieval("text", medium.name, similarity, wordings, ours.kept)

    def _embed_texts(self, texts: list[str]) -> Tensor:
        return cache.embed(texts, "texts", self.embedder, self.folder, self.batch_size).embeddings

    def add_input_scores(self, samples: Samples, made: Embedded) -> None:
        """Add the agreement of each sample and its input: AIS as a cosine and by rank, and retrieval both ways."""
        medium, other = samples.medium.name, samples.other.name
        given = self.embed(samples.inputs, samples.other, "input")
        ours, theirs = self._add_cosines("AIS cosine", made, given, f"raw cosine of {medium} and its own {other}")
        if not ours.kept:
            return
        similarity = cosine_matrix(ours.embeddings, theirs.embeddings)
        self._add_rank_share("AIS", similarity, ours.kept, f"{other}s", medium)
        self._add_retrieval(other, medium, similarity.T, [str(samples.inputs[uid]) for uid in ours.kept], ours.kept)

    def _add_rank_share(self, title: str, similarity: Tensor, uids: Sequence[str], others: str, medium: str) -> None:
        """Add the rank of each sample's own counterpart among all, from similarities (N, N), if there are two."""
        if len(uids) > 1:
            note = f"rank form: the share of the other {len(uids) - 1} {others} less like the {medium} than its own"
            more = {"chance": 0.5, "note": note, "list_worst": False}
            self.report.add_mean(f"{title} {self.name}", embeddings.rank_share(similarity), uids, **more)

    def _add_retrieval(
        self, query: str, answer: str, similarity: Tensor, contents: Sequence[str], uids: Sequence[str]
    ) -> None:
        """Add R@k and mean reciprocal rank both ways from similarities (N, N); equal contents are right answers."""
        if len(uids) < 2:
            return
        number = {content: index for index, content in enumerate(dict.fromkeys(contents))}
        group = torch.tensor([number[content] for content in contents])
        right = group[:, None] == group
        random, note = embeddings.rank_distribution(right), f"among {len(uids)}"
        mrr_chance = float((random / torch.arange(1, len(random) + 1)).sum())
        for way, matrix in ((f"{query} to {answer}", similarity), (f"{answer} to {query}", similarity.T)):
            found = embeddings.ranks(matrix, right)
            for k in (k for k in RECALLS if k < len(uids)):
                share, chance = Share.of(found <= k), float(random[:k].sum())
                self.report.add_share(f"R@{k} {way} {self.name}", share, chance=chance, note=note)
            more = {"list_worst": False, "chance": mrr_chance, "note": note}
            self.report.add_mean(f"MRR {way} {self.name}", 1 / found.double(), uids, **more)


def add_scores(
    report: Report, samples: Samples, embedders: Sequence[Embedder], folder: Path | None, batch_size: int
) -> Report:
    """Add the scores of samples by several embedders; raises a UserError if a set has not one usable file."""
    for embedder in embedders:
        Scorer(report, embedder, folder, batch_size).add_scores(samples)
    return report


def add_scores_with_baselines(
    report: Report, samples: Samples, baselines: Mapping[str, Files], embedders: Sequence[Embedder],
    folder: Path | None, batch_size: int,
) -> None:  # fmt: skip
    """Add the scores of samples, and in columns those of baselines and of the reference itself ("real").

    Chance is the score of samples that were generated for other inputs.
    """
    scores_of = lambda other: add_scores(Report({}), other, embedders, folder, batch_size)  # noqa: E731
    add_scores(report, samples, embedders, folder, batch_size)
    for column, files in baselines.items():
        report.add_baselines(scores_of(replace(samples, generated=files)), column)
    if samples.reference:
        report.add_baselines(scores_of(replace(samples, generated=samples.reference, reference={})), "real")
    if len(samples.generated) > 1:
        report.add_chance(scores_of(samples.shuffled()))


def add_onset_scores(report: Report, generated: Files, reference: Files) -> None:
    """Add onset F1, precision and recall of sounds against the sound (or sound track) of the same Uid.

    The settings become part of the conditions; files that cannot be read are left out; silence has no onsets.
    """
    step = onsets.HOP / onsets.SAMPLE_RATE
    report.conditions["onsets"] = {"tolerance": onsets.TOLERANCE, "hop": step, "delta": onsets.DELTA}

    def detect(path: Path) -> list[float]:
        wave, _ = read_sound(path, onsets.SAMPLE_RATE)
        return [] if audio.is_silent(wave) else onsets.detect_onsets(wave)

    made, real = dict[str, list[float]](), dict[str, list[float]]()
    for uid in tqdm([uid for uid in generated if uid in reference], desc="onsets", unit="sound"):
        try:
            made[uid], real[uid] = detect(generated[uid]), detect(reference[uid])
        except UserError as error:
            report.leave_out([(uid, str(error))])
    if not made:
        return
    precision, recall, f1 = torch.tensor([onsets.onset_agreement(made[uid], real[uid]) for uid in made]).T
    chance = onsets.shuffled_agreement(list(made.values()), list(real.values())) if len(made) > 1 else None
    note = f"within {onsets.TOLERANCE:g} s"
    f1_note = f"{note}; chance: against the onsets of other references"
    report.add_mean("onset F1", f1, list(made), chance=chance, note=f1_note)
    report.add_mean("onset precision", precision, list(made), list_worst=False, note=note)
    report.add_mean("onset recall", recall, list(made), list_worst=False, note=note)
