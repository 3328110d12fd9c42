"""The strict, bounded reader of coordinates in model text: what an item is, why one is rejected, bracketed text.

Reading knows neither images nor units: it turns text into [`RawItem`] values as they were written. It never evaluates
text, takes time linear in its length, and never raises on any text. Whatever looks like a coordinate and cannot be
used is listed as [`Rejected`].
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Kind = Literal["point", "box", "trace"]

_EXCERPT = 200


class RejectReason(StrEnum):
    """Why a piece of text, or an item, is not part of a result (or not as it was written)."""

    CLIPPED = "clipped"
    """A box reached out of the image; its clipped part is in the result, this entry holds the original."""
    OUTSIDE = "outside image"
    """A point, a vertex of a trace, or a whole box lies outside the image."""
    NOT_FINITE = "not a finite number"
    """A coordinate is NaN, infinite, no number at all, or longer than the limit."""
    INVERTED_BOX = "inverted box"
    """`x2 < x1` or `y2 < y1`. Not swapped: it often means another coordinate order."""
    EMPTY_BOX = "empty box"
    """Width or height is zero."""
    SHORT_TRACE = "short trace"
    """A trace needs two points."""
    WRONG_COUNT = "wrong number of coordinates"
    NOT_COORDINATES = "not coordinates"
    """The value of a coordinate key or tag holds something else than lists of numbers."""
    UNKNOWN_KEY = "not a key of this dialect"
    """Numbers under a key that this dialect does not use; their meaning and order are not guessed."""
    INCOMPLETE = "incomplete"
    """The text ends in the middle of it."""
    MALFORMED = "malformed"
    TOO_DEEP = "nested too deeply"
    """The rest of the text, from a bracket beyond the limit."""
    TOO_MANY = "too many items"
    """The rest of the text, from the first item beyond the limit."""
    TOO_LONG = "text too long"
    """The rest of the text, beyond the limit."""
    NO_COORDINATES = "no coordinates found"


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something that was read and not used as it stands.

    Args:
        item (`str`): the text it was read from (at most 200 characters), or the value in words.
        reason ([`RejectReason`]): why; compares equal to its text, such as `"clipped"`.
        coordinates (`tuple[float, ...]`, *optional*, defaults to `()`): `x, y, x, y, ...` in pixels of the original
            image, where the item had a readable position.
    """

    item: str
    reason: RejectReason
    coordinates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RawItem:
    """One point, box or trace exactly as it was written, in the units and the axis order of its dialect.

    `values` is flat (`a, b, a, b, ...`) and may hold NaN or infinity; `text` is the excerpt it was read from. Items
    that were written in one list have the same `group`.
    """

    kind: Kind
    values: tuple[float, ...]
    label: str | None
    text: str
    group: int


@dataclass(frozen=True, slots=True)
class ParsedText:
    """What a reader found, in text order."""

    found: list[RawItem | Rejected]
    broken_groups: frozenset[int] = frozenset()
    """Groups that the text does not complete: their points stand, but they are not a trace."""
    says_none: bool = False
    """The text is, or holds, an explicit empty list."""
    says_trace: bool = False
    """The text says of something that it is a trace, readable or not: then lists of points are points."""


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """Bounds of the parser; what lies beyond them is rejected with a reason.

    Args:
        max_chars (`int`, *optional*, defaults to 65536): length of the text.
        max_items (`int`, *optional*, defaults to 1000): items found, rejected ones included.
        max_depth (`int`, *optional*, defaults to 32): nesting of brackets.
        max_digits (`int`, *optional*, defaults to 32): characters of one number.
    """

    max_chars: int = 65536
    max_items: int = 1000
    max_depth: int = 32
    max_digits: int = 32


DEFAULT_LIMITS = ParseLimits()

NUMBER = r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?"


def read_number(token: str, limits: ParseLimits) -> float:
    """The value of a token that matches `NUMBER`; NaN if it is longer than the limit."""
    return float(token) if len(token) <= limits.max_digits else math.nan


def excerpt(text: str, start: int, end: int) -> str:
    """`text[start:end]`, stripped and shortened for a report."""
    part = clean_text(text[start : min(end, start + 4 * _EXCERPT)]).strip()
    return part if len(part) <= _EXCERPT and end - start <= 4 * _EXCERPT else part[: _EXCERPT - 3] + "..."


