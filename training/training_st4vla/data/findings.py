"""What `st4vla check` has to say about a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["info", "warning", "error"]
EXIT_CODES: dict[Level, int] = {"info": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class Finding:
    """One thing found in a dataset.

    Args:
        level: `error`: the data cannot be used so; `warning`: they can, and probably should not; `info`: a fact.
        name: What it is about, short and stable (`videos`, `coordinate space`, ...).
        text: What was found and what to do, in a sentence or two.
        count: How many rows, frames or files, where it counts something.
        examples: Places of the first few.
    """

    level: Level
    name: str
    text: str
    count: int | None = None
    examples: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "level": self.level,
            "name": self.name,
            "text": self.text,
            "count": self.count,
            "examples": list(self.examples),
        }


@dataclass
class Findings:
    """Findings about one dataset, in the order in which they were made, with pictures for the report.

    Args:
        subject: Path or Hub id.
        pictures: Contact sheet: `(PIL image, caption)`.
    """

    subject: str
    found: list[Finding] = field(default_factory=list)
    pictures: list[tuple[Any, str]] = field(default_factory=list)

    def info(self, name: str, text: str, **more: Any) -> None:
        """Adds a fact."""
        self.found.append(Finding("info", name, text, **more))

    def warning(self, name: str, text: str, **more: Any) -> None:
        """Adds a warning."""
        self.found.append(Finding("warning", name, text, **more))

    def error(self, name: str, text: str, **more: Any) -> None:
        """Adds an error."""
        self.found.append(Finding("error", name, text, **more))

    def count(self, level: Level) -> int:
        """Number of findings of a level."""
        return sum(finding.level == level for finding in self.found)

    @property
    def exit_code(self) -> int:
        """0: healthy; 1: warnings; 2: errors."""
        return max((EXIT_CODES[finding.level] for finding in self.found), default=0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "dataset": self.subject,
            "exit_code": self.exit_code,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "findings": [finding.to_dict() for finding in self.found],
        }


__all__ = ["EXIT_CODES", "Finding", "Findings", "Level"]
