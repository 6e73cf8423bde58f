"""Im2Wav's golden files and the reduced networks with the official weights."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from sonolume.modules.im2wav import official
from sonolume.modules.im2wav.prior import LowPrior, UpPrior


@pytest.fixture(scope="session")
def im2wav(root: Path) -> SimpleNamespace:
    """tests/goldens/im2wav/inputs.py: `golden`, `weights_for`, `video` ..."""
    return SimpleNamespace(**runpy.run_path(str(root / "tests" / "goldens" / "im2wav" / "inputs.py")))


@pytest.fixture(scope="session")
def low(im2wav: SimpleNamespace) -> LowPrior:
    prior = LowPrior(**official.low_arguments(im2wav.hyperparameters("small.low")))
    prior.load_state_dict(official.prior_weights(im2wav.weights_for("small.low")))
    return prior.eval()


@pytest.fixture(scope="session")
def up(im2wav: SimpleNamespace) -> UpPrior:
    prior = UpPrior(**official.up_arguments(im2wav.hyperparameters("small.up")))
    prior.load_state_dict(official.prior_weights(im2wav.weights_for("small.up")))
    return prior.eval()
