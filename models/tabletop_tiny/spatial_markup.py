"""Readers of the two dialects that are written in tags: Molmo's XML-like points and Florence-2's location tokens."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from contextlib import suppress

from .spatial_parsing import (
    NUMBER,
    Findings,
    LimitReachedError,
    ParsedText,
    ParseLimits,
    RejectReason,
    clean_text,
    read_number,
)

# --- Molmo: <point x="61.5" y="40.4" alt="cup">cup</point>, <points x1="..." y1="..." x2=...>, <trace ...> -----------

_MOLMO_TAG = re.compile(r"<(?P<name>points?|trace)(?=[\s/>])")
_NAME_CUT_OFF = re.compile(r"<(?:p(?:o(?:i(?:n(?:ts?)?)?)?)?|t(?:r(?:a(?:ce?)?)?)?)?\Z")
_ATTRIBUTE = re.compile(
    r"""\s++(?P<name>[A-Za-z_][\w:.-]*+)\s*+=\s*+(?:"(?P<double>[^"<]*+)"|'(?P<single>[^'<]*+)')"""
)
_TAG_END = re.compile(r"\s*+>(?P<body>[^<]*+)</(?P<name>[a-z]++)>")
_TAG_CUT_OFF = re.compile(r"""[^<>]*+(?:>[^<]*+(?:</?[a-z]*+)?)?\Z""")
_NUMBER_ONLY = re.compile(rf"\s*+({NUMBER})\s*+\Z")
_AXIS = re.compile(r"(?P<axis>[xy])(?P<index>[0-9]{0,6})\Z")


def read_molmo(text: str, limits: ParseLimits) -> ParsedText:
    """Reads Molmo tags. `<trace>` has the form of `<points>` and is our addition for ordered traces."""
    reader = _MolmoReader(text, limits)
    with suppress(LimitReachedError):  # listed by `Findings` as "too many items"
        reader.read()
    return ParsedText(reader.findings.found, frozenset(reader.broken_groups), _says_none(text))


class _MolmoReader:
    def __init__(self, text: str, limits: ParseLimits) -> None:
        self.text, self.limits = text, limits
        self.findings = Findings(text, limits)
        self.broken_groups: set[int] = set()
        self.group, self.group_end = 0, -1

    def read(self) -> None:
        pos = 0
        while match := _MOLMO_TAG.search(self.text, pos):
            pos = self._tag(match)
        if cut_off := _NAME_CUT_OFF.search(self.text, max(pos, len(self.text) - len("<points"))):
            self.broken_groups.add(self.group)
            self.findings.reject(cut_off.span(), RejectReason.INCOMPLETE)

    def _tag(self, match: re.Match[str]) -> int:
        """Reads the tag that opens at `match`; returns where to read on."""
        attributes, pos = self._attributes(match.end())
        tag_end = _TAG_END.match(self.text, pos)
        if tag_end is None or tag_end["name"] != match["name"]:
            cut_off = _TAG_CUT_OFF.match(self.text, pos)
            self.broken_groups.add(self.group)
            self.findings.reject(
                (match.start(), cut_off.end() if cut_off else pos),
                RejectReason.INCOMPLETE if cut_off else RejectReason.MALFORMED,
            )
            return pos
        if self.group_end < 0 or self.text[self.group_end : match.start()].strip(" \t\r\n,"):
            self.group = ~match.start()  # apart from the groups of <points> tags, which are their offsets
        self._coordinates(match["name"], attributes, tag_end["body"], (match.start(), tag_end.end()))
        self.group_end = tag_end.end()
        return tag_end.end()

    def _attributes(self, pos: int) -> tuple[list[tuple[str, str]], int]:
        attributes: list[tuple[str, str]] = []
        while match := _ATTRIBUTE.match(self.text, pos):
            attributes.append((match["name"], match["single"] if match["double"] is None else match["double"]))
            pos = match.end()
        return attributes, pos

    def _coordinates(self, name: str, attributes: list[tuple[str, str]], body: str, span: tuple[int, int]) -> None:
        label = _molmo_label(dict(attributes), body)
        vertices = _molmo_vertices(attributes, self.limits)
        complete = [(x, y) for x, y in vertices.values() if x is not None and y is not None]
        if len(complete) < len(vertices) or not vertices:
            self.broken_groups.add(span[0])
            self.findings.reject(span, RejectReason.WRONG_COUNT)
        if name == "trace":
            if complete and len(complete) == len(vertices):
                self.findings.add("trace", tuple(value for xy in complete for value in xy), label, span, span[0])
            return
        for xy in complete:
            self.findings.add("point", xy, label, span, self.group if name == "point" else span[0])


