"""What a folder is, and which of its files belong into a repository."""

import fnmatch
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.repocard import metadata_load

from training_st4vla.errors import UserError

Kind = Literal["model", "dataset", "space"]
KINDS: tuple[Kind, ...] = ("model", "dataset", "space")
CARD = "README.md"

_EVERYWHERE = (CARD, "LICENSE*", ".gitattributes", "*.png", "*.jpg", "*.gif", "*.svg")
# What `save_pretrained` writes, and nothing that a training run leaves beside it: no optimizer, no checkpoint, no log.
_MODEL = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "requirements.txt",
    "*.py",
)
# Below the top of the folder, by its first part.
_FOLDERS = {"model": ("selftest",), "dataset": ("meta", "data", "videos", "grounding"), "space": ()}
_NAMES = {"model": _MODEL, "dataset": ("recording.json",), "space": ()}
_NOT_A_SPACE = ("__pycache__", "outputs", "flagged", "*.pyc", "*.log", ".*")


@dataclass(frozen=True)
class Contents:
    """
    A folder's files, sorted.

    Args:
        folder (`Path`): that holds them. kind (`str`): `model`, `dataset` or `space`.
        files (`dict[str, int]`): what belongs into the repository: path with slashes, size in bytes.
        left_out (`dict[str, int]`): what does not.
    """

    folder: Path
    kind: Kind
    files: dict[str, int]
    left_out: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes to upload, at most."""
        return sum(self.files.values())


def detect_kind(folder: Path) -> Kind:
    """
    Model, dataset or Space, by what only one of them has.

    Raises:
        UserError: when the folder is not exactly one of them.
    """
    found: list[Kind] = []
    if _model_type(folder) == "st4vla":
        found.append("model")
    if (folder / "meta" / "info.json").is_file():
        found.append("dataset")
    if "sdk" in front_matter(folder):
        found.append("space")
    if len(found) != 1:
        raise UserError(
            f"{folder}: expected exactly one of a model (config.json with model_type st4vla), a LeRobot dataset "
            f"(meta/info.json) and a Space (README.md with sdk), found {' and '.join(found) or 'none'}. Say "
            "which with --type model, dataset or space."
        )
    return found[0]


def named_kind(name: str) -> Kind:
    """
    The kind that a user named.

    Raises:
        UserError: when there is none of that name.
    """
    for kind in KINDS:
        if kind == name:
            return kind
    raise UserError(f"--type: expected auto, {', '.join(KINDS)}, found {name!r}.")


def list_contents(folder: Path, kind: Kind) -> Contents:
    """Sorts the folder's files into what is published as `kind` and what stays here; follows no links to folders."""
    files: dict[str, int] = {}
    left_out: dict[str, int] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        (files if _belongs(name, kind) else left_out)[name] = os.stat(path).st_size
    return Contents(folder, kind, files, left_out)


def front_matter(folder: Path) -> dict[str, Any]:
    """
    The YAML block of the folder's card; empty without one.

    Raises:
        UserError: when it is no YAML mapping.
    """
    card = folder / CARD
    if not card.is_file():
        return {}
    try:
        return metadata_load(card) or {}
    except Exception as error:  # yaml's errors and huggingface_hub's own have no common class
        raise UserError(f"{card}: the YAML block at its top is not readable ({error}). Repair it.") from error


def _belongs(name: str, kind: Kind) -> bool:
    first, *rest = name.split("/")
    if kind == "space":
        return not any(fnmatch.fnmatch(part, one) for part in name.split("/") for one in _NOT_A_SPACE) or name in (
            ".gitattributes",
        )
    if rest:
        return first in _FOLDERS[kind] and not any(part.startswith(".") for part in rest)
    return any(fnmatch.fnmatch(first, one) for one in (*_EVERYWHERE, *_NAMES[kind]))


def _model_type(folder: Path) -> str | None:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None


__all__ = ["CARD", "KINDS", "Contents", "Kind", "detect_kind", "front_matter", "list_contents", "named_kind"]
