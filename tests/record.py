"""Record everything this checkout computes, or compare two records: a rewrite must not change any number.

python tests/record.py record FOLDER [--only losses ...]     about ten minutes on two cores
python tests/record.py compare BEFORE AFTER [--words]        exit code 1 if anything differs

A record is a folder of JSON files:
    resolved   every config file under egs/ with all its defaults
    helps      --help of every script, for every recipe
    messages   exit code and message of wrong command lines
    losses     the losses of the first steps of every tiny config at a fixed seed
    reports    the report of every shipped part in pretrained/mini
Older records stay comparable: RENAMED maps their keys to the present ones. Sentences are compared with --words only.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STEPS = 5
SAMPLES = 24  # scored for each report
TOLERANCE = 1e-6  # relative difference of scores; all else must be equal
RENAMED = {  # keys and names in older records -> present ones
    "beside": "baselines",
    "polish": "refine",
    "polished": "refined",
    "fingerprint": "content_hash",
}
SENTENCES = {"note", "content_hash", "helps"}  # keys of texts, and of hashes of texts, compared with --words only
OVERRIDES = [f"train.max_steps={STEPS}", "train.save_summary_steps=1", f"train.valid_interval={STEPS}",
             "train.num_threads=1", "train.num_workers=0", "train.accelerator=cpu", "train.devices=1",
             "train.valid_batches=2"]  # fmt: skip
WRONG: list[tuple[str, list[str]]] = [  # script and arguments: each must be answered by one line, with exit code 2
    ("train", ["train.lrr=1"]),
    ("train", ["train.adam.lr=-1"]),
    ("train", ["train.batch_size=many"]),
    ("train", ["recipe=tta/nothing"]),
    ("train", ["--resum"]),
    ("train", ["dataset=[nowhere]"]),
    ("inference", ["--texxt", "a bell"]),
    ("inference", ["--text", ""]),
    ("inference", ["--text", "a bell", "--checkpoint", "nowhere/at/all"]),
    ("inference", ["--text", "a bell", "--duration", "0.1"]),
    ("inference", ["--text", "a bell", "--strength", "0.5"]),
    ("inference", ["--audio", "nowhere.wav"]),
    ("evaluate", ["--num_samples", "0"]),
    ("evaluate", ["--embedder", "clapp:x"]),
    ("evaluate", ["--generated", "nowhere"]),
    ("preprocess", ["--input", "nowhere"]),
]


def run(script: str, arguments: list[str], limit: float = 1800) -> dict[str, Any]:
    """Run a command line of bins/ and return its exit code and output."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, str(ROOT / "bins" / f"{script}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=limit)
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def configs() -> list[Path]:
    """List the configs of the miniature world, each after those whose exports it needs."""
    files = [*ROOT.glob("egs/*/*/tiny*.json"), *ROOT.glob("egs/mini/*.json")]
    first = ("autoencoderkl", "clip_text", "picture_vae")
    return sorted(files, key=lambda path: (not any(name in str(path) for name in first), str(path)))


def losses(folder: Path) -> dict[str, Any]:
    """Train every tiny config for a few steps, and return its scalars by tag."""
    found = {}
    with tempfile.TemporaryDirectory() as work:
        for path in configs():
            name = path.relative_to(ROOT / "egs").as_posix()
            found[name] = _train(path, name, Path(work))
            print(name, found[name] if "error" in found[name] else "ok", file=sys.stderr, flush=True)
    return found


def _train(path: Path, name: str, work: Path) -> dict[str, Any]:
    content = path.read_text(encoding="utf-8")
    overrides = [*OVERRIDES, f"log_dir={work}/ckpts/{Path(name).parent.name}_{path.stem}"]
    if '"preprocess"' in content or "hifigan" in name or "mini/sound_judge" in name:
        overrides += [f"preprocess.processed_dir={work}/data"]
        prefix = "preprocess.miniworld"
    else:
        prefix = "miniworld"
    if "stable_diffusion.json" in name:
        overrides += [f"cache_dir={work}/cache", f"model.vae={ROOT}/pretrained/mini/stable_diffusion/vae",
                      f"model.text_encoder={work}/ckpts/mini_clip_text/clip_text/pipeline"]  # fmt: skip
    if name == "tta/audioldm/tiny.json":
        overrides += [f"model.autoencoder_path={ROOT}/pretrained/mini/text_to_audio"]
    overrides += [f"{prefix}.train_scenes=64", f"{prefix}.valid_scenes=16"]
    if f"{work}/data" in " ".join(overrides):
        prepared = run("preprocess", ["--config", str(path), *overrides])
        if prepared["code"]:
            return {"error": prepared["err"][-500:]}
    done = run("train", ["--config", str(path), *overrides])
    if done["code"]:
        return {"error": done["err"][-500:]}
    return _scalars(next(work.glob(f"ckpts/{Path(name).parent.name}_{path.stem}/*/tensorboard")))