def clean_text(text: str) -> str:
    """`text` with lone surrogates replaced, so that it can be encoded."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class LimitReachedError(Exception):
    """Internal: the limit on items is used up."""


@dataclass
class Findings:
    """Collects what a reader finds, up to the limit on items."""

    text: str
    limits: ParseLimits
    found: list[RawItem | Rejected] = field(default_factory=list)

    def add(self, kind: Kind, values: tuple[float, ...], label: str | None, span: tuple[int, int], group: int) -> None:
        """Adds an item read from `text[span[0]:span[1]]`."""
        self._check_room(span[0])
        self.found.append(RawItem(kind, values, label, excerpt(self.text, *span), group))

    def reject(self, span: tuple[int, int], reason: RejectReason) -> None:
        """Lists `text[span[0]:span[1]]` as rejected."""
        self._check_room(span[0])
        self.found.append(Rejected(excerpt(self.text, *span), reason))

    def _check_room(self, start: int) -> None:
        if len(self.found) >= self.limits.max_items:
            self.found.append(Rejected(excerpt(self.text, start, len(self.text)), RejectReason.TOO_MANY))
            raise LimitReachedError


# --- Brackets: JSON, Python literals and prose around them -----------------------------------------------------------


@dataclass(slots=True)
class Quoted:
    """A string inside brackets, with its quotes, at `text[start:end]`."""

    start: int
    end: int


@dataclass(slots=True)
class Node:
    """One bracket: `[`, `(` or `{` and what it holds, at `text[start:end]`.

    The items of a mapping stand under the `keys` of the same index; a last key may be without its value. `problem`
    says why the bracket was left before its end, `None` for a complete one; then only the last child has one, too.
    """

    opener: str
    start: int
    end: int = -1
    items: list[Node | Quoted | float | None] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    problem: RejectReason | None = None
    expect: Literal["value", "key", "colon", "comma"] = "value"

    @property
    def span(self) -> tuple[int, int]:
        return self.start, self.end

    @property
    def numbers(self) -> tuple[float, ...] | None:
        """The items, if all of them are numbers."""
        numbers = tuple(item for item in self.items if isinstance(item, float))
        return numbers if len(numbers) == len(self.items) and self.opener != "{" else None

    @property
    def children(self) -> Iterator[Node]:
        return (item for item in self.items if isinstance(item, Node))

    @property
    def broken_child(self) -> Node | None:
        last = self.items[-1] if self.items else None
        return last if isinstance(last, Node) and last.problem is not None else None

    @property
    def has_numbers(self) -> bool:
        return any(isinstance(item, float) for item in self.items)


_TOKEN = re.compile(
    rf"""[ \t\r\n]*+(?:
        (?P<number>{NUMBER})
      | (?P<string>"(?:[^"\\]++|\\.)*+"|'(?:[^'\\]++|\\.)*+')
      | (?P<open>[\[({{])
      | (?P<close>[\])}}])
      | (?P<mark>[,:])
      | (?P<nonfinite>[-+]?(?:NaN|nan|Infinity|inf)\b)
      | (?P<atom>(?:null|None|[Tt]rue|[Ff]alse)\b)
    )""",
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(r"[ \t\r\n]*+")
_CUT_OFF = re.compile(r"""(?:["'].*+|[-+.\w]*+)\Z""", re.DOTALL)
_CLOSERS = {"[": "]", "(": ")", "{": "}"}


class BracketScanner:
    """Reads one bracket of `text[:end]` in one pass, without recursion.

    The grammar is JSON plus what models mix into it: tuples, single quotes, a trailing comma, NaN and infinity. At the
    first token that does not fit, scanning stops: what is complete by then stays usable.
    """

    def __init__(self, text: str, start: int, end: int, limits: ParseLimits) -> None:
        self.text, self.pos, self.end, self.limits = text, start, end, limits
        self.stack: list[Node] = []

    def scan(self) -> tuple[Node, int]:
        """Returns the bracket that opens at the start, and where to read on behind it."""
        root = self._open(self.text[self.pos], self.pos)
        self.pos += 1
        while self.stack:
            problem = self._step()
            if problem is not None:
                end = self.end if problem in (RejectReason.INCOMPLETE, RejectReason.TOO_DEEP) else self.pos
                for node in self.stack:
                    node.problem, node.end = problem, end
                if problem == RejectReason.TOO_DEEP:
                    self.pos = self.end  # no sensible answer; the rest is not worth a guess
                break
        return root, self.pos

    def _open(self, opener: str, start: int) -> Node:
        node = Node(opener, start, expect="key" if opener == "{" else "value")
        self.stack.append(node)
        return node

    def _step(self) -> RejectReason | None:
        """Consumes one token; a reason, with `pos` on the token, if it does not fit."""
        match = _TOKEN.match(self.text, self.pos, self.end)
        if match is None or match.lastgroup is None:
            return self._stop()
        token_start, token_end = match.span(match.lastgroup)
        problem = self._take(self.stack[-1], match.lastgroup, token_start, token_end)
        self.pos = token_end if problem is None else token_start
        return problem

    def _stop(self) -> RejectReason:
        space = _SPACE.match(self.text, self.pos, self.end)
        self.pos = space.end() if space else self.pos
        cut_off = _CUT_OFF.match(self.text, self.pos, self.end)
        return RejectReason.INCOMPLETE if cut_off else RejectReason.MALFORMED

    def _take(self, top: Node, symbol: str, start: int, end: int) -> RejectReason | None:
        if symbol == "close":
            return self._close(top, start, end)
        if symbol == "mark":
            return self._mark(top, self.text[start])
        if symbol == "string" and top.expect == "key":
            top.keys.append(unquote(self.text[start:end]))
            top.expect = "colon"
            return None
        if top.expect != "value":
            return RejectReason.MALFORMED
        if symbol == "open" and len(self.stack) >= self.limits.max_depth:
            return RejectReason.TOO_DEEP
        top.expect = "comma"
        top.items.append(self._value(symbol, start, end))
        return None

    def _value(self, symbol: str, start: int, end: int) -> Node | Quoted | float | None:
        if symbol == "open":
            return self._open(self.text[start], start)
        if symbol == "string":
            return Quoted(start, end)
        if symbol == "number":
            return read_number(self.text[start:end], self.limits)
        return math.nan if symbol == "nonfinite" else None

    def _close(self, top: Node, start: int, end: int) -> RejectReason | None:
        missing_value = len(top.keys) > len(top.items)
        if self.text[start] != _CLOSERS[top.opener] or missing_value:
            return RejectReason.MALFORMED
        top.end = end
        self.stack.pop()
        return None

    def _mark(self, top: Node, mark: str) -> RejectReason | None:
        if mark == ":" and top.expect == "colon":
            top.expect = "value"
        elif mark == "," and top.expect == "comma":
            top.expect = "key" if top.opener == "{" else "value"
        else:
            return RejectReason.MALFORMED
        return None


def unquote(token: str) -> str:
    """The text of a quoted token; escapes are those of JSON, and unknown ones stay as they are."""
    inner = token[1:-1]
    if "\\" not in inner:
        return clean_text(inner)
    if token[0] == "'":
        inner = inner.replace("\\'", "'").replace('"', '\\"')
    with suppress(ValueError):  # an escape that JSON does not know: the text keeps its backslashes
        inner = json.loads(f'"{inner}"', strict=False)
    return clean_text(inner)


@dataclass(frozen=True, slots=True)
class BracketGrammar:
    """What the brackets of a dialect may hold.

    Args:
        keys (`Mapping[str, Kind]`): the coordinate keys of objects.
        tags (`bool`): whether `<box>`, `<point>` and `<trace>` tags, and `<ref>label</ref>` before them, are read.
    """

    keys: Mapping[str, Kind] = field(default_factory=dict)
    tags: bool = False


_OPENERS = re.compile(r"[\[({]")
_OPENERS_AND_TAGS = re.compile(
    r"[\[({]|<(?P<tag>box|point|trace)>|</(?P<endtag>box|point|trace)>|<ref>(?P<ref>[^<]{0,500}+)</ref>"
)
_TAG_IN_STRING = re.compile(r"<(?:box|point|trace)>")
_TAG_KINDS: Mapping[str, Kind] = {"box": "box", "point": "point", "trace": "trace"}
_LENGTHS = {"point": 2, "box": 4}


@dataclass
class _Region:
    """State while reading a stretch of text: the open tag, the `<ref>` just before, the list of loose tuples."""

    tag: Kind | None = None
    tag_start: int = 0
    label: str | None = None
    label_end: int = -1
    last_end: int = -1
    group: int = 0


class BracketReader:
    """Reads every coordinate bracket of a text, wherever it stands: plain, fenced, in prose, in tags, cut off."""

    def __init__(self, text: str, grammar: BracketGrammar, limits: ParseLimits) -> None:
        self.text, self.grammar, self.limits = text, grammar, limits
        self.findings = Findings(text, limits)
        self.broken_groups: set[int] = set()
        self.says_none = self.says_trace = False

    def read(self) -> ParsedText:
        with suppress(LimitReachedError):  # listed by `Findings` as "too many items"
            self._region(0, len(self.text), inside_string=False)
        return ParsedText(self.findings.found, frozenset(self.broken_groups), self.says_none, self.says_trace)

    # 1. Text: brackets and tags, one after the other

    def _region(self, start: int, end: int, inside_string: bool) -> None:
        """Reads `text[start:end]`; inside a string only what stands in tags counts."""
        opener = _OPENERS_AND_TAGS if self.grammar.tags else _OPENERS
        state, pos = _Region(), start
        while match := opener.search(self.text, pos, end):
            pos = match.end()
            if match.lastgroup is not None:
                self._tag(state, match)
            elif state.tag is not None or not inside_string:
                pos = self._bracket(state, match.start(), end)
        if state.tag is not None and state.last_end < state.tag_start:
            self.findings.reject((state.tag_start, end), RejectReason.INCOMPLETE)

    def _tag(self, state: _Region, match: re.Match[str]) -> None:
        if match.lastgroup == "ref":
            state.label = clean_text(match["ref"].strip())
        elif match.lastgroup == "endtag":
            if state.tag is not None and state.last_end < state.tag_start:
                self.findings.reject((state.tag_start, match.end()), RejectReason.NOT_COORDINATES)
            state.tag = state.label = None
        else:
            if self._text_between(state.label_end, match.start()):
                state.label = None
            state.tag, state.tag_start = _TAG_KINDS[match["tag"]], match.start()
            self.says_trace |= state.tag == "trace"
        state.label_end = match.end()

    def _bracket(self, state: _Region, start: int, end: int) -> int:
        """Reads the bracket at `start`; returns where to read on."""
        node, pos = BracketScanner(self.text, start, end, self.limits).scan()
        if state.last_end < 0 or self._text_between(state.last_end, start, ","):
            state.group = ~start  # below zero, apart from the groups of lists, which are their offsets
        if self._text_between(state.label_end, start):
            state.label = None
        if node.problem is not None:
            self.broken_groups.add(state.group)
        if state.tag is not None:
            self._coordinates(state.tag, node, state.label, state.group)
        else:
            self._node(node, state.label, state.group, bare=True)
        state.last_end, state.label_end = pos, pos
        return pos

    def _text_between(self, start: int, end: int, ignored: str = "") -> bool:
        return bool(self.text[start:end].strip(" \t\r\n" + ignored)) if start >= 0 else True

    # 2. Brackets without a declared meaning

    def _node(self, node: Node, label: str | None, group: int, bare: bool) -> None:
        """Reads a bracket; `bare`: lists of numbers in it are coordinates, since no unknown key stands above them."""
        if node.opener == "{":
            self._mapping(node, group)
        elif node.has_numbers and all(child.opener != "{" for child in node.children):
            self._number_list(node, label, group, bare)
        else:
            if node.problem is not None:
                self.broken_groups.add(node.start)
            self.says_none |= not node.items and node.opener == "[" and node.problem is None
            for item in node.items:
                if isinstance(item, Node):
                    self._node(item, label, node.start, bare)
                elif isinstance(item, Quoted):
                    self._string(item)
            if node.has_numbers and node.problem is None:
                self.findings.reject(node.span, RejectReason.NOT_COORDINATES)  # numbers between the objects
            self._tail(node)

    def _number_list(self, node: Node, label: str | None, group: int, bare: bool) -> None:
        numbers = node.numbers
        if node.problem is not None:
            self.findings.reject(node.span, node.problem)
        elif numbers is None:
            self.findings.reject(node.span, RejectReason.NOT_COORDINATES)
        elif not bare:
            self.findings.reject(node.span, RejectReason.UNKNOWN_KEY)
        elif len(numbers) == _LENGTHS["point"]:
            self.findings.add("point", numbers, label, node.span, group)
        elif len(numbers) == _LENGTHS["box"]:
            self.findings.add("box", numbers, label, node.span, group)
        else:
            self.findings.reject(node.span, RejectReason.WRONG_COUNT)

    def _mapping(self, node: Node, group: int) -> None:
        self.says_trace |= any(self.grammar.keys.get(key) == "trace" for key in node.keys)
        if node.problem is not None and any(key in self.grammar.keys for key in node.keys):
            self.findings.reject(node.span, node.problem)
            return
        fields = dict(zip(node.keys, node.items, strict=False))
        for key, value in zip(node.keys, node.items, strict=False):
            if key in self.grammar.keys:
                self._keyed(key, value, fields, node, group)
            elif isinstance(value, Node):
                self._node(value, None, group, bare=False)
            elif isinstance(value, Quoted) and key != "label":
                self._string(value)
        self._tail(node)

    def _string(self, quoted: Quoted) -> None:
        inner = quoted.start + 1, quoted.end - 1
        if self.grammar.tags and _TAG_IN_STRING.search(self.text, *inner):
            self._region(*inner, inside_string=True)

    def _tail(self, node: Node) -> None:
        """Lists what an incomplete bracket holds behind its last complete item, unless a child of it does."""
        if node.problem is None or node.broken_child is not None:
            return
        if node.problem == RejectReason.MALFORMED and not node.has_numbers:
            return  # a bracket of prose, such as "[see below]"
        last = max((item.end for item in node.items if isinstance(item, Node | Quoted)), default=node.start)
        self.findings.reject((node.start if node.opener == "{" else last, node.end), node.problem)

    # 3. Brackets whose meaning a key or a tag declares

    def _keyed(
        self,
        key: str,
        value: Node | Quoted | float | None,
        fields: Mapping[str, Node | Quoted | float | None],
        node: Node,
        group: int,
    ) -> None:
        if not isinstance(value, Node):
            self.findings.reject(node.span, RejectReason.NOT_COORDINATES)
            return
        label = self._label(fields, "label")
        if label is None and key.endswith("_bbox"):  # a role, as in {"pick_object": "cup", "pick_object_bbox": [...]}
            role = key.removesuffix("_bbox")
            label = self._label(fields, role) or role.replace("_", " ")
        self._coordinates(self.grammar.keys[key], value, label, group, node.span)

    def _label(self, fields: Mapping[str, Node | Quoted | float | None], key: str) -> str | None:
        value = fields.get(key)
        return unquote(self.text[value.start : value.end]) if isinstance(value, Quoted) else None

    def _coordinates(
        self, kind: Kind, node: Node, label: str | None, group: int, span: tuple[int, int] | None = None
    ) -> None:
        """Adds the `kind`s in `node`: one, or a list of them."""
        span = span or node.span
        lists_only = node.opener != "{" and not node.has_numbers and len(list(node.children)) == len(node.items)
        if node.problem is not None and (kind == "trace" or not lists_only or not node.items):
            self.findings.reject(span, node.problem)
        elif node.numbers is not None:
            self._one(kind, node.numbers, label, span, group)
        elif not lists_only:
            self.findings.reject(span, RejectReason.NOT_COORDINATES)
        elif kind == "trace" and all(child.numbers is not None for child in node.children):
            self._trace([child.numbers or () for child in node.children], label, span, group)
        else:
            if node.problem is not None:
                self.broken_groups.add(node.start)
            for child in node.children:
                self._coordinates(kind, child, label, node.start)
            self._tail(node)

    def _one(
        self, kind: Kind, numbers: tuple[float, ...], label: str | None, span: tuple[int, int], group: int
    ) -> None:
        if len(numbers) != _LENGTHS.get(kind):
            self.findings.reject(span, RejectReason.WRONG_COUNT)
        else:
            self.findings.add(kind, numbers, label, span, group)

    def _trace(self, vertices: list[tuple[float, ...]], label: str | None, span: tuple[int, int], group: int) -> None:
        if any(len(vertex) != _LENGTHS["point"] for vertex in vertices):
            self.findings.reject(span, RejectReason.WRONG_COUNT)
        else:
            self.findings.add("trace", tuple(value for vertex in vertices for value in vertex), label, span, group)
