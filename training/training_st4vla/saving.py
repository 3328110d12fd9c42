"""Writing a model folder: everything at once or nothing, never over something the user has."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeling_st4vla import ST4VLAForActionPrediction
from processing_st4vla import ST4VLAProcessor
from training_st4vla.errors import UserError
from training_st4vla.model_card import build_model_card
from training_st4vla.provenance import Ancestry, CreditedData, add_step
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


def save_portable(model: ST4VLAForActionPrediction, processor: ST4VLAProcessor, folder: Path, **options: Any) -> None:
    """Weights (safetensors, sharded), configs, processor files and source code into an existing folder."""
    with model.with_code():
        model.save_pretrained(folder, **options)
    with processor.with_code():
        processor.save_pretrained(folder)


def write_model(
    folder: Path,
    name: str,
    model: ST4VLAForActionPrediction,
    processor: ST4VLAProcessor,
    summary: str,
    sources: Sequence[CreditedData] = (),
    ancestry: Ancestry | None = None,
    notes: str = "",
) -> None:
    """
    Everything a model repository holds, into an existing folder: weights, processor, code, `selftest/`, model card.

    Args:
        folder (`Path`), name (`str`): where, and what the card calls it.
        summary (`str`): one sentence: how these weights came to be.
        sources (`Sequence[CreditedData]`): what they learned from in this step.
        ancestry (`Ancestry`, *optional*): front matter and history of what they were made from.
        notes (`str`): markdown after the card's sources.
    """
    ancestry = ancestry or Ancestry({})
    used = [one.hub_id for one in sources if one.hub_id]
    metadata = dict(ancestry.metadata)
    if used:
        metadata["datasets"] = list(dict.fromkeys([*metadata.get("datasets", []), *used]))
    history = add_step(ancestry.history, summary, sources, str(model.dtype).split(".")[-1])
    save_portable(model, processor, folder)
    build_model_card(name, model, processor, summary, history, metadata, notes).save(folder / "README.md")
    write_selftest(model, processor, folder)


def publish_into(
    folder: Path, model: ST4VLAForActionPrediction, processor: ST4VLAProcessor, summary: str, **card: Any
) -> None:
    """
    A finished model into a folder that already holds a training run; `card` as in `write_model`. `config.json` comes
    last: a folder without it is not taken for a model, so an interruption leaves nothing that looks finished.
    """
    scratch = Path(tempfile.mkdtemp(prefix=".model-", dir=folder))
    try:
        write_model(scratch, folder.name, model, processor, summary, **card)
        for path in sorted(scratch.iterdir(), key=lambda path: path.name == "config.json"):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def save_model_folder(
    model: ST4VLAForActionPrediction, processor: ST4VLAProcessor, output: Path, summary: str, **card: Any
) -> None:
    """
    A complete model repository at `output`, all or nothing; `card` as in `write_model`.

    Raises:
        UserError: when `output` already holds something.
    """
    with atomic_folder(output) as scratch:
        write_model(scratch, output.name, model, processor, summary, **card)


__all__ = ["atomic_folder", "publish_into", "refuse_existing", "save_model_folder", "save_portable", "write_model"]
