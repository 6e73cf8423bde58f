"""Films prepared per second of one core: pytest -m benchmark -s tests/benchmarks/test_films.py"""

import time
from pathlib import Path

import pytest

from sonolume.config.base import MiniworldConfig
from sonolume.config.i2a.im2wav import FilmsConfig
from sonolume.preprocessors import sound_pictures
from sonolume.preprocessors.sound_pictures import Films

SCENES = 200


@pytest.mark.benchmark
def test_one_worker(tmp_path: Path) -> None:
    """Rendering the sounds, drawing and encoding the films, and writing; the cost of starting is in it."""
    mini = MiniworldConfig(train_scenes=SCENES, valid_scenes=1, pairs=False)
    config = FilmsConfig(processed_dir=str(tmp_path), num_workers=0, miniworld=mini)
    wall, processor = time.perf_counter(), time.process_time()
    assert sound_pictures.prepare(config, "films", films=Films())["train"] == SCENES
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.webp")) / SCENES
    print(f"\n{SCENES} films: {SCENES / processor:.0f} per second of one core, {SCENES / wall:.0f} per second of wall")
    print(f"clock, {size / 1000:.1f} kB each")
