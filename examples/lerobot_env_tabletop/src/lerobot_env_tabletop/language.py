"""How an instruction names things: references that single out one item, and the words that express them.

A reference is meaning (attributes, an ordinal, a relation); a phrase is wording. Training and held-out wordings are
disjoint, for references as well as for whole instructions. Left and right are as the front camera sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, pairwise, product
from typing import Literal

import numpy as np

from .objects import Item, Kind

Action = Literal["put", "push", "stack", "next_to", "left_of", "right_of", "between"]
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
REFERENCE_KINDS = ("shape", "color", "color_shape", "size", "material", "ordinal", "relation")
"""Ways to refer to an object; every task uses all that are unambiguous in its scene."""
_MARGIN = 0.03
_ATTRIBUTES = ("size", "material", "color", "shape")


@dataclass(frozen=True)
class Reference:
    """What singles an item out among the items of a scene.

    Attributes:
        kind: Kind of item looked for.
        shape, color, size, material: Required attributes; None means any.
        ordinal: Position (0 = first) when the items that have the attributes are counted from ``side``.
        side: ``left`` or ``right`` of the front image.
        relation: ``nearest``, ``left_of`` or ``right_of`` the anchor.
        anchor: The item the relation is about.
    """

    kind: Kind = "object"
    shape: str | None = None
    color: str | None = None
    size: str | None = None
    material: str | None = None
    ordinal: int | None = None
    side: Literal["left", "right"] | None = None
    relation: Literal["nearest", "left_of", "right_of"] | None = None
    anchor: Reference | None = None

    @property
    def category(self) -> str:
        """Which of :data:`REFERENCE_KINDS` this is."""
        if self.ordinal is not None:
            return "ordinal"
        if self.relation is not None:
            return "relation"
        if self.material is not None:
            return "material"
        if self.size is not None:
            return "size"
        if self.color is not None:
            return "color_shape" if self.shape is not None else "color"
        return "shape"

    def matches(self, items: tuple[Item, ...]) -> list[Item]:
        """The items it fits; exactly one when the reference is unambiguous in the scene."""
        wanted = {name: getattr(self, name) for name in _ATTRIBUTES if getattr(self, name) is not None}
        found = [
            item
            for item in items
            if item.kind == self.kind and all(getattr(item, name) == value for name, value in wanted.items())
        ]
        if self.ordinal is not None:
            ranked = sorted(found, key=lambda item: item.xy[1], reverse=self.side == "right")
            return ranked[self.ordinal : self.ordinal + 1]
        if self.relation is None or self.anchor is None:
            return found
        anchors = self.anchor.matches(items)
        return _related(self.relation, found, anchors[0]) if len(anchors) == 1 else []


def _related(relation: str, found: list[Item], anchor: Item) -> list[Item]:
    others = [item for item in found if item.name != anchor.name]
    if relation == "nearest":
        return sorted(others, key=anchor.distance)[:1]
    sign = -1 if relation == "left_of" else 1
    return [item for item in others if sign * (item.xy[1] - anchor.xy[1]) > 0]


def _clear(reference: Reference, target: Item, items: tuple[Item, ...]) -> bool:
    """Unambiguous, also for somebody who judges distances by eye."""
    if [item.name for item in reference.matches(items)] != [target.name]:
        return False
    if reference.ordinal is not None:
        group = replace(reference, ordinal=None, side=None).matches(items)
        rows = sorted(item.xy[1] for item in group)
        return len(group) > 1 and min(b - a for a, b in pairwise(rows)) > _MARGIN
    if reference.relation is not None and reference.anchor is not None:
        group = replace(reference, relation=None, anchor=None).matches(items)
        anchor = reference.anchor.matches(items)[0]
        others = [item for item in group if item.name not in (target.name, anchor.name)]
        if reference.relation == "nearest":
            return bool(others) and min(anchor.distance(i) for i in others) > anchor.distance(target) + _MARGIN
        sides = [abs(item.xy[1] - anchor.xy[1]) for item in (*others, target)]
        return bool(others) and min(sides) > _MARGIN
    return True


def _by_attributes(target: Item) -> list[Reference]:
    names = ("shape", "color") if target.kind != "object" else _ATTRIBUTES
    subsets = [subset for n in (1, 2, 3, 4) for subset in combinations(names, n)]
    readable = [s for s in subsets if set(s) <= {"shape", "color"} or "shape" in s]
    return [Reference(target.kind, **{name: getattr(target, name) for name in s}) for s in readable]


def _by_place(target: Item, items: tuple[Item, ...]) -> list[Reference]:
    groups = [Reference("object"), Reference("object", shape=target.shape), Reference("object", color=target.color)]
    found = [
        replace(group, ordinal=rank, side=side)
        for group, rank, side in product(groups, range(len(ORDINALS)), ("left", "right"))
        if rank < 3
    ]
    anchors = [item for item in items if item.name != target.name and item.mentionable]
    for group, anchor, relation in product(groups[1:], anchors, ("nearest", "left_of", "right_of")):
        named = Reference(anchor.kind, shape=anchor.shape, color=anchor.color)
        if [item.name for item in named.matches(items)] == [anchor.name]:
            found.append(replace(group, relation=relation, anchor=named))
    return found


def describe(
    target: Item, items: tuple[Item, ...], rng: np.random.Generator, attributes_only: bool = False
) -> Reference | None:
    """A random unambiguous reference to ``target``, or None if nothing short of pointing singles it out.

    Every applicable kind of :data:`REFERENCE_KINDS` is equally likely; within a kind the shortest wording wins.

    Args:
        target: The item to refer to.
        items: All items of the scene, clutter included.
        rng: Source of randomness.
        attributes_only: Leave out ordinals and relations, whose truth changes when things move.
    """
    options = [ref for ref in _by_attributes(target) if _clear(ref, target, items)]
    shortest: dict[str, Reference] = {}
    for reference in options:  # sorted by length already
        shortest.setdefault(reference.category, reference)
    if target.kind == "object" and not attributes_only:
        placed = [ref for ref in _by_place(target, items) if _clear(ref, target, items)]
        for category in ("ordinal", "relation"):
            same = [ref for ref in placed if ref.category == category]
            if same:
                shortest[category] = same[int(rng.integers(len(same)))]
    if not shortest:
        return None
    return shortest[sorted(shortest)[int(rng.integers(len(shortest)))]]


_NOUN = {"object": "object", "container": "container", "zone": "zone"}


def phrase(reference: Reference, held_out: bool = False) -> str:
    """The words for a reference: ``the small red cube``, or held out: ``the cube that is small and red``."""
    noun = reference.shape or _NOUN[reference.kind]
    given = [getattr(reference, name) for name in ("size", "color", "material") if getattr(reference, name)]
    if held_out:
        head = f"{noun} that is {' and '.join(given)}" if given else noun
    else:
        head = " ".join([*given, noun])
    if reference.ordinal is not None:
        rank = ORDINALS[reference.ordinal]
        if held_out:
            return f"the {head}, number {reference.ordinal + 1} counting from the {reference.side}"
        return f"the {rank} {head} from the {reference.side}"
    if reference.relation is not None and reference.anchor is not None:
        return f"the {head} {_RELATION_WORDS[held_out][reference.relation]} {phrase(reference.anchor, held_out)}"
    return f"the {head}"


_RELATION_WORDS = {
    False: {"nearest": "closest to", "left_of": "to the left of", "right_of": "to the right of"},
    True: {"nearest": "at the shortest distance from", "left_of": "lying left of", "right_of": "lying right of"},
}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "put": (
        "put {x} {on} {y}",
        "place {x} {on} {y}",
        "pick up {x} and put it {on} {y}",
        "move {x} {onto} {y}",
        "take {x} and place it {on} {y}",
    ),
    "push": (
        "push {x} to {y}",
        "push {x} onto {y}",
        "slide {x} to {y}",
        "push {x} until it is on {y}",
    ),
    "stack": (
        "stack {x} on {y}",
        "put {x} on top of {y}",
        "stack {x} on top of {y}",
        "place {x} on top of {y}",
    ),
    "next_to": (
        "put {x} next to {y}",
        "place {x} next to {y}",
        "move {x} next to {y}",
        "pick up {x} and put it next to {y}",
    ),
    "left_of": (
        "put {x} to the left of {y}",
        "place {x} left of {y}",
        "move {x} to the left of {y}",
    ),
    "right_of": (
        "put {x} to the right of {y}",
        "place {x} right of {y}",
        "move {x} to the right of {y}",
    ),
    "between": (
        "put {x} between {y} and {z}",
        "place {x} between {y} and {z}",
        "move {x} in between {y} and {z}",
    ),
}
"""Training wordings. ``{on}`` and ``{onto}`` become ``in`` and ``into`` for hollow containers."""

HELD_OUT_TEMPLATES: dict[str, tuple[str, ...]] = {
    "put": (
        "set {x} down {on} {y}",
        "bring {x} over and leave it {on} {y}",
        "get {x} and drop it {on} {y}",
        "see that {x} ends up {on} {y}",
    ),
    "push": (
        "shove {x} across the table to {y}",
        "without lifting it, get {x} to {y}",
        "nudge {x} along until it rests on {y}",
    ),
    "stack": (
        "balance {x} on {y}",
        "build a tower with {x} above {y}",
        "set {x} down so that {y} carries it",
    ),
    "next_to": (
        "set {x} down beside {y}",
        "bring {x} close to {y}",
        "let {x} keep {y} company",
    ),
    "left_of": (
        "set {x} down on the left side of {y}",
        "arrange things so that {y} has {x} on its left",
    ),
    "right_of": (
        "set {x} down on the right side of {y}",
        "arrange things so that {y} has {x} on its right",
    ),
    "between": (
        "set {x} down in the gap separating {y} from {z}",
        "arrange things so that {x} has {y} and {z} on either side",
    ),
}
"""Wordings that no training episode uses."""

_JOINS: dict[bool, tuple[tuple[str, str, str], ...]] = {
    False: (("first ", ", then ", ", then "), ("first ", ", then ", ", and finally ")),
    True: (("begin with this: ", "; after that, ", "; after that, "), ("", "; once done, ", "; to finish, ")),
}


@dataclass(frozen=True)
class Order:
    """One step of an instruction: an action and references to what it is about.

    Attributes:
        action: What to do.
        target: What is to be moved.
        destinations: Where to: one reference, two for ``between``.
    """

    action: Action
    target: Reference
    destinations: tuple[Reference, ...]


def _fill(template: str, order: Order, held_out: bool) -> str:
    first = order.destinations[0]
    hollow = first.shape in ("tray", "bowl", "basket")
    words = {"x": phrase(order.target, held_out), "on": "in" if hollow else "on", "onto": "into" if hollow else "onto"}
    words["y"] = phrase(first, held_out)
    words["z"] = phrase(order.destinations[-1], held_out)
    return template.format(**words)


def render_order(order: Order, rng: np.random.Generator, held_out: bool = False) -> str:
    """One step in words, from a random template."""
    templates = (HELD_OUT_TEMPLATES if held_out else TEMPLATES)[order.action]
    return _fill(templates[int(rng.integers(len(templates)))], order, held_out)


def render(orders: tuple[Order, ...], rng: np.random.Generator, held_out: bool = False) -> str:
    """A whole instruction: one step, or ``first ..., then ..., and finally ...``."""
    steps = [render_order(order, rng, held_out) for order in orders]
    if len(steps) == 1:
        return steps[0]
    joins = _JOINS[held_out]
    lead, middle, last = joins[int(rng.integers(len(joins)))]
    text = lead + steps[0]
    for index, step in enumerate(steps[1:], start=2):
        text += (last if index == len(steps) and index > 2 else middle) + step
    return text
