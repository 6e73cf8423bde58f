import gc
import importlib.util
import json
import subprocess
import sys
from types import ModuleType

import pytest

from sonolume.models import recipes

NOT_FOR_INFERENCE = (
    "pytorch_lightning", "torchmetrics", "tensorboard", "librosa", "hydra", "peft", "sonolume.models.training"
)  # fmt: skip


def test_garbage_is_not_collected_while_a_recipe_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[bool] = []

    def load(name: str) -> ModuleType:
        during.append(gc.isenabled())
        if name.endswith("missing"):
            raise ModuleNotFoundError(name)
        return ModuleType(name)

    monkeypatch.setattr(recipes.importlib, "import_module", load)
    recipes.recipe_code("tta/audioldm", "inference")
    with pytest.raises(ModuleNotFoundError):
        recipes.recipe_code("tta/missing", "inference")
    assert during == [False, False] and gc.isenabled()


def test_packages_are_hidden_during_the_import_only(monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[bool] = []

    def load(name: str) -> ModuleType:
        during.append(importlib.util.find_spec("wave") is None and "json" in sys.modules)
        return ModuleType(name)

    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(recipes.importlib, "import_module", load)
        recipes.recipe_code("tta/audioldm", "inference", without=("wave", "json"))
    assert during == [True] and sys.modules["json"] is json  # what is in use already stays
    assert importlib.import_module("wave").Wave_read


@pytest.mark.full
@pytest.mark.parametrize("recipe", ["tta/audioldm", "tta/autoencoderkl", "tta/hifigan", "a2i/audiotoken", "i2a/im2wav"])
def test_inference_imports_only_what_it_needs(recipe: str) -> None:
    code = f"""import json, sys; from sonolume.models.recipes import recipe_code
recipe_code({recipe!r}, "inference", without=("peft",))
print(json.dumps([n for n in {NOT_FOR_INFERENCE!r} if n in sys.modules]))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
