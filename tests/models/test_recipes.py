import gc
import json
import subprocess
import sys
from types import ModuleType

import pytest

from sonolume.models import recipes

NOT_FOR_INFERENCE = ("pytorch_lightning", "torchmetrics", "tensorboard", "librosa", "hydra", "sonolume.models.training")


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


@pytest.mark.full
@pytest.mark.parametrize("recipe", ["tta/audioldm", "tta/autoencoderkl", "tta/hifigan", "a2i/audiotoken", "i2a/im2wav"])
def test_inference_imports_only_what_it_needs(recipe: str) -> None:
    code = f"""import json, sys; from sonolume.models.recipes import recipe_code
recipe_code({recipe!r}, "inference"); print(json.dumps([n for n in {NOT_FOR_INFERENCE!r} if n in sys.modules]))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
