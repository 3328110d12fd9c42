"""Writing a model folder: everything at once or nothing, never over something the user has."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeling_st4vla import ST4VLAConfig, ST4VLAForActionPrediction
from processing_st4vla import ST4VLAProcessor
from training_st4vla.errors import UserError
from training_st4vla.model_card import build_model_card
from training_st4vla.selftest import write_selftest


def refuse_existing(output: Path, flag: str = "--output") -> None:
    """
    Checks that `output` can become a new folder; called before long work as well as before writing.

    Raises:
        UserError: when it exists and is not an empty folder.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(
            f"{flag}: expected a new or empty folder, found {output} with content. Nothing was overwritten; choose "
            "another name or move it away."
        )


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """A scratch folder beside `output` that takes its name when the block ends well, and vanishes otherwise."""
    refuse_existing(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.replace(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def exported_code() -> Iterator[None]:
    """
    Within it, `save_pretrained` also writes the model's and processor's source files and their `auto_map`, so that the
    folder loads with `trust_remote_code=True` where this package is not installed.
    """
    # transformers keeps this as state of the class; left on, every later save in the process would carry code.
    classes = {ST4VLAConfig: "AutoConfig", ST4VLAForActionPrediction: "AutoModel", ST4VLAProcessor: "AutoProcessor"}
    for cls, name in classes.items():
        cls._auto_class = name
    try:
        yield
    finally:
        for cls in classes:
            cls._auto_class = None


def save_portable(model: ST4VLAForActionPrediction, processor: ST4VLAProcessor, folder: Path, **options: Any) -> None:
    """Weights (safetensors, sharded), configs, processor files and source code into an existing folder."""
    auto_map = getattr(model.config, "auto_map", None)
    # One class serves two Auto classes, and `_auto_class` names only one of them.
    model.config.auto_map = {"AutoModelForImageTextToText": "modeling_st4vla.ST4VLAForActionPrediction"}
    try:
        with exported_code():
            model.save_pretrained(folder, **options)
            processor.save_pretrained(folder)
    finally:
        if auto_map is None:
            delattr(model.config, "auto_map")
        else:
            model.config.auto_map = auto_map


def publish_into(
    folder: Path, model: ST4VLAForActionPrediction, processor: ST4VLAProcessor, summary: str, **card: Any
) -> None:
    """
    A finished model into a folder that already holds a training run. `config.json` comes last: a folder without it is
    not taken for a model, so an interruption leaves nothing that looks finished.
    """
    scratch = Path(tempfile.mkdtemp(prefix=".model-", dir=folder))
    try:
        save_portable(model, processor, scratch)
        build_model_card(folder.name, model, processor, summary, **card).save(scratch / "README.md")
        write_selftest(model, processor, scratch)
        for path in sorted(scratch.iterdir(), key=lambda path: path.name == "config.json"):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def save_model_folder(
    model: ST4VLAForActionPrediction,
    processor: ST4VLAProcessor,
    output: Path,
    summary: str,
    metadata: dict[str, Any] | None = None,
    notes: str = "",
) -> None:
    """
    A complete model repository at `output`: weights, processor, code, `selftest/`, model card; all or nothing.

    Raises:
        UserError: when `output` already holds something.
    """
    with atomic_folder(output) as scratch:
        save_portable(model, processor, scratch)
        build_model_card(output.name, model, processor, summary, metadata, notes).save(scratch / "README.md")
        write_selftest(model, processor, scratch)


__all__ = [
    "atomic_folder",
    "exported_code",
    "publish_into",
    "refuse_existing",
    "save_model_folder",
    "save_portable",
]
