from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.evaluation.embedders.load import load
from sonolume.models.mini.judges import run_judge
from sonolume.modules.judges import SoundJudge
from sonolume.modules.mel import MelSpectrogram
from sonolume.modules.metrics.embeddings import cosine_matrix, ranks
from sonolume.preprocessors.miniworld import world
from sonolume.utils.errors import UserError

PER_KIND = 6


def scenes(kind: str) -> list[world.Scene]:
    return list(world.scenes("test", PER_KIND, kinds=[kind], pairs=False))


def by_kind(name: str) -> tuple[list[torch.Tensor], list[torch.Tensor], tuple[str, ...]]:
    """Embeddings and logits of bells and of rain."""
    embedder = load(f"mini:{name}")
    found = []
    for kind in ("bell", "rain"):
        if name == "picture_judge":
            found.append(embedder.encode_images([Image.fromarray(world.picture(scene)) for scene in scenes(kind)]))
        else:
            found.append(embedder.encode_audio([world.render(scene) for scene in scenes(kind)]))
    return [f.embeddings for f in found], [f.logits for f in found], embedder.labels  # type: ignore[misc]


@pytest.mark.parametrize("name", ["sound_judge", "sound_judge_second", "picture_judge"])
def test_kinds_are_separated(name: str) -> None:
    (bells, rains), (bell_logits, rain_logits), labels = by_kind(name)
    assert (bell_logits.argmax(1) == labels.index("bell")).all()
    assert (rain_logits.argmax(1) == labels.index("rain")).all()
    within = torch.cat([torch.pdist(bells), torch.pdist(rains)]).mean()
    assert torch.cdist(bells, rains).mean() > 1.5 * within


def test_logits_are_the_judges_own(root: Path) -> None:
    waves = [world.render(scene) for scene in scenes("dog")]
    judge = SoundJudge.from_pretrained(root / "pretrained/mini/sound_judge")
    expected = run_judge(judge, MelSpectrogram()(torch.from_numpy(np.stack(waves)))).presence
    embedder = load("mini:sound_judge")
    np.testing.assert_allclose(embedder.encode_audio(waves).logits, expected, atol=1e-4)
    np.testing.assert_allclose(  # the embedding is the classifier's input
        judge.presence(embedder.encode_audio(waves).embeddings).detach(), expected, atol=1e-4
    )


def test_short_sounds_are_filled_up_with_silence() -> None:
    embedder, wave = load("mini:sound_judge"), world.render(scenes("bell")[0])
    filled = np.pad(wave[:20000], (0, 20960))
    short, long = (embedder.encode_audio([one]).embeddings for one in (wave[:20000], filled))
    np.testing.assert_allclose(short, long, atol=1e-6)


def test_pictures_of_any_size() -> None:
    embedder, picture = load("mini:picture_judge"), Image.fromarray(world.picture(scenes("bell")[0]))
    large = picture.resize((512, 512), Image.Resampling.NEAREST)
    logits = embedder.encode_images([large, picture]).logits
    assert logits is not None and logits.argmax(1).tolist() == [embedder.labels.index("bell")] * 2


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    SoundJudge(["a", "b"], "conv_gru", width=4, n_mel=16, frames=16).save_pretrained(tmp_path / "mine")
    embedder = load(f"mini:{tmp_path / 'mine'}")
    assert embedder.labels == ("a", "b") and embedder.window == pytest.approx(0.256)
    assert embedder.name.startswith("mini:mine@")


def test_a_judge_that_is_not_there() -> None:
    with pytest.raises(UserError, match="nobody.*sound_judge_second"):
        load("mini:nobody")


def recall_at_1(similarity: torch.Tensor) -> float:
    return float((ranks(similarity, torch.eye(len(similarity), dtype=torch.bool)) == 1).double().mean())


def test_in_the_joint_space_what_belongs_together_is_nearest() -> None:
    """Sounds, pictures and held-out captions of the same scenes, no two of which have the same kinds."""
    chosen: dict[frozenset[str], world.Scene] = {}
    for scene in world.scenes("test", 120):
        chosen.setdefault(frozenset(event.kind for event in scene.events), scene)
    picked = list(chosen.values())[:40]
    assert len(picked) == 40
    embedder = load("mini:world")
    sides = {
        "sound": embedder.encode_audio([world.render(scene) for scene in picked]).embeddings,
        "picture": embedder.encode_images([Image.fromarray(world.picture(scene)) for scene in picked]).embeddings,
        "text": embedder.encode_texts([world.captions(scene, 1, "test")[0] for scene in picked]).embeddings,
    }
    assert all(rows.shape == (40, 12) for rows in sides.values())
    for one, other in (("sound", "picture"), ("sound", "text"), ("picture", "text")):
        similarity = cosine_matrix(sides[one], sides[other])
        assert recall_at_1(similarity) > 0.8, (one, other)  # chance 1 / 40
        assert float(similarity.diagonal().mean()) > 0.8
        assert abs(float((similarity.sum() - similarity.trace()) / (40 * 39))) < 0.15
    assert recall_at_1(cosine_matrix(sides["sound"], sides["picture"].roll(1, 0))) < 0.2


def test_texts_about_nothing_here_are_far_from_everything() -> None:
    embedder = load("mini:world")
    texts = ["a piano", "a bell rings", "a dog", "a bell rings as a dog barks"]
    nothing, bell, dog, both = embedder.encode_texts(texts).embeddings
    found = cosine_matrix(torch.stack([nothing, bell, both]), torch.stack([bell, dog]))
    expected = [[0, 0], [1, -1 / 11], [10 / 12 / (11 / 12 * 21 / 12) ** 0.5] * 2]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_joint_space_has_the_classes_of_its_judges() -> None:
    waves = [world.render(scene) for scene in scenes("dog")]
    joint, judge = (load(f"mini:{name}").encode_audio(waves).logits for name in ("world", "sound_judge"))
    np.testing.assert_array_equal(joint, judge)
