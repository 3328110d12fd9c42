"""Grounding results: hand cases for every dialect, what is rejected and why, limits, errors, LeRobot events."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from processing_st4vla import spatial
from processing_st4vla.spatial import (
    DIALECTS,
    Box,
    CoordinateMap,
    GroundingResult,
    ParseLimits,
    Point,
    Rejected,
    RejectReason,
    Trace,
    get_dialect,
)

SIZE = (640, 480)


def read(text: str, dialect: str = "qwen2_5_vl", **arguments) -> GroundingResult:
    """In the pixels as written: the model saw the image in its own size."""
    return GroundingResult.from_text(text, dialect, **{"image_size": SIZE, "model_size": SIZE, **arguments})


def boxes(result: GroundingResult) -> list[tuple]:
    return [(box.xyxy, box.label) for box in result.boxes]


def points(result: GroundingResult) -> list[tuple]:
    return [(point.xy, point.label) for point in result.points]


def traces(result: GroundingResult) -> list[tuple]:
    return [(trace.points, trace.label) for trace in result.traces]


def reasons(result: GroundingResult) -> list[tuple[str, str]]:
    return [(entry.item, str(entry.reason)) for entry in result.rejected]


# --- The published examples of InternVLA-M1 --------------------------------------------------------------------------

OFFICIAL = [
    ('{"label": "apple", "bbox_2d": [304, 226, 345, 267]}', [((304, 226, 345, 267), "apple")]),
    (
        '{"response": "sure, I have found the light brown lion now.", "subtask": '
        '"Pick up the light brown lion<box>[[304, 275, 346, 356]]</box> in the table."}',
        [((304, 275, 346, 356), None)],
    ),
    ("<box> [[8, 176, 106, 294]] </box>", [((8, 176, 106, 294), None)]),
    ("<ref> women </ref> <box> [[67, 24, 99, 180]]", [((67, 24, 99, 180), "women")]),
    ('{"bbox_2d": [8, 176, 106, 294]}', [((8, 176, 106, 294), None)]),
    (
        '{"current_bbox": [1, 2, 3, 4], "target_bbox": [5, 6, 7, 8]}',
        [((1, 2, 3, 4), "current"), ((5, 6, 7, 8), "target")],
    ),
    (
        '{"pick_object": "cup", "pick_object_bbox": [1, 2, 3, 4], "place_area_bbox": [5, 6, 7, 8]}',
        [((1, 2, 3, 4), "cup"), ((5, 6, 7, 8), "place area")],
    ),
]


@pytest.mark.parametrize(("text", "expected"), OFFICIAL)
def test_official_boxes(text: str, expected: list) -> None:
    result = read(text)
    assert boxes(result) == expected
    assert result.rejected == ()


def test_official_points_and_traces() -> None:
    written = "[(320, 280), (358, 280), (396, 290)]"
    assert points(read(written)) == [((320, 280), None), ((358, 280), None), ((396, 290), None)]
    assert traces(read(written, kind="trace")) == [(((320, 280), (358, 280), (396, 290)), None)]
    assert traces(read('{"future_traj": [[10, 20], [30, 40]]}')) == [(((10, 20), (30, 40)), None)]


def test_qwen2_5_vl_pixels_are_those_of_the_resized_image() -> None:
    result = read('{"bbox_2d": [322, 238, 644, 476], "label": "cup"}', model_size=(644, 476))
    assert boxes(result) == [((320, 240, 640, 480), "cup")]
    assert result.to_text(model_size=(322, 238)) == '[{"bbox_2d": [161, 119, 322, 238], "label": "cup"}]'


# --- Reading, dialect by dialect -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    "text",
    [
        '{"bbox_2d": [64, 48, 320, 240], "label": "cup"}',
        '[{"bbox_2d": [64, 48, 320, 240], "label": "cup"}]',
        '```json\n[\n\t{"bbox_2d": [64, 48, 320, 240], "label": "cup"}\n]\n```',
        'Sure! Here it is: {"label": "cup", "bbox_2d": [64.0, 48.00, 3.2e2, 240]}. Anything else?',
        '{"objects": [{"bbox_2d": [[64, 48, 320, 240]], "label": "cup"}], "count": 1}',
        "{'bbox_2d': (64, 48, 320, 240), 'label': 'cup',}",
        "<ref>cup</ref><box>[[64, 48, 320, 240]]</box>",
        "<ref>cup</ref><box>[64, 48, 320, 240]</box>",
    ],
)
def test_qwen_box_forms(dialect: str, text: str) -> None:
    result = read(text, dialect, image_size=(640, 480) if dialect == "qwen2_5_vl" else (1000, 1000))
    assert boxes(result) == [((64, 48, 320, 240), "cup")]
    assert result.rejected == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[64, 48, 320, 240]", [((64, 48, 320, 240), None)]),
        ("[[64, 48, 320, 240], [1, 2, 3, 4]]", [((64, 48, 320, 240), None), ((1, 2, 3, 4), None)]),
        ("(64, 48, 320, 240)", [((64, 48, 320, 240), None)]),
        ("<box>[[1,2,3,4],[5,6,7,8]]</box>", [((1, 2, 3, 4), None), ((5, 6, 7, 8), None)]),
    ],
)
def test_qwen_bare_boxes(text: str, expected: list) -> None:
    assert boxes(read(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"point_2d": [3, 4], "label": "a"}', [((3, 4), "a")]),
        ('{"point_2d": [[3, 4], [5, 6]], "label": "a"}', [((3, 4), "a"), ((5, 6), "a")]),
        ("[(3, 4), (5, 6.5)]", [((3, 4), None), ((5, 6.5), None)]),
        ("[[3, 4], [5, 6.5]]", [((3, 4), None), ((5, 6.5), None)]),
        ("(3, 4), (5, 6)", [((3, 4), None), ((5, 6), None)]),
        ("the points are (3, 4) and (+5, .5e1)", [((3, 4), None), ((5, 5), None)]),
        ("<point>[[3, 4]]</point>", [((3, 4), None)]),
    ],
)
def test_qwen_points(text: str, expected: list) -> None:
    result = read(text)
    assert points(result) == expected
    assert result.rejected == ()


def test_qwen_traces() -> None:
    expected = [(((3, 4), (5, 6), (7, 8)), "gripper")]
    assert traces(read('{"trace_2d": [[3, 4], [5, 6], [7, 8]], "label": "gripper"}')) == expected
    assert traces(read("<ref>gripper</ref><trace>[[3, 4], [5, 6], [7, 8]]</trace>")) == expected
    items = [{"point_2d": [x, x + 1], "label": "gripper"} for x in (3, 5, 7)]
    assert traces(read(json.dumps(items), kind="trace")) == expected
    assert traces(read('{"point_2d": [[3, 4], [5, 6], [7, 8]], "label": "gripper"}', kind="trace")) == expected


def test_points_beside_a_trace_are_points() -> None:
    text = '[{"point_2d": [3, 4], "label": "end"}, {"point_2d": [1, 2]}, {"trace_2d": [[1, 2], [3, 4]]}]'
    result = read(text, kind="trace")
    assert points(result) == [((3, 4), "end"), ((1, 2), None)]
    assert traces(result) == [(((1, 2), (3, 4)), None)]
    # A trace that cannot be read, or is cut off, is not made up from them.
    for broken in (text.replace("[1, 2], [3", "[1, 2, 5], [3"), text[:-6], text[:-20], "<trace>[[1, 2" + text[:61]):
        assert traces(read(broken, kind="trace")) == []


def test_one_trace_per_list() -> None:
    result = read("[(1, 2), (3, 4)]\n[(5, 6), (7, 8), (9, 9)]", kind="trace")
    assert [len(trace.points) for trace in result.traces] == [2, 3]
    loose = read("(1, 2), (3, 4) then (5, 6), (7, 8)", kind="trace")
    assert traces(loose) == [(((1, 2), (3, 4)), None), (((5, 6), (7, 8)), None)]


def test_labels_are_decoded_and_never_read_as_coordinates() -> None:
    text = r'{"bbox_2d": [1, 2, 3, 4], "label": "\u00e9 \"<box>[[5,6,7,8]]</box>\" \ud83d\ude00 \ud800"}'
    assert boxes(read(text)) == [((1, 2, 3, 4), 'é "<box>[[5,6,7,8]]</box>" 😀 \ufffd')]
    assert boxes(read("{'bbox_2d': [1, 2, 3, 4], 'label': 'it\\'s \"a\" \\q'}"))[0][1]


def test_robopoint() -> None:
    result = read("The points are [(0.25, 0.5), (1.0, 0)] and (0.1, 0.2, 0.3, 0.4).", "robopoint")
    assert points(result) == [((160, 240), None), ((640, 0), None)]
    assert boxes(result)[0][0] == pytest.approx((64, 96, 192, 192))
    # whole numbers are still shares of the image, and pixels are not accepted for them
    assert points(read("[(1, 1)]", "robopoint")) == [((640, 480), None)]
    assert reasons(read("[(320, 280)]", "robopoint")) == [("(320, 280)", "outside image")]


def test_molmo() -> None:
    text = (
        'Counting: <point x="61.5" y="40.4" alt="cup">cup</point> and '
        "<points x1='10' y1='20.0' x2='30' y2='40' alt='a &amp; b'>a &amp; b</points>"
    )
    result = read(text, "molmo", image_size=(1000, 1000))
    assert points(result) == [((615, 404), "cup"), ((100, 200), "a & b"), ((300, 400), "a & b")]
    assert traces(read(text, "molmo", kind="trace", image_size=(1000, 1000))) == [(((100, 200), (300, 400)), "a & b")]
    trace = '<trace x1="0" y1="0" x2="100" y2="50" alt="arm">arm</trace>'
    assert traces(read(trace, "molmo")) == [(((0, 0), (640, 240)), "arm")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<point x="10">a</point>', "wrong number of coordinates"),
        ("<point>a</point>", "wrong number of coordinates"),
        ('<point x="10" y="b">a</point>', "not a finite number"),
        ('<point x="10" y="NaN">a</point>', "not a finite number"),
        ('<point x="10" x="11" y="3">a</point>', "not a finite number"),
        ('<point x="101" y="3">a</point>', "outside image"),
        ('<point x="1" y="3">a</points>', "malformed"),
        ('<point x="1" y="3"> a <b>', "malformed"),
        ('<point x="1" y="3"', "incomplete"),
        ('<point x="1" y="3">cup', "incomplete"),
        ('<trace x1="1" y1="3" x2="4">a</trace>', "wrong number of coordinates"),
        ('<trace x1="1" y1="3">a</trace>', "short trace"),
    ],
)
def test_molmo_rejects(text: str, reason: str) -> None:
    result = read(text, "molmo")
    assert result.is_empty
    assert reasons(result) == [(text.removesuffix(" <b>") if reason != "malformed" else reasons(result)[0][0], reason)]


def test_molmoact() -> None:
    text = 'The trajectory is [[0, 0], [127.5, 51], [255, 255]]. The action is ["a", "b"].'
    assert traces(read(text, "molmoact")) == [(((0, 0), (320, 96), (640, 480)), None)]
    assert len(read("[[[0, 0], [1, 1]], [[2, 2], [3, 3]]]", "molmoact").traces) == 2
    assert points(read("[[255, 0]]", "molmoact", kind="point")) == [((640, 0), None)]
    assert reasons(read("[[255, 0]]", "molmoact")) == [("[255, 0]", "short trace")]
    assert reasons(read("[[255, 0], [256, 0]]", "molmoact")) == [("[255, 0], [256, 0]", "outside image")]


def test_gemini_is_y_first() -> None:
    text = '[{"point": [250, 500], "label": "a"}, {"box_2d": [0, 100, 500, 1000], "label": "b"}]'
    result = read(text, "gemini")
    assert points(result) == [((320, 120), "a")]
    assert boxes(result) == [((64, 0, 640, 240), "b")]
    assert traces(read('{"trace": [[0, 1000], [1000, 0]]}', "gemini")) == [(((640, 0), (0, 480)), None)]


def test_florence2() -> None:
    result = read("cup<loc_0><loc_499><loc_999><loc_500>", "florence2", image_size=(1000, 1000))
    assert boxes(result) == [((0.5, 499.5, 999.5, 500.5), "cup")]
    two = read("</s><s>cars<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8></s>", "florence2")
    assert [box.label for box in two.boxes] == ["cars", "cars"]
    poly = "a<poly><loc_1><loc_2></poly>b<poly><loc_1><loc_2><loc_3><loc_4></poly>"
    assert [point.label for point in read(poly, "florence2").points] == ["a"]
    assert [trace.label for trace in read(poly, "florence2").traces] == ["b"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cup<loc_1><loc_2>", "wrong number of coordinates"),
        ("cup<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6>", "wrong number of coordinates"),
        ("cup<poly><loc_1><loc_2><loc_3></poly>", "wrong number of coordinates"),
        ("cup<loc_1><loc_2><loc_3><loc_1000>", "not a finite number"),
        ("cup<poly><loc_1><loc_2>", "incomplete"),
        ("cup<loc_3><loc_2><loc_1><loc_4>", "inverted box"),
        ("cup<loc_", "incomplete"),
    ],
)
def test_florence2_rejects(text: str, reason: str) -> None:
    result = read(text, "florence2")
    assert result.is_empty
    assert reasons(result)[0][1] == reason


# --- Space and order are never guessed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ('{"box_2d": [1, 2, 3, 4]}', "qwen2_5_vl"),
        ('{"point": [1, 2]}', "qwen3_vl"),
        ('{"bbox_2d": [1, 2, 3, 4]}', "gemini"),
        ('{"trace_2d": [[1, 2], [3, 4]]}', "gemini"),
        ('{"bbox": [1, 2, 3, 4]}', "qwen2_5_vl"),
        ('{"image_size": [64, 48]}', "qwen2_5_vl"),
        ('{"answer": {"where": [[1, 2], [3, 4]]}}', "qwen2_5_vl"),
    ],
)
def test_numbers_under_unknown_keys_are_rejected(text: str, dialect: str) -> None:
    result = read(text, dialect)
    assert result.is_empty
    assert {reason for _, reason in reasons(result)} == {"not a key of this dialect"}


def test_same_digits_mean_different_places() -> None:
    text = "[[100, 50]]"
    assert points(read(text, "qwen2_5_vl", model_size=(320, 240))) == [((200, 100), None)]
    assert points(read(text, "qwen3_vl")) == [((64, 24), None)]
    assert points(read(text, "gemini")) == [((32, 48), None)]


# --- Rejection -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "item", "reason"),
    [
        ("[(-1, 5)]", "(-1, 5)", "outside image"),
        ("[(640.01, 5)]", "(640.01, 5)", "outside image"),
        ("[(NaN, 5)]", "(NaN, 5)", "not a finite number"),
        ("[(Infinity, 5)]", "(Infinity, 5)", "not a finite number"),
        ("[(1e999, 5)]", "(1e999, 5)", "not a finite number"),
        ("[(" + "9" * 40 + ", 5)]", "(" + "9" * 40 + ", 5)", "not a finite number"),
        ("[30, 10, 20, 40]", "[30, 10, 20, 40]", "inverted box"),
        ("[10, 40, 20, 30]", "[10, 40, 20, 30]", "inverted box"),
        ("[10, 40, 10, 50]", "[10, 40, 10, 50]", "empty box"),
        ("[641, 10, 700, 20]", "[641, 10, 700, 20]", "outside image"),
        ("[-20, 10, 0, 20]", "[-20, 10, 0, 20]", "outside image"),
        ("[1, 2, 3]", "[1, 2, 3]", "wrong number of coordinates"),
        ("(0.1, 0.2, 0.3, 0.4, 0.5)", "(0.1, 0.2, 0.3, 0.4, 0.5)", "wrong number of coordinates"),
        ("[1, [2, 3]]", "[1, [2, 3]]", "not coordinates"),
        ("[1, null]", "[1, null]", "not coordinates"),
        ('{"bbox_2d": "none"}', '{"bbox_2d": "none"}', "not coordinates"),
        ('{"bbox_2d": []}', '{"bbox_2d": []}', "wrong number of coordinates"),
        ('{"bbox_2d": {"x": 1}}', '{"bbox_2d": {"x": 1}}', "not coordinates"),
        ('{"trace_2d": [[1, 2]]}', '{"trace_2d": [[1, 2]]}', "short trace"),
        ('{"trace_2d": [[1, 2], [3]]}', '{"trace_2d": [[1, 2], [3]]}', "wrong number of coordinates"),
        ('{"trace_2d": [[1, 2], [700, 2]]}', '{"trace_2d": [[1, 2], [700, 2]]}', "outside image"),
        ("<box>none</box>", "<box>none</box>", "not coordinates"),
        ("<box>(1, 2), (3, 4)</box>", "(1, 2)", "wrong number of coordinates"),
        ("<box>", "<box>", "incomplete"),
        ("[1 2]", "[1", "malformed"),
        ("[1, 2)", "[1, 2", "malformed"),
        ('{"bbox_2d": [1, 2, 3, 4] "label": 3}', '{"bbox_2d": [1, 2, 3, 4]', "malformed"),
        ("[" * 40 + "1, 2" + "]" * 40, "[" * 9 + "1, 2" + "]" * 40, "nested too deeply"),
        ("I cannot see it.", "I cannot see it.", "no coordinates found"),
        ("", "", "no coordinates found"),
        ('{"found": false}', '{"found": false}', "no coordinates found"),
    ],
)
def test_rejected_with_a_reason(text: str, item: str, reason: str) -> None:
    result = read(text)
    assert result.is_empty
    assert (item, reason) in reasons(result)


def test_a_box_is_clipped_and_its_original_kept() -> None:
    result = read('{"bbox_2d": [-20, 10, 700, 490], "label": "cup"}')
    assert boxes(result) == [((0, 10, 640, 480), "cup")]
    (entry,) = result.rejected
    assert entry.reason == "clipped"
    assert entry.reason is RejectReason.CLIPPED
    assert entry.coordinates == (-20, 10, 700, 490)


def test_rejected_coordinates_are_original_pixels() -> None:
    result = read("[(1200, 5)]", "qwen3_vl")
    assert result.rejected == (Rejected("(1200, 5)", RejectReason.OUTSIDE, (768.0, 2.4)),)


def test_the_edges_belong_to_the_image() -> None:
    assert len(read("[(0, 0), (640, 480)], [0, 0, 640, 480]").points) == 2
    assert read("[0, 0, 640, 480]").rejected == ()


def test_good_items_survive_bad_neighbours() -> None:
    text = '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [9, 9, 1, 1]}, 7?, {"point_2d": [5, 6]}]'
    result = read(text)
    assert boxes(result) == [((1, 2, 3, 4), "a")]
    assert points(result) == [((5, 6), None)]
    assert [reason for _, reason in reasons(result)] == ["inverted box", "malformed"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_explicit_empty_answers(dialect: str) -> None:
    empty = GroundingResult(image_size=SIZE)
    assert empty.to_text(dialect, model_size=SIZE) == "[]"
    assert read("[]", dialect) == GroundingResult(image_size=SIZE, raw_text="[]")
    assert read(" [] \n", dialect).rejected == ()
    assert read("nothing here", dialect).rejected[0].reason == "no coordinates found"


def test_empty_in_fences_and_objects() -> None:
    for text in ("```json\n[]\n```", '{"objects": []}', "There are none: []"):
        assert read(text).rejected == ()


# --- Cut-off text ----------------------------------------------------------------------------------------------------


def test_truncated_json_recovers_what_is_complete() -> None:
    result = read('```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "a"},\n\t{"bbox_2d": [50, 60, 7')
    assert boxes(result) == [((10, 20, 30, 40), "a")]
    assert reasons(result) == [('{"bbox_2d": [50, 60, 7', "incomplete")]


def test_an_object_without_its_end_is_not_complete() -> None:
    result = read('[{"point_2d": [1, 2], "label": "a"}, {"point_2d": [3, 4], "lab')
    assert points(result) == [((1, 2), "a")]
    assert reasons(result) == [('{"point_2d": [3, 4], "lab', "incomplete")]


def test_a_truncated_trace_is_not_a_trace() -> None:
    assert read('{"trace_2d": [[1, 2], [3, 4], [5').is_empty
    for dialect, kind in (("molmoact", "auto"), ("robopoint", "trace")):
        result = read("[[0.1, 0.2], [0.3, 0.4], [0.5", dialect, kind=kind)
        assert result.is_empty
        assert [reason for _, reason in reasons(result)] == ["incomplete", "incomplete"]
    assert read("(1, 2), (3, 4), (5", kind="trace").is_empty


def test_a_list_cut_after_a_comma_says_so() -> None:
    result = read("[(1, 2), (3, 4),")
    assert len(result.points) == 2
    assert reasons(result) == [(",", "incomplete")]


def test_a_tag_in_a_cut_off_string_is_found() -> None:
    result = read('{"subtask": "Pick up the lion<box>[[304, 275, 346, 356]]</box> in th')
    assert boxes(result) == [((304, 275, 346, 356), None)]
    assert reasons(result)[0][1] == "incomplete"


# --- Limits ----------------------------------------------------------------------------------------------------------


def test_limits() -> None:
    many = read("[" + ", ".join("(1, 2)" for _ in range(50)) + "]", limits=ParseLimits(max_items=10))
    assert len(many.points) == 10
    assert many.rejected[-1].reason == "too many items"
    long = read("[(1, 2), (3, 4)]", limits=ParseLimits(max_chars=10))
    assert points(long) == [((1, 2), None)]
    assert reasons(long) == [("(", "incomplete"), ("3, 4)]", "text too long")]
    assert len(read("x" * 100_000 + "(1, 2)").rejected[0].item) <= 200
    digits = read("[(1.000000001, 2)]", limits=ParseLimits(max_digits=5))
    assert digits.rejected[0].reason == "not a finite number"


HOSTILE = ["[", "{", '{"a":', '["', "['", '["\\', '["[', "[[1,2],", "(1,2)", "[9", "<box>[", "<ref>", '<point x="']
HOSTILE += ['<point x="1" y="2">', "<loc_1>", "<poly><loc_1>", "9", " ", "\\", "'\"", '["<box>",', "{'a':'<box>["]


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("dialect", ["qwen2_5_vl", "molmo", "florence2"])
def test_time_is_bounded(dialect: str, piece: str) -> None:
    """The longest text allowed, of the worst kind; about 0.3 s, quadratic time would be minutes."""
    limits = ParseLimits()
    text = (piece * limits.max_chars)[: limits.max_chars + 10]
    start = time.process_time()
    result = read(text, dialect)
    assert time.process_time() - start < 3
    assert len(result.rejected) <= limits.max_items + 2


# --- Writing ---------------------------------------------------------------------------------------------------------

FULL = GroundingResult(
    (Point((64, 48), "a<b"), Point((320, 240))),
    (Box((0, 12, 640, 480), 'the "é"'),),
    (Trace(((64, 48), (320, 240.5)), "arm"),),
    image_size=SIZE,
)


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (
            "qwen2_5_vl",
            '[{"bbox_2d": [0, 12, 640, 480], "label": "the \\"é\\""}, '
            '{"point_2d": [64, 48], "label": "a\\u003cb"}, {"point_2d": [320, 240]}, '
            '{"trace_2d": [[64, 48], [320, 240]], "label": "arm"}]',
        ),
        (
            "qwen3_vl",
            '[{"bbox_2d": [0, 25, 1000, 1000], "label": "the \\"é\\""}, '
            '{"point_2d": [100, 100], "label": "a\\u003cb"}, {"point_2d": [500, 500]}, '
            '{"trace_2d": [[100, 100], [500, 501]], "label": "arm"}]',
        ),
        (
            "gemini",
            '[{"box_2d": [25, 0, 1000, 1000], "label": "the \\"é\\""}, '
            '{"point": [100, 100], "label": "a\\u003cb"}, {"point": [500, 500]}, '
            '{"trace": [[100, 100], [501, 500]], "label": "arm"}]',
        ),
    ],
)
def test_golden_texts(dialect: str, expected: str) -> None:
    assert FULL.to_text(dialect, model_size=SIZE) == expected


def test_golden_texts_of_the_narrower_dialects() -> None:
    points_only = GroundingResult(FULL.points, image_size=SIZE)
    assert points_only.to_text("robopoint") == "[(0.100, 0.100), (0.500, 0.500)]"
    assert points_only.to_text("molmo") == (
        '<point x="10.0" y="10.0" alt="a&lt;b">a&lt;b</point>\n<point x="50.0" y="50.0"></point>'
    )
    assert GroundingResult(boxes=FULL.boxes, image_size=SIZE).to_text("robopoint") == "[(0.000, 0.025, 1.000, 1.000)]"
    assert GroundingResult(boxes=FULL.boxes, image_size=SIZE).to_text("florence2") == (
        'the "é"<loc_0><loc_25><loc_999><loc_999>'
    )
    traces_only = GroundingResult(traces=FULL.traces, image_size=SIZE)
    assert traces_only.to_text("molmoact", decimals=0) == "[[26, 26], [128, 128]]"
    assert traces_only.to_text("molmo") == ('<trace x1="10.0" y1="10.0" x2="50.0" y2="50.1" alt="arm">arm</trace>')


def test_decimals_are_added_only_where_half_a_pixel_needs_them() -> None:
    assert [DIALECTS["qwen3_vl"].decimals(size) for size in ((640, 480), (1280, 720), (4096, 3000))] == [0, 1, 1]
    assert [DIALECTS["molmoact"].decimals(size) for size in ((28, 28), (224, 224), (4096, 3000))] == [0, 1, 2]
    assert [DIALECTS["robopoint"].decimals(size) for size in ((640, 480), (4096, 3000))] == [3, 4]
    assert [DIALECTS["molmo"].decimals(size) for size in ((640, 480), (4096, 3000))] == [1, 2]
    assert [DIALECTS[name].decimals((4096, 3000)) for name in ("qwen2_5_vl", "florence2")] == [0, 0]
    large = GroundingResult((Point((1000.4, 7)),), image_size=(4096, 3000))
    assert large.to_text("qwen3_vl") == '[{"point_2d": [244.2, 2.3]}]'
    assert large.to_text("qwen3_vl", decimals=0) == '[{"point_2d": [244, 2]}]'


def test_what_a_dialect_cannot_say_is_an_error() -> None:
    box = GroundingResult(boxes=FULL.boxes, image_size=SIZE)
    trace = GroundingResult(traces=FULL.traces, image_size=SIZE)
    with pytest.raises(ValueError, match=r"'molmo' cannot write a box; dialects that can: qwen2_5_vl"):
        box.to_text("molmo")
    with pytest.raises(ValueError, match="'molmoact' cannot write a box"):
        box.to_text("molmoact")
    with pytest.raises(ValueError, match="be told apart again"):
        FULL.to_text("robopoint")
    with pytest.raises(ValueError, match="'florence2': it holds '<'"):
        GroundingResult((Point((1, 2), "a<b"),), image_size=SIZE).to_text("florence2")
    assert trace.to_text("robopoint") == "[(0.100, 0.100), (0.500, 0.501)]"


# --- Arguments -------------------------------------------------------------------------------------------------------


def test_wrong_arguments_raise_and_name_what_is_valid() -> None:
    for call in (lambda d: read("[]", d), lambda d: FULL.to_text(d, model_size=SIZE), get_dialect):
        for bad in ("qwen", None, 3, ["qwen3_vl"]):
            with pytest.raises(ValueError, match=r"`dialect` must be one of qwen2_5_vl, qwen3_vl, robopoint, .*; got"):
                call(bad)
    for call in (lambda: GroundingResult.from_text("[]", image_size=SIZE), FULL.to_text):
        with pytest.raises(ValueError, match="`model_size` is missing: dialect 'qwen2_5_vl'"):
            call()
    with pytest.raises(ValueError, match="`text` must be a str; got bytes"):
        read(b"[]")
    with pytest.raises(ValueError, match="`kind` must be one of auto, point, box, trace; got 'line'"):
        read("[]", kind="line")
    with pytest.raises(ValueError, match="`image_size` must be"):
        read("[]", image_size=(640, 0))
    with pytest.raises(ValueError, match="`model_size` must be"):
        read("[]", "qwen3_vl", model_size=640)
    for bad in (-1, 10, 1.5):
        with pytest.raises(ValueError, match="`decimals` must be None or an integer from 0 to 9"):
            FULL.to_text("qwen3_vl", decimals=bad)
    with pytest.raises(ValueError, match="`decimals` must be None for dialect 'florence2'"):
        GroundingResult(image_size=SIZE).to_text("florence2", decimals=1)


def test_types_check_their_values() -> None:
    assert Point(np.array([1, 2])).xy == (1.0, 2.0)
    assert Trace([[1, 2], np.array([3, 4])]).points == ((1.0, 2.0), (3.0, 4.0))
    for bad in ((1,), (1, 2, 3), "12", (1, math.inf), (1, None), None, (1, "2")):
        with pytest.raises(ValueError, match="`xy` must hold 2 finite numbers"):
            Point(bad)
    for bad in ((3, 0, 1, 2), (1, 0, 1, 2)):
        with pytest.raises(ValueError, match=r"`xyxy` must be \(x1, y1, x2, y2\) with x1 < x2"):
            Box(bad)
    for bad in (((1, 2),), (), None):
        with pytest.raises(ValueError, match="`points` must hold at least two"):
            Trace(bad)
    with pytest.raises(ValueError, match="`label` must be a str or None; got 3"):
        Point((1, 2), 3)
    with pytest.raises(ValueError, match="lies outside the image of size"):
        GroundingResult((Point((641, 2)),), image_size=SIZE)
    with pytest.raises(AttributeError):
        FULL.points[0].xy = (1, 2)


def test_from_pixels_clips_and_rejects_annotations() -> None:
    result = GroundingResult.from_pixels(
        [Point((-1, 2)), Point((1, 2), "a", 0.5)],
        [Box((-5, 0, 10, 10), "b"), Box((700, 0, 710, 10))],
        [Trace(((1, 2), (3, 999)))],
        image_size=SIZE,
    )
    assert result.points == (Point((1, 2), "a", 0.5),)
    assert boxes(result) == [((0, 0, 10, 10), "b")]
    assert [entry.reason for entry in result.rejected] == [
        "outside image",
        "clipped",
        "outside image",
        "outside image",
    ]


def test_mapped_to_a_crop_and_back() -> None:
    crop = CoordinateMap.crop((50, 40, 350, 340))
    inside = FULL.mapped(crop, (300, 300))
    assert points(inside) == [((14, 8), "a<b"), ((270, 200), None)]
    assert boxes(inside)[0][0] == (0, 0, 300, 300)
    assert inside.rejected[0].reason == "clipped"
    letterbox = CoordinateMap.letterbox(SIZE, (224, 224))
    assert FULL.mapped(letterbox, (224, 224)).mapped(letterbox.inverse, SIZE).points[1].xy == pytest.approx((320, 240))


def test_from_dict_names_what_is_wrong() -> None:
    data = FULL.to_dict()
    assert GroundingResult.from_dict(data) == FULL
    for change, message in [
        ({"space": "unit"}, "`space` must be 'px'"),
        ({"points": 3}, "`points` must be a list"),
        ({"points": [{"xy": [1, 2]}]}, "`points` must hold objects with the keys xy, label, score"),
        ({"boxes": [{"xyxy": [1, 2, 3], "label": None}]}, "`xyxy` must hold 4 finite numbers"),
        ({"rejected": [{"item": "", "reason": "bad", "coordinates": []}]}, "`reason` must be one of clipped"),
        ({"raw_text": None}, "`raw_text` must be a str"),
        ({"extra": 1}, "`result` must hold objects with the keys"),
    ]:
        with pytest.raises(ValueError, match=message):
            GroundingResult.from_dict({**data, **change})


# --- LeRobot ---------------------------------------------------------------------------------------------------------


def test_lerobot_events() -> None:
    camera = "observation.images.front"
    box_only = GroundingResult(boxes=(Box((1, 2, 3, 4), "cup"), Box((5, 6, 7, 8))), image_size=SIZE)
    (row,) = box_only.to_lerobot_events(camera)
    assert {key: row[key] for key in ("role", "style", "camera", "tool_calls")} == {
        "role": "assistant",
        "style": "vqa",
        "camera": camera,
        "tool_calls": None,
    }
    assert json.loads(row["content"]) == {
        "detections": [
            {"label": "cup", "bbox_format": "xyxy", "bbox": [1, 2, 3, 4]},
            {"label": "", "bbox_format": "xyxy", "bbox": [5, 6, 7, 8]},
        ]
    }
    (row,) = GroundingResult((Point((1, 2), "cup"),), image_size=SIZE).to_lerobot_events(camera)
    assert json.loads(row["content"]) == {"label": "cup", "point_format": "xy", "point": [1, 2]}
    (row,) = GroundingResult(traces=FULL.traces, image_size=SIZE).to_lerobot_events(camera)
    assert row["style"] == "trace"
    assert json.loads(row["content"]) == {"label": "arm", "point_format": "xy", "points": [[64, 48], [320, 240.5]]}


def test_lerobot_allows_one_answer_per_camera() -> None:
    rows = FULL.to_lerobot_events("observation.images.front", question="where?")
    assert [(row["role"], row["style"]) for row in rows] == [
        ("user", "vqa"),
        ("assistant", "vqa"),
        ("user", "trace"),
        ("assistant", "trace"),
    ]
    answer = json.loads(rows[1]["content"])
    assert [keypoint["point"] for keypoint in answer["keypoints"]] == [[64, 48], [320, 240]]
    assert GroundingResult(image_size=SIZE).to_lerobot_events("observation.images.front") == []
    for bad in ("front", "observation.images.", None):
        with pytest.raises(ValueError, match="`camera` must be a feature key"):
            FULL.to_lerobot_events(bad)


def test_lerobot_accepts_the_events() -> None:
    language = pytest.importorskip("lerobot.datasets.language")
    validator = pytest.importorskip("lerobot.annotations.steerable_pipeline.validator")
    pyarrow = pytest.importorskip("pyarrow")
    results = [FULL, GroundingResult(FULL.points, image_size=SIZE), GroundingResult(FULL.points[:1], image_size=SIZE)]
    for result, shape in zip(results, ("bbox", "keypoint", "keypoint"), strict=True):
        rows = result.to_lerobot_events("observation.images.front", "where?")
        for row in rows:
            language.validate_camera_field(row["style"], row["camera"])
            assert language.column_for_style(row["style"]) == "language_events"
            assert tuple(row) == language.EVENT_ROW_FIELDS
        assert validator.classify_vqa_answer(json.loads(rows[1]["content"])) == shape
        assert pyarrow.array([rows]).to_pylist() == [rows]


# --- The module ------------------------------------------------------------------------------------------------------


def test_the_module_is_light() -> None:
    """Without the package around it, as a Hub repository holds it: no torch, no numpy, no Pillow until `draw`."""
    folder = str(Path(spatial.__file__).parent)
    code = (
        "import sys, types\n"
        f"sys.modules['flat'] = package = types.ModuleType('flat'); package.__path__ = [{folder!r}]\n"
        "import flat.spatial\n"
        "heavy = {'torch', 'numpy', 'PIL', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
