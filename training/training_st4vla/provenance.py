"""Where a model comes from: the command, the data with their licences, the versions; told step by step in its card."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START, END = "<!-- history -->", "<!-- end of history -->"
NOT_STATED = "not stated"
_INHERITED = ("license", "license_name", "license_link", "base_model", "base_model_relation", "datasets")


@dataclass(frozen=True)
class CreditedData:
    """
    A dataset that a model learned from.

    Args:
        name (`str`): Hub id, or the name of the local folder or file.
        license (`str`, *optional*): as the data state it; `None` when they do not.
        hub_id (`str`, *optional*): for the card's `datasets`.
    """

    name: str
    license: str | None = None
    hub_id: str | None = None


@dataclass(frozen=True)
class Ancestry:
    """
    What a model's card takes over from the model it started from.

    Args:
        metadata (`dict`): front matter: licence, base models, datasets.
        history (`str`): markdown of the steps so far.
    """

    metadata: dict[str, Any]
    history: str = ""


def public_name(path: str) -> str:
    """A Hub id as it is; of a local path only the last part, which says nothing about the machine."""
    return Path(path).resolve().name if Path(path).exists() else path


def portable_command(words: Sequence[str] | None = None) -> str:
    """
    The command line to repeat a step, without the places that only this machine has.

    Args:
        words (`Sequence[str]`, *optional*): program and arguments; those of this process by default.
    """
    import shlex

    program, *arguments = sys.argv if words is None else words
    return f"{_program(program)} {shlex.join(map(_without_folders, arguments))}".rstrip()


def describe_source(path: str) -> CreditedData:
    """A dataset's name and licence, from its card, or from the `license` column of its grounding rows."""
    local = Path(path).expanduser()
    card = local / "README.md" if local.exists() else _download_card(path, "dataset")
    stated = _front_matter(card).get("license")
    if stated is None and local.exists():
        stated = ", ".join(sorted(row_licenses(local) - {"unknown"})) or None
    if isinstance(stated, list):
        stated = ", ".join(map(str, stated))
    return CreditedData(public_name(str(local)) if local.exists() else path, stated, None if local.exists() else path)


def row_licenses(path: Path) -> set[str]:
    """Licences in the `license` column of a local grounding dataset: parquet files, or a JSON lines file."""
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as lines:
            return {str(row["license"]) for row in map(json.loads, filter(str.strip, lines)) if row.get("license")}
    files = [path] if path.suffix == ".parquet" else sorted(path.glob("grounding/**/*.parquet"))
    if not files:
        return set()
    import pyarrow.parquet as pq

    found: set[str] = set()
    for file in files:
        if "license" in pq.read_schema(file).names:
            found |= set(map(str, pq.read_table(file, columns=["license"])["license"].unique().to_pylist()))
    return found


def trace_ancestry(model: str) -> Ancestry:
    """
    What the card of a model fine-tuned from `model` begins with.

    Args:
        model (`str`): folder or Hub id of the starting point.
    """
    local = Path(model).exists()
    card = Path(model) / "README.md" if local else _download_card(model, "model")
    metadata = {key: value for key, value in _front_matter(card).items() if key in _INHERITED}
    if not local:
        metadata |= {"base_model": [model], "base_model_relation": "finetune"}
    text = card.read_text(encoding="utf-8") if card is not None and card.is_file() else ""
    found = re.search(re.escape(START) + r"(.*?)" + re.escape(END), text, re.DOTALL)
    return Ancestry(metadata, found.group(1).strip() if found else "")


def trace_bases(models: Sequence[str]) -> Ancestry:
    """What the card of a new model around other makers' models begins with; its maker states the licence."""
    named = [one for one in models if not Path(one).exists()]
    return Ancestry({"base_model": named, "base_model_relation": "finetune"} if named else {})


def add_step(history: str, summary: str, sources: Sequence[CreditedData], dtype: str) -> str:
    """
    The history with what this process did appended: summary, command, data with licences, versions.

    Args:
        history (`str`): of the starting point, or empty. summary (`str`): one sentence.
        sources (`Sequence[CreditedData]`): what was learned from in this step. dtype (`str`): of the saved weights.
    """
    from training_st4vla.evaluation.report import RunInfo

    info = RunInfo.collect(dtype=dtype)
    versions = ", ".join(f"{name} {version}" for name, version in info.versions.items())
    rows = "\n".join(f"| {one.name} | {one.license or NOT_STATED} |" for one in sources)
    data = f"| data | licence |\n| --- | --- |\n{rows}" if sources else "Data: none."
    number = len(re.findall(r"^### Step ", history, re.MULTILINE)) + 1
    step = (
        f"### Step {number}\n\n{summary}\n\n```bash\n{portable_command()}\n```\n\n{data}\n\n"
        f"{info.date[:10]}, {info.machine}, {dtype}; {versions}."
    )
    return f"{history}\n\n{step}".strip()


def _program(path: str) -> str:
    """`st4vla`, or how Python was given a file or a module of this package."""
    file = Path(path)
    if file.suffix != ".py":
        return file.name
    parts = file.with_suffix("").parts
    if "training_st4vla" in parts:
        return "python -m " + ".".join(parts[parts.index("training_st4vla") :])
    return f"python {file.name}"


def _without_folders(word: str) -> str:
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{Path(value).name}" if Path(value).expanduser().is_absolute() else word


def _download_card(repo_id: str, kind: str) -> Path | None:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id, "README.md", repo_type=kind))
    except (OSError, ValueError):  # no card, no such repository, no network: the licence stays "not stated"
        return None


def _front_matter(card: Path | None) -> dict[str, Any]:
    from huggingface_hub.repocard import metadata_load

    if card is None or not card.is_file():
        return {}
    return metadata_load(card) or {}


__all__ = [
    "NOT_STATED",
    "Ancestry",
    "CreditedData",
    "add_step",
    "describe_source",
    "portable_command",
    "public_name",
    "row_licenses",
    "trace_ancestry",
    "trace_bases",
]
