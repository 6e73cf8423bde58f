"""The losses equal the printed formula and closed forms; the metrics need no stored predictions."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sonolume.modules.sequence_alignment import (
    AlignmentMetrics,
    alignment_losses,
    contrastive_loss,
    regression_terms,
    same_text,
)

CASES = (
    "small", "real_length", "one", "two", "matched", "duplicate_text", "zero_vector", "same_first_word",
)  # fmt: skip
COLD = 0.02  # temperature at which a wrong orthogonal text has the probability e^-50


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(count: int, length: int, width: int = 16) -> Tensor:
    """(count, length, width) unit states; those of different texts are orthogonal at every position."""
    return torch.eye(width)[:count, None].expand(-1, length, -1).clone()


def gradient(loss: Tensor, states: Tensor) -> Tensor:
    return torch.autograd.grad(loss, states)[0]


def stored(goldens: SimpleNamespace, case: str) -> dict[str, Tensor]:
    arrays = goldens.golden("loss", goldens.AUDIO2IMG)
    return {key.removeprefix(f"{case}."): value for key, value in arrays.items() if key.startswith(f"{case}.")}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_and_its_gradient_are_the_printed_ones(goldens: SimpleNamespace, case: str):
    wanted = stored(goldens, case)
    audio, text = wanted["a"].requires_grad_(), wanted["t"]
    loss = contrastive_loss(audio, text)
    goldens.assert_close(loss, wanted["loss"], 1e-5)
    goldens.assert_close(contrastive_loss(3 * audio, text), wanted["scale_x3_loss"], 1e-5)
    goldens.assert_close(contrastive_loss(audio, text, symmetric=True), wanted["symmetric_loss"], 1e-5)
    goldens.assert_close(alignment_losses(audio, text)["loss"], wanted["loss"], 1e-5)
    found = gradient(loss, audio)
    if case == "zero_vector":  # divided by the smallest norm, 1e-8
        assert found[0, 0].abs().max() > 1e4
        torch.testing.assert_close(found[0, 0], wanted["grad_a"][0, 0], rtol=1e-4, atol=0)
        found[0, 0] = wanted["grad_a"][0, 0] = 0
    goldens.assert_close(found, wanted["grad_a"], 1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.15, 1.0])
def test_the_temperature_is_the_printed_one(goldens: SimpleNamespace, temperature: float):
    wanted = stored(goldens, "small")
    found = contrastive_loss(wanted["a"], wanted["t"], temperature)
    goldens.assert_close(found, wanted[f"loss_tau_{temperature}"], 1e-5)


def test_every_single_position_has_the_printed_loss(goldens: SimpleNamespace):
    wanted = stored(goldens, "small")
    for row, column in np.ndindex(4, 5):
        only = torch.zeros(4, 5, dtype=torch.bool)
        only[row, column] = True
        found = contrastive_loss(wanted["a"], wanted["t"], positions=only)
        goldens.assert_close(found, wanted["per_position"][row, column], 1e-5)


def test_tiny_norms_are_those_of_torch_cosine_similarity():
    """Below 1e-8 a state counts less, and an exact zero has cosine 0."""
    audio, text = draw(3, 2, 4), draw(3, 2, 4, seed=1)
    audio[0] *= 1e-9 / audio[0].norm(dim=-1, keepdim=True)
    text[1, 0] = 0
    cosines = torch.cosine_similarity(audio[:, None], text[None], dim=-1)  # (B, B, L)
    wanted = torch.nn.functional.cross_entropy(cosines / 0.15, torch.arange(3)[:, None].expand(3, 2))
    torch.testing.assert_close(contrastive_loss(audio, text), wanted)


def test_a_batch_of_one_has_neither_loss_nor_gradient():
    audio = draw(1, 5, 8).requires_grad_()
    loss = contrastive_loss(audio, draw(1, 5, 8, seed=1), symmetric=True)
    assert loss == 0 and not gradient(loss, audio).any()
    assert contrastive_loss(audio, draw(1, 5, 8, seed=1), negatives=draw(3, 5, 8, seed=2)) > 0


def test_aligned_states_shifted_by_one_position_are_chance():
    text = draw(8, 12, 1024)
    assert contrastive_loss(text, text) < 0.02
    assert contrastive_loss(text.roll(1, dims=1), text) == pytest.approx(math.log(8), abs=0.1)


def test_equal_texts_have_a_floor_unless_they_are_masked():
    text = orthogonal(8, 3)
    text[1] = text[0]
    ids = torch.tensor([0, 0, 2, 3, 4, 5, 6, 7])
    for symmetric in (False, True):
        floor = contrastive_loss(text, text, COLD, symmetric=symmetric)
        assert floor == pytest.approx(2 / 8 * math.log(2), abs=1e-5)
        masked = contrastive_loss(text, text, COLD, false_negatives=same_text(ids, ids), symmetric=symmetric)
        assert masked == pytest.approx(0, abs=1e-5)


def test_masked_texts_are_left_out_and_the_own_text_never():
    audio, text, negatives = draw(2, 3, 8), draw(2, 3, 8, seed=1), draw(2, 3, 8, seed=2)
    mask = same_text(torch.tensor([7, 9]), torch.tensor([7, 9, 9, 5]))
    assert mask.tolist() == [[True, False, False, False], [False, True, True, False]]
    found = contrastive_loss(audio, text, negatives=negatives, false_negatives=mask)
    first = contrastive_loss(audio[:1], text[:1], negatives=torch.cat([text[1:], negatives]))
    second = contrastive_loss(audio[1:], text[1:], negatives=torch.cat([text[:1], negatives[1:]]))
    torch.testing.assert_close(found, (first + second) / 2)
    assert contrastive_loss(audio, text, false_negatives=torch.ones(2, 2, dtype=torch.bool)) == 0


def test_further_negatives_are_the_texts_of_a_larger_batch():
    audio, text = draw(8, 5, 16).requires_grad_(), draw(8, 5, 16, seed=1)
    whole = contrastive_loss(audio, text)
    halves = [(slice(0, 4), slice(4, 8)), (slice(4, 8), slice(0, 4))]
    parts = [contrastive_loss(audio[mine], text[mine], negatives=text[others]) for mine, others in halves]
    mean = torch.stack(parts).mean()
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(gradient(mean, audio), gradient(whole, audio))


def test_two_processes_that_gather_the_texts_have_the_loss_of_one():
    """Even if one of them has fewer positions that count."""
    audio, text = draw(6, 5, 8).requires_grad_(), draw(6, 5, 8, seed=1)
    positions = torch.arange(5) < torch.tensor([5, 5, 4, 2, 1, 1])[:, None]
    options: dict[str, Any] = {"lambda_cos": 0.5, "lambda_mse": 0.25, "center": text.mean(dim=0)}
    whole = alignment_losses(audio, text, positions=positions, **options)["loss"]
    parts = []
    for mine in (torch.arange(3), torch.arange(3, 6)):
        found = alignment_losses(
            audio[mine], text, own=mine, positions=positions[mine], across=lambda _: positions.sum() / 2, **options
        )
        parts.append(found["loss"])
    mean = torch.stack(parts).mean()
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(gradient(mean, audio), gradient(whole, audio))


def test_the_second_direction_picks_a_sound_for_each_text_and_has_no_negatives():
    audio, text, negatives = draw(4, 3, 8), draw(4, 3, 8, seed=1), draw(5, 3, 8, seed=2)
    mask = draw(4, 9) > 0.5
    options: dict[str, Any] = {"negatives": negatives, "false_negatives": mask}
    found = contrastive_loss(audio, text, symmetric=True, **options)
    back = contrastive_loss(text, audio, false_negatives=mask[:, :4].T)
    torch.testing.assert_close(found, (contrastive_loss(audio, text, **options) + back) / 2)
    order = torch.tensor([2, 0, 3, 1])
    options["false_negatives"] = mask[order]
    shuffled = contrastive_loss(audio[order], text, own=order, symmetric=True, **options)
    torch.testing.assert_close(shuffled, found)


@pytest.mark.parametrize("symmetric", [False, True])
def test_positions_that_do_not_count_change_nothing(symmetric: bool):
    audio, text = draw(3, 6, 8).requires_grad_(), draw(3, 6, 8, seed=1)
    positions = torch.arange(6).expand(3, 6) < 4
    options: dict[str, Any] = {"symmetric": symmetric, "lambda_cos": 1.0, "lambda_mse": 1.0}
    found = alignment_losses(audio, text, positions=positions, **options)
    short = alignment_losses(audio[:, :4], text[:, :4], **options)
    torch.testing.assert_close(found, short)
    uneven = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]
    slope = gradient(alignment_losses(audio, text, positions=uneven, **options)["loss"], audio)
    assert (slope.abs().sum(dim=-1) > 0).equal(uneven)
    nothing = alignment_losses(audio, text, positions=torch.zeros(3, 6), **options)
    assert all(value == 0 for value in nothing.values())


def test_a_direction_of_all_texts_moves_the_optimum_away_from_alignment_unless_it_is_subtracted():
    """Texts are a shared direction plus a regular simplex, whose cosines are known."""
    count = 8
    text = orthogonal(count, 2) + 2 * torch.eye(16)[15]  # cosine 4 / 5 of different texts
    center, aligned = text.mean(dim=0), text.clone().requires_grad_()
    printed = contrastive_loss(aligned, text)
    assert printed.item() == pytest.approx(math.log(1 + (count - 1) * math.exp((0.8 - 1) / 0.15)), abs=1e-5)
    assert contrastive_loss(text - center, text) < printed - 0.1  # only the difference is better
    assert gradient(printed, aligned).norm() > 1e-2
    found = alignment_losses(aligned, text, center=center)
    simplex = math.log(1 + (count - 1) * math.exp((-1 / (count - 1) - 1) / 0.15))  # no states do better
    assert found["contrastive"].item() == pytest.approx(simplex, abs=1e-5)
    assert gradient(found["loss"], aligned).norm() < 1e-6
    assert found["cosine_distance"].item() == pytest.approx(0, abs=1e-6) and found["mse"] == 0


def test_the_center_is_subtracted_from_all_states_of_the_contrastive_term_only():
    audio, text, negatives, center = draw(3, 4, 8), draw(3, 4, 8, seed=1), draw(2, 4, 8, seed=2), draw(4, 8, seed=3)
    found = alignment_losses(audio, text, center=center, negatives=negatives, lambda_contrastive=2.0, lambda_mse=0.5)
    contrastive = contrastive_loss(audio - center, text - center, negatives=negatives - center)
    cosine, mse = regression_terms(audio, text)
    torch.testing.assert_close(found["contrastive"], contrastive)
    torch.testing.assert_close(found["loss"], 2 * contrastive + 0.5 * mse)
    torch.testing.assert_close(cosine, 1 - torch.cosine_similarity(audio, text, dim=-1).mean())
    torch.testing.assert_close(mse, (audio - text).square().mean())
    assert (found["cosine_distance"], found["mse"]) == (cosine, mse)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype):
    """Given as input, or by autocast."""
    audio, text, negatives = (draw(4, 5, 8, seed=seed).to(dtype) for seed in range(3))
    wanted = alignment_losses(audio.float(), text.float(), negatives=negatives.float(), lambda_cos=1, lambda_mse=1)
    found = alignment_losses(audio, text, negatives=negatives, lambda_cos=1, lambda_mse=1)
    with torch.autocast("cpu", dtype):
        cast = alignment_losses(audio.float(), text.float(), negatives=negatives.float(), lambda_cos=1, lambda_mse=1)
    for name, value in wanted.items():
        assert found[name].dtype == cast[name].dtype == torch.float32
        assert value.equal(found[name]) and value.equal(cast[name])


def test_no_tensor_of_all_pairs_and_all_dimensions_is_made():
    audio, text, negatives = draw(6, 5, 32).requires_grad_(), draw(6, 5, 32, seed=1), draw(20, 5, 32, seed=2)
    sizes: list[int] = []

    def record(states: Tensor) -> Tensor:
        sizes.append(states.numel())
        return states

    with torch.autograd.graph.saved_tensors_hooks(record, lambda states: states):
        contrastive_loss(audio, text, negatives=negatives, symmetric=True)
    assert max(sizes) == 26 * 5 * 32  # the columns; all pairs would be six times as many


def test_shapes_that_do_not_fit():
    audio, text = draw(2, 5, 8), draw(3, 5, 8)
    with pytest.raises(ValueError, match="2 sounds among 3 texts"):
        contrastive_loss(audio, text)
    with pytest.raises(ValueError, match="needs as many sounds"):
        contrastive_loss(audio, text, own=torch.tensor([0, 1]), symmetric=True)
    with pytest.raises(ValueError, match=r"\(2, 5, 8\).*\(2, 4, 8\)"):
        contrastive_loss(audio, text[:2, :4])
    with pytest.raises(ValueError, match="number of items"):
        regression_terms(audio, text)


@pytest.mark.parametrize("prefix", ["", "matched."])
def test_distances_are_the_printed_ones_in_any_batches(goldens: SimpleNamespace, prefix: str):
    wanted = goldens.golden("metrics", goldens.AUDIO2IMG)
    pairs = stored(goldens, "matched") if prefix else {"a": wanted["pred"], "t": wanted["label"]}
    metrics, ids = AlignmentMetrics(), torch.arange(len(pairs["a"]))
    for batch in ids.split(3):
        metrics.update(pairs["a"][batch], pairs["t"][batch], batch)
    found = metrics.compute()
    for name in ("cosine", "E_mse", "euclidean_distance"):
        assert found[name] == pytest.approx(wanted[prefix + name].item(), rel=1e-6)
    assert metrics.sounds[0].shape == metrics.texts[0].shape == pairs["a"].shape[2:]


def aligned_metrics(audio: Tensor, text: Tensor, ids: Tensor, center: Tensor | None = None) -> dict[str, float]:
    metrics = AlignmentMetrics(center)
    metrics.update(audio, text, ids)
    return metrics.compute()


def test_retrieval_is_over_distinct_texts():
    """Six sounds of four texts; one sound is nearest to a wrong text, and one text has no near sound."""
    ids = torch.tensor([3, 3, 3, 7, 8, 9])
    text = orthogonal(10, 2)[ids]
    audio = text.clone()
    audio[2] = text[3] + 0.5 * text[2]  # second nearest to its own text
    audio[5] = text[4] + 0.1 * text[3]  # does not contain its own text
    found = aligned_metrics(audio, text, ids)
    assert found["R@1_audio_to_text"] == pytest.approx(4 / 6)
    assert found["R@1_text_to_audio"] == pytest.approx(3 / 4)
    assert found["R@5_audio_to_text"] == 1
    assert found["R@5_text_to_audio"] == pytest.approx(3 / 4)  # all sounds tie at the last text, and ties are wrong
    assert found["chance_R@1_audio_to_text"] == pytest.approx(1 / 4)
    assert found["chance_R@1_text_to_audio"] == pytest.approx((3 + 1 + 1 + 1) / 6 / 4)
    assert found["chance_R@5_text_to_audio"] == pytest.approx((1 + 3 * 5 / 6) / 4)
    assert found["chance_R@10_audio_to_text"] == found["R@10_audio_to_text"] == 1


def test_states_without_information_do_not_retrieve():
    """Equal states, zeros and NaN rank last."""
    text, ids = orthogonal(6, 2), torch.arange(6)
    for audio in (torch.ones(6, 2, 16), torch.zeros(6, 2, 16), torch.full((6, 2, 16), math.nan)):
        found = aligned_metrics(audio, text, ids)
        assert found["R@1_audio_to_text"] == found["R@5_audio_to_text"] == found["R@1_text_to_audio"] == 0
        assert found["R@10_audio_to_text"] == 1  # there are six


def test_a_sound_of_nan_does_not_hide_behind_dissimilar_ones():
    text = orthogonal(6, 2)
    audio = -text.sum(dim=0).expand(6, -1, -1).clone()
    audio[0] = math.nan
    assert aligned_metrics(audio, text, torch.arange(6))["R@1_text_to_audio"] == 0


def test_retrieval_subtracts_the_center_and_leaves_positions_out():
    ids, center = torch.arange(6), 20 * draw(4, 16)
    text = draw(6, 4, 16, seed=1) + center
    audio = 0.1 * (text - center) + center
    audio[:, 2:] = -10 * text[[5, 0, 1, 2, 3, 4], 2:]  # padding
    positions = torch.arange(4).expand(6, 4) < 2
    text[:, 2:] = text[:, :2] - center[:2] + center[2:]
    for given, recall in ((None, 1 / 6), (center, 1)):
        metrics = AlignmentMetrics(given)
        metrics.update(audio, text, ids, positions)
        found = metrics.compute()
        assert found["R@1_audio_to_text"] == found["R@1_text_to_audio"] == pytest.approx(recall)
    cosine, mse = regression_terms(audio[:, :2], text[:, :2])  # not centered
    assert (1 - found["cosine"], found["E_mse"]) == pytest.approx((cosine.item(), mse.item()), rel=1e-4)


def test_two_processes_have_the_metrics_of_one():
    audio, ids = draw(7, 3, 8), torch.tensor([0, 1, 2, 0, 1, 3, 0])
    text = draw(4, 3, 8, seed=1)[ids]
    first, second = AlignmentMetrics(), AlignmentMetrics()
    first.update(audio[:4], text[:4], ids[:4])
    second.update(audio[4:].bfloat16().float(), text[4:], ids[4:])
    first.merge(second)
    audio[4:] = audio[4:].bfloat16().float()
    assert first.compute() == pytest.approx(aligned_metrics(audio, text, ids), rel=1e-12)
    with pytest.raises(ValueError, match="no states"):
        AlignmentMetrics().compute()
