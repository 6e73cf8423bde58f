"""bfloat16 is used where the processor multiplies it, and float32 elsewhere, in one line."""

import pytest

from sonolume.models import precision
from sonolume.models.precision import FULL, usable


@pytest.mark.parametrize(
    ("asked", "device", "has_bfloat16", "expected"),
    [
        ("bf16-mixed", "cpu", True, "bf16-mixed"),
        ("bf16-mixed", "cpu", False, FULL),
        ("bf16-mixed", "cuda", False, "bf16-mixed"),
        ("bf16-true", "auto", False, FULL),
        ("16-mixed", "cpu", False, "16-mixed"),
        (FULL, "cpu", False, FULL),
    ],
)
def test_precision_follows_the_processor(
    asked: str, device: str, has_bfloat16: bool, expected: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    precision._report.cache_clear()
    assert [usable(asked, device), usable(asked, device)] == [expected] * 2
    assert capsys.readouterr().err.count("does not multiply bfloat16") == (asked != expected)