def _scalars(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.split("/")[0] in ("train", "val", "eval")]
    tags = [tag for tag in tags if tag != "train/data_wait"]  # a time
    return {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in sorted(tags)}


def reports(folder: Path) -> dict[str, Any]:
    """Score every shipped part."""
    place, page = folder / "reports", folder / "page.md"
    page.write_text("<!-- results -->\n<!-- /results -->\n", encoding="utf-8")
    arguments = ["--output_dir", str(place), "--readme", str(page), "--num_samples", str(SAMPLES)]
    done = run("results", arguments, limit=3600)
    if done["code"]:
        return {"error": done["err"][-2000:]}
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(place.glob("*/report.json"))}


def resolved(folder: Path) -> dict[str, Any]:
    """Resolve every config file under egs/."""
    from omegaconf import OmegaConf

    from sonolume.config.load import load_config

    files = sorted(ROOT.glob("egs/**/*.json"))
    return {
        path.relative_to(ROOT / "egs").as_posix(): OmegaConf.to_container(
            OmegaConf.structured(load_config(path)), enum_to_str=True
        )
        for path in files
    }


def messages(folder: Path) -> dict[str, Any]:
    """Run wrong command lines."""
    found = {}
    for recipe in ("tta/audioldm", "tta/autoencoderkl", "a2i/audiotoken"):
        for script, arguments in WRONG:
            config = ["--config", str(ROOT / "egs" / recipe / "tiny.json")]
            done = run(script, [*config, *arguments])
            found[f"{recipe}: {script} {' '.join(arguments)}"] = [done["code"], done["err"].strip()]
    return found


def helps(folder: Path) -> dict[str, Any]:
    """Print `--help` of every script, and of those of recipes for every recipe."""
    scripts = sorted(path.stem for path in (ROOT / "bins").glob("*.py") if path.stem != "__init__")
    found = {script: run(script, ["--help"])["out"] for script in scripts}
    for path in sorted(ROOT.glob("egs/*/*/exp_config.json")):
        for script in ("preprocess", "train", "inference", "evaluate", "finetune"):
            done = run(script, ["--config", str(path), "--help"])
            found[f"{path.parent.relative_to(ROOT / 'egs').as_posix()}: {script}"] = done["out"]
    return found


KINDS = {"resolved": resolved, "helps": helps, "messages": messages, "losses": losses, "reports": reports}


def normalise(content: Any, words: bool) -> Any:
    """Rename old keys, key lists of scores by their names, and drop sentences unless `words`."""
    if isinstance(content, dict):
        items = ((RENAMED.get(key, key), value) for key, value in content.items())
        return {key: normalise(value, words) for key, value in items if words or key not in SENTENCES}
    if isinstance(content, list) and content and all(isinstance(one, dict) and "name" in one for one in content):
        return {RENAMED.get(one["name"], one["name"]): normalise(one, words) for one in content}
    if isinstance(content, list):
        return [normalise(one, words) for one in content]
    return content if words or not (isinstance(content, str) and " " in content) else "(a sentence)"


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """List the places in which two records differ, numbers in reports by more than `TOLERANCE`."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [line for key in keys for line in differences(before.get(key), after.get(key), f"{where}/{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for index, (old, new) in pairs for line in differences(old, new, f"{where}[{index}]")]
    numbers = all(isinstance(one, int | float) for one in (before, after)) and where.startswith("reports")
    same = math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=1e-9) if numbers else before == after
    return [] if same else [f"{where}: {str(before)[:150]!r} -> {str(after)[:150]!r}"]


def compare(before: Path, after: Path, words: bool) -> list[str]:
    """List the differences of two record folders in the files that both have."""
    found = []
    for name in KINDS:
        files = [side / f"{name}.json" for side in (before, after)]
        if all(file.is_file() for file in files) and (words or name not in SENTENCES):
            exact = words or name in ("resolved", "losses")
            old, new = (normalise(json.loads(file.read_text(encoding="utf-8")), exact) for file in files)
            found += differences(old, new, name)
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record")
    record.add_argument("folder", type=Path)
    record.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    sides = commands.add_parser("compare")
    sides.add_argument("before", type=Path)
    sides.add_argument("after", type=Path)
    sides.add_argument("--words", action="store_true", help="compare messages, notes and help texts too")
    args = parser.parse_args(argv)
    if args.command == "compare":
        found = compare(args.before, args.after, args.words)
        print("\n".join(found) or "no differences")
        return int(bool(found))
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        content = json.dumps(KINDS[name](args.folder), indent=1, ensure_ascii=False)
        (args.folder / f"{name}.json").write_text(content + "\n", encoding="utf-8")
        print(f"{name}: recorded", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
