"""Where the published model and the demo lie: in a checkout, or inside the installed wheel."""

import hashlib
from pathlib import Path

from training_st4vla.errors import UserError

PUBLISHED_MODEL = "tabletop_tiny"
_PACKAGE = Path(__file__).resolve().parent
# A checkout has them beside `training/`; a wheel carries them as package data.
_ROOTS = (_PACKAGE.parent.parent, _PACKAGE)


def published_model() -> Path:
    """
    The folder of the published tabletop model, which `st4vla ground` and `st4vla demo` use when no model is named.

    Raises:
        UserError: when this copy of the package carries none.
    """
    return _find(
        Path("models") / PUBLISHED_MODEL / "config.json",
        "--model: none was named, and this copy of st4vla carries no published model ({places}). Name a model folder "
        "or a Hub id with --model, or make one with `st4vla quickstart`.",
    ).parent


def demo_folder() -> Path:
    """
    The folder of the grounding Space, from which `st4vla demo` starts the app.

    Raises:
        UserError: when this copy of the package carries none.
    """
    return _find(
        Path("spaces") / "grounding" / "app.py",
        "this copy of st4vla carries no demo ({places}). Install the released wheel, or work in a checkout.",
    ).parent


def model_fingerprint(folder: str | Path) -> str | None:
    """
    A hash of everything in a model folder that decides its answers: configuration, processor, tokenizer, weights.

    Returns:
        `str`, or `None` when `folder` is no local folder (a Hub id).
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".jinja"):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _find(path: Path, message: str) -> Path:
    places = [root / path for root in _ROOTS]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(message.format(places=" nor ".join(f"{place.parent}" for place in places)))
    return found


__all__ = ["PUBLISHED_MODEL", "demo_folder", "model_fingerprint", "published_model"]
