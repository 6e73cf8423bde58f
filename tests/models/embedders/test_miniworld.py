from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.embedders.load import load
from sonolume.models.mini.sound_judge.pipeline import listen
from sonolume.modules.judges import SoundJudge
from sonolume.modules.mel import MelSpectrogram
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
            found.append(embedder.look([Image.fromarray(world.picture(scene)) for scene in scenes(kind)]))
        else:
            found.append(embedder.hear([world.render(scene) for scene in scenes(kind)]))
    return [f.embeddings for f in found], [f.logits for f in found], embedder.labels  # type: ignore[misc]


@pytest.mark.parametrize("name", ["sound_judge", "sound_judge_second", "picture_judge"])
def test_kinds_are_told_apart(name: str) -> None:
    (bells, rains), (bell_logits, rain_logits), labels = by_kind(name)
    assert (bell_logits.argmax(1) == labels.index("bell")).all()
    assert (rain_logits.argmax(1) == labels.index("rain")).all()
    within = torch.cat([torch.pdist(bells), torch.pdist(rains)]).mean()
    assert torch.cdist(bells, rains).mean() > 1.5 * within


def test_logits_are_the_judges_own(root: Path) -> None:
    waves = [world.render(scene) for scene in scenes("dog")]
    judge = SoundJudge.from_pretrained(root / "pretrained/mini/sound_judge")
    expected = listen(judge, MelSpectrogram()(torch.from_numpy(np.stack(waves)))).presence
    embedder = load("mini:sound_judge")
    np.testing.assert_allclose(embedder.logits(waves), expected, atol=1e-4)
    np.testing.assert_allclose(  # the embedding is what the kinds are told from
        judge.presence(embedder.sounds(waves)).detach(), expected, atol=1e-4
    )


def test_short_sounds_are_filled_up_with_silence() -> None:
    embedder, wave = load("mini:sound_judge"), world.render(scenes("bell")[0])
    filled = np.pad(wave[:20000], (0, 20960))
    np.testing.assert_allclose(embedder.sounds([wave[:20000]]), embedder.sounds([filled]), atol=1e-6)


def test_pictures_of_any_size() -> None:
    embedder, picture = load("mini:picture_judge"), Image.fromarray(world.picture(scenes("bell")[0]))
    large = picture.resize((512, 512), Image.Resampling.NEAREST)
    assert embedder.logits([large]).argmax() == embedder.logits([picture]).argmax() == embedder.labels.index("bell")


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    SoundJudge(["a", "b"], "conv_gru", width=4, n_mel=16, frames=16).save_pretrained(tmp_path / "mine")
    embedder = load(f"mini:{tmp_path / 'mine'}")
    assert embedder.labels == ("a", "b") and embedder.window == pytest.approx(0.256)
    assert embedder.name.startswith("mini:mine@")


def test_a_judge_that_is_not_there() -> None:
    with pytest.raises(UserError, match="nobody"):
        load("mini:nobody")
