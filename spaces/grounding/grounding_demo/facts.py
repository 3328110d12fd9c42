"""The words under a picture: what was read, what was rejected, how long each stage took. All of it escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_KINDS = (("point", "points"), ("box", "boxes"), ("trace", "traces"))
CSS = """
.facts { font-size: 13px; line-height: 1.5; color: var(--body-text-color); overflow-wrap: anywhere; }
.facts p { margin: 0 0 4px; }
.facts pre { margin: 2px 0 8px; padding: 8px 10px; white-space: pre-wrap; overflow-wrap: anywhere; border-radius: 6px;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); font-size: 12.5px; }
.facts .soft { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.facts ul { margin: 0 0 8px; padding-left: 20px; list-style: disc; }
"""


def latency_line(answer: Mapping[str, Any]) -> str:
    """One line: what was parsed, sizes, time per stage, device. Plain text."""
    times = answer["timings"]
    width, height = answer["image_size"]
    seen_width, seen_height = answer["model_size"]
    found = [counted(len(answer[kind]), one, kind) for one, kind in _KINDS if answer[kind]]
    parts = [
        f"parsed {', '.join(found) or 'nothing'}",
        f"{len(answer['rejected'])} rejected",
        f"{width} × {height} px, seen at {seen_width} × {seen_height}",
        f"preprocess {milliseconds(times['preprocess_s'])}",
        f"generate {milliseconds(times['generate_s'])}",
        f"{times['new_tokens']} tokens at {times['tokens_per_s']:.0f}/s",
        f"total {milliseconds(times['total_s'])}",
        answer["device"],
        answer["model"],
    ]
    if answer["from_cache"]:
        parts.insert(0, "answered from the cache; the times are those of the first time")
    return " · ".join(parts)


def counted(number: int, one: str, many: str) -> str:
    """A number with its word."""
    return f"{number} {one if number == 1 else many}"


def milliseconds(seconds: float) -> str:
    """A duration as people read it."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def facts_html(answers: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Latency, raw text and rejected items of every `(picture name, answer)`."""
    return "".join(_block(name if len(answers) > 1 else "", answer) for name, answer in answers)


def _block(name: str, answer: Mapping[str, Any]) -> str:
    rejected = "".join(
        f"<li><code>{escape(item['item'])}</code>: {escape(item['reason'])}</li>" for item in answer["rejected"]
    )
    title = f"<p><b>{escape(name)}</b></p>" if name else ""
    return (
        f'<div class="facts">{title}<p class="soft">{escape(latency_line(answer))}</p>'
        f"<p>What the model wrote</p><pre>{escape(answer['raw_text']) or '(nothing)'}</pre>"
        f"<p>Rejected: {'' if rejected else 'nothing'}</p>{f'<ul>{rejected}</ul>' if rejected else ''}</div>"
    )


__all__ = ["CSS", "counted", "facts_html", "latency_line", "milliseconds"]
