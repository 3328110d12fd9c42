"""The examples under the question, and their answers, computed once per model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "examples"
ANSWERS = FOLDER / "answers.json"


@dataclass(frozen=True)
class Example:
    """A picture of `FOLDER` and a question about it."""

    picture: str
    text: str
    kind: str
    title: str

    @property
    def path(self) -> Path:
        """The picture's file."""
        return FOLDER / self.picture


def load_examples(folder: Path = FOLDER) -> list[Example]:
    """The examples in the order of the page."""
    return [Example(**row) for row in json.loads((folder / "examples.json").read_text())]


class AnswerCache:
    """
    Answers to the examples. What the package carries counts only for the very model that gave it, told by the hash of
    its files; for any other model each example is computed when it is first asked.

    Args:
        fingerprint (`str`, *optional*): of the model that answers now. path (`Path`): the carried answers.
    """

    def __init__(self, fingerprint: str | None, path: Path = ANSWERS) -> None:
        self._answers: dict[int, dict[str, Any]] = {}
        if fingerprint is not None and path.is_file():
            carried = json.loads(path.read_text())
            if carried["fingerprint"] == fingerprint:
                self._answers = {int(number): answer for number, answer in carried["answers"].items()}

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, number: int) -> dict[str, Any] | None:
        """The answer to example `number`, marked as from the cache."""
        found = self._answers.get(number)
        return None if found is None else {**found, "from_cache": True}

    def put(self, number: int, answer: dict[str, Any]) -> None:
        """Keeps an answer while the server runs."""
        self._answers[number] = answer


__all__ = ["ANSWERS", "FOLDER", "AnswerCache", "Example", "load_examples"]
