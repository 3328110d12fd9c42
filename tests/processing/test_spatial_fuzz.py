"""A seeded storm on the parser: it never raises, never hangs, and never returns a coordinate outside the image."""

import json
import math
import random
import time
from collections import Counter

from processing_st4vla.spatial import DIALECTS, Box, GroundingResult, Point, RejectReason, Trace, smart_resize

ROUNDS = 100_000
SLOWEST = 1.0  # seconds of processor time for one text; the usual is a ten-thousandth of it

JUNK = [
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e308", "9" * 60, "0." + "0" * 50 + "1", "-0", "1.", ".5", "+3", "٣"),
    *("[", "]", "{", "}", "(", ")", "<", ">", '"', "'", "\\", ",", ":", "```json", "```", "null", "true", "\x00"),
    *("[" * 40, "{" * 40, '{"a":' * 20, "(" * 40, "[[[[1,2]]]]", "]" * 40, "\ud800", "\u202e", "é", "😀", "\u2028"),
    *(
        "<box>",
        "</box>",
        "<ref>",
        "</ref>",
        "<point>",
        "<trace>",
        "</trace>",
        "<points ",
        "<poly>",
        "</poly>",
        "<sep>",
    ),
    *("<loc_1>", "<loc_99999>", "<loc_", 'x1="', 'y="5"', "alt='", "&lt;", "&#0;", "<b>", "<script>alert(1)</script>"),
    *(
        '"bbox_2d"',
        '"label": ',
        '"point": [',
        '"trace_2d": [[',
        "bbox_2d: ",
        "\n",
        " " * 50,
        "__import__('os')",
        "1/0",
    ),
]


def random_result(rng: random.Random, kinds: frozenset, labelled: bool) -> GroundingResult:
    size = rng.choice([(28, 28), (224, 224), (640, 480), (1920, 1080), (4096, 3000)])

    def xy() -> tuple[float, float]:
        return rng.uniform(0, size[0]), rng.uniform(0, size[1])

    def label() -> str | None:
        return rng.choice(["cup", "the red cube", "é😀", None]) if labelled else None

    def box() -> Box:
        (x1, y1), (x2, y2) = xy(), xy()
        return Box((min(x1, x2), min(y1, y2), max(x1, x2) + 1e-9, max(y1, y2) + 1e-9), label())

    def some(make, kind: str) -> list:
        return [make() for _ in range(rng.randrange(4))] if kind in kinds else []

    traces = some(lambda: Trace(tuple(xy() for _ in range(rng.randrange(2, 6))), label()), "trace")
    return GroundingResult.from_pixels(
        some(lambda: Point(xy(), label()), "point"), some(box, "box"), traces, image_size=size
    )


def seeds(rng: random.Random) -> list[tuple[str, str, GroundingResult]]:
    """Valid outputs of every dialect."""
    texts = []
    for name, dialect in DIALECTS.items():
        for _ in range(30):
            kinds = dialect.kinds if name != "robopoint" else rng.choice([frozenset({"trace"}), {"point", "box"}])
            result = random_result(rng, kinds, labelled=name not in ("robopoint", "molmoact"))
            text = result.to_text(name, model_size=smart_resize(result.image_size), decimals=None)
            texts.append((name, rng.choice([text, f"```json\n{text}\n```", f"Sure, here: {text}. Done."]), result))
    return texts


def mutate(rng: random.Random, text: str, others: list[tuple[str, str, GroundingResult]]) -> str:
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        at, to = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        match rng.randrange(9):
            case 0:
                text = text[:at]
            case 1:
                text = text[at:]
            case 2:
                text = text[:at] + chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x3000)])) + text[at + 1 :]
            case 3:
                text = text[:at] + rng.choice(JUNK) + text[at:]
            case 4:
                text = text[:at] + rng.choice(JUNK) + text[to:]
            case 5:
                text = text[:to] + text[at:to] * rng.choice([1, 3]) + text[to:]
            case 6:
                text = text[:at] + text[to:]
            case 7:
                text = text[:at] + rng.choice(others)[1] + text[to:]
            case _:
                digits = [index for index, char in enumerate(text) if char.isdigit()]
                if digits:
                    at = rng.choice(digits)
                    text = text[:at] + rng.choice(["-", "9" * rng.randrange(1, 40), ".", "e9", ",", " "]) + text[at:]
    return text[:4000]


def check(result: GroundingResult) -> None:
    width, height = result.image_size
    for box in result.boxes:
        x1, y1, x2, y2 = box.xyxy
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
    vertices = [point.xy for point in result.points] + [xy for trace in result.traces for xy in trace.points]
    for x, y in vertices:
        assert 0 <= x <= width
        assert 0 <= y <= height
    for entry in result.rejected:
        assert isinstance(entry.reason, RejectReason)
        assert len(entry.item) <= 200
        assert all(map(math.isfinite, entry.coordinates))


def test_mutated_outputs() -> None:
    rng = random.Random(20260210)
    texts = seeds(rng)
    names = list(DIALECTS)
    seen: Counter[str] = Counter()
    slowest = 0.0
    for round_number in range(ROUNDS):
        dialect, text, origin = texts[round_number % len(texts)]
        text = mutate(rng, text, texts)
        if rng.random() < 0.2:
            dialect = rng.choice(names)
        start = time.process_time()
        result = GroundingResult.from_text(
            text,
            dialect,
            image_size=origin.image_size,
            model_size=smart_resize(origin.image_size),
            kind=rng.choice(["auto", "auto", "point", "box", "trace"]),
        )
        slowest = max(slowest, time.process_time() - start)
        check(result)
        assert not result.is_empty or result.rejected or "[" in text
        assert result.raw_text is text
        seen.update(str(entry.reason) for entry in result.rejected)
        seen["used"] += not result.is_empty
        if round_number % 50 == 0:
            assert GroundingResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert slowest < SLOWEST
    # the storm reaches every branch, and does not only make rubbish
    assert set(seen) >= {str(reason) for reason in RejectReason} - {"too many items", "text too long"}
    assert ROUNDS // 3 < seen["used"] < ROUNDS


def test_random_characters() -> None:
    """Not near any valid output."""
    rng = random.Random(1)
    alphabet = "[](){}<>/\\\"'`,:;.-+eE0123456789 \n\tNaIxybox_2dlabelpointrce=&#\x00é😀\ud800"
    for _ in range(5_000):
        text = "".join(rng.choices(alphabet, k=rng.randrange(120)))
        for dialect in DIALECTS:
            check(GroundingResult.from_text(text, dialect, image_size=(640, 480), model_size=(644, 476)))