def _molmo_label(attributes: Mapping[str, str], body: str) -> str | None:
    alt = attributes.get("alt")
    label = alt if alt is not None else body.strip() or None
    return clean_text(html.unescape(label)) if label is not None else None


def _molmo_vertices(
    attributes: list[tuple[str, str]], limits: ParseLimits
) -> dict[str, tuple[float | None, float | None]]:
    """The `(x, y)` of each index, in the order of their appearance; `None` where one is missing, NaN for no number."""
    vertices: dict[str, tuple[float | None, float | None]] = {}
    for name, text in attributes:
        axis = _AXIS.match(name)
        if axis is None:
            continue
        x, y = vertices.get(axis["index"], (None, None))
        number = _NUMBER_ONLY.match(text)
        value = read_number(number[1], limits) if number else math.nan
        if axis["axis"] == "x":
            vertices[axis["index"]] = (value if x is None else math.nan, y)
        else:
            vertices[axis["index"]] = (x, value if y is None else math.nan)
    return vertices


# --- Florence-2: cup<loc_52><loc_332><loc_932><loc_774>, cup<poly><loc_52><loc_332></poly> ---------------------------

_FLORENCE_RUN = re.compile(r"(?P<poly><poly>)?(?P<bins>(?:<loc_[0-9]++>)++)(?P<end></poly>)?")
_BIN = re.compile(r"<loc_([0-9]++)>")
FLORENCE_BINS = 1000


def read_florence2(text: str, limits: ParseLimits) -> ParsedText:
    """Reads Florence-2 location tokens, each as the centre of its bin in `[0, 1000]`.

    A plain run of tokens holds boxes, four tokens each, for the label before it. Tokens between `<poly>` and `</poly>`
    are a point (two tokens) or an ordered trace. Any other tag, such as `<sep>`, ends a label.
    """
    findings = Findings(text, limits)
    end = 0
    with suppress(LimitReachedError):  # listed by `Findings` as "too many items"
        for match in _FLORENCE_RUN.finditer(text):
            label = clean_text(text[end : match.start()].rpartition(">")[2].strip()) or None
            _florence_run(findings, match, label)
            end = match.end()
        rest = text[end:].rpartition(">")[2].strip() or text.endswith(("<poly>", "<sep>"))
        if rest and (end > 0 or "<" in text[-limits.max_digits :]):  # a label or a tag without its tokens
            findings.reject((end, len(text)), RejectReason.INCOMPLETE)
    return ParsedText(findings.found, says_none=_says_none(text))


def _florence_run(findings: Findings, match: re.Match[str], label: str | None) -> None:
    bins = [read_number(token, findings.limits) for token in _BIN.findall(match["bins"])]
    values = tuple(index + 0.5 if index < FLORENCE_BINS else math.nan for index in bins)
    span = match.span()
    if bool(match["poly"]) != bool(match["end"]):
        findings.reject(span, RejectReason.INCOMPLETE)
    elif match["poly"] and len(values) % 2 == 0:
        findings.add("point" if len(values) == 2 else "trace", values, label, span, span[0])
    elif not match["poly"] and len(values) % 4 == 0:
        for start in range(0, len(values), 4):
            findings.add("box", values[start : start + 4], label, span, span[0])
    else:
        findings.reject(span, RejectReason.WRONG_COUNT)


def _says_none(text: str) -> bool:
    return text.strip() == "[]"
