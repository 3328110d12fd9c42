"""Pickled annotations: nothing in them runs; boxes and paths are where the pictures show them."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training_st4vla.data.annotations import IMAGE_LAG_FRAMES, EpisodeAnnotations
from training_st4vla.data.errors import DataError, UntrustedPickleError
from training_st4vla.data.grounding.demonstrations import (
    GroundingRowOptions,
    grounding_rows,
    on_screen_part,
    resample_path,
    segment_ends,
)
from training_st4vla.data.lerobot_metadata import open_dataset_info
from training_st4vla.data.readers import open_reader
from training_st4vla.data.safe_pickle import load_untrusted_pickle

BOX_DTYPE = [("semanticId", "<u4"), *((name, "<i4") for name in ("x_min", "y_min", "x_max", "y_max"))]
BOX_DTYPE += [("occlusionRatio", "<f4")]


# --- the unpickler ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.zeros((0, 3)),
        np.array(2.5),
        np.array([[True], [False]]),
        np.array(["a", "bcd"]),
        np.float32(1.5),
        np.uint32(7),
        np.array([(1, 2, 3, 4, 5, -1.0)], dtype=BOX_DTYPE),
        np.array([(1, 2, 3, 4, 5, -1.0)], dtype=BOX_DTYPE)[0],
        {"80": {"class": "uid"}, "list": [1, 2.5, None, True, "text", b"bytes", (1, "two")], "set": {1, 2}},
        10**30,
    ],
    ids=lambda value: type(value).__name__ + str(getattr(value, "dtype", ""))[:12],
)
def test_plain_values_come_back_as_they_were(value: Any, protocol: int) -> None:
    result = load_untrusted_pickle(pickle.dumps(value, protocol=protocol), where="test")
    assert type(result) is type(value)
    if isinstance(value, np.ndarray | np.generic):
        assert result.dtype == value.dtype
        assert result.shape == value.shape
        assert result.tolist() == value.tolist()
        pickle.loads(pickle.dumps(result))
    else:
        assert result == value


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda payload: payload,
        lambda payload: {"boxes": [np.zeros(2), payload]},
        lambda payload: np.array([payload], dtype=object),
        lambda payload: (payload,),
    ],
    ids=["bare", "nested", "object array", "tuple"],
)
def test_code_in_a_pickle_never_runs(tmp_path: Path, wrap: Callable[[Any], Any], protocol: int) -> None:
    trap = tmp_path / "executed"
    data = pickle.dumps(wrap(Payload(trap)), protocol=protocol)
    with pytest.raises(UntrustedPickleError, match=r"annotation\.x, frame 3.*Nothing in it was executed"):
        load_untrusted_pickle(data, where="annotation.x, frame 3")
    assert not trap.exists()
    pickle.loads(data)  # The trap works: a plain unpickler springs it.
    assert trap.exists()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", r"global os\.system"),
        (b"(S'true'\nios\nsystem\n.", "instruction INST"),
        (b"cbuiltins\ngetattr\n.", r"global builtins\.getattr"),
        (b"cnumpy\nload\n(S'/etc/passwd'\ntR.", r"global numpy\.load"),
        (b"cnumpy\ndtype\n.", "a type or function as a value"),
        # A function's attributes cannot be replaced.
        (b"\x80\x02cnumpy\ndtype\nN}X\x06\x00\x00\x00_buildK\x01s\x86b.", "change to a function"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR.", "without its data"),
        (b"\x80\x04K\x01r\xff\xff\xff\x7f.", "memo entry 2147483647"),
        (b"\x80\x02" + b"(" * 100 + b"t" * 100 + b".", "nested more than"),
        (pickle.dumps(np.datetime64("2020-01-01")), "dtype M8"),
        (pickle.dumps(np.array([None])), "dtype O8"),
        (b"0" * (16 * 1024 * 1024 + 1), "more than the limit"),
        ("text", "a str"),
    ],
)
def test_everything_else_is_refused(data: Any, found: str) -> None:
    with pytest.raises(UntrustedPickleError, match=found):
        load_untrusted_pickle(data, where="test")


def test_data_used_many_times_is_refused() -> None:
    block = b"x" * 1_000_000
    scalar = pickle.dumps(np.frombuffer(block, dtype="S1000000")[0], protocol=4)
    assert load_untrusted_pickle(scalar, where="test") == block
    # The same kind of block with two thousand calls, each of which could copy it.
    body = b"\x80\x04" + b"]\x94" + b"B" + len(block).to_bytes(4, "little") + block + b"\x94"
    body += b"0(" + (b"c_codecs\nencode\n\x8c\x01a\x85R") * 2000 + b"t."
    with pytest.raises(UntrustedPickleError, match="may unpack to more than the limit"):
        load_untrusted_pickle(body, where="test")


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps(np.arange(50))[:-30]])
def test_damaged_pickles_are_not_called_malicious(data: bytes) -> None:
    with pytest.raises(DataError, match="damaged") as caught:
        load_untrusted_pickle(data, where="test")
    assert not isinstance(caught.value, UntrustedPickleError)


# --- synthetic episodes ----------------------------------------------------------------------------


def annotate(trap: Path | None = None) -> Callable[[int, dict[str, Any]], None]:
    """Annotations of a camera `front`: the gripper moves right by 2 pixels per frame and closes at frame 10."""

    def edit(_: int, columns: dict[str, Any]) -> None:
        length = len(columns["index"])
        boxes = np.array([(5, 10, 20, 19, 39, 0.5), (6, 0, 0, 63, 63, -1.0), (7, 1, 1, 2, 2, 0.0)], dtype=BOX_DTYPE)
        labels = {"5": {"class": "potato"}, "6": {"class": "pan"}, "7": {"class": "crumb"}}
        pixels = [np.full((11, 2), [2.0 * frame, 30.0]) for frame in range(length)]
        for points in pixels:
            points[0] = [-100.0, 7.0]
            points[1] += [0.0, -4.0]
            points[6] += [0.0, 4.0]
        columns["action.gripper_close"] = [-1.0] * 10 + [1.0] * (length - 10)
        for name, values in {
            "front.bbox2d_tight": [boxes] * length,
            "front.bbox2d_tight_id2labels": [labels] * length,
            "front.tcp_2d_trace": pixels,
            "pick_obj_uid": ["potato"] * length,
            "place_obj_uid": ["pan"] * length,
        }.items():
            columns[f"annotation.{name}"] = [pickle.dumps(value) for value in values]
        if trap is not None:
            columns["annotation.front.bbox2d_tight"][4] = pickle.dumps(Payload(trap))

    return edit


@pytest.fixture
def annotated(make_dataset: Callable[..., Path]) -> Callable[..., Path]:
    def make(trap: Path | None = None) -> Path:
        import json

        root = make_dataset(lengths=(30,), cameras=("video.front",), edit=annotate(trap), columns={"action": 2})
        info = json.loads((root / "meta/info.json").read_text())
        names = (
            "front.bbox2d_tight",
            "front.bbox2d_tight_id2labels",
            "front.tcp_2d_trace",
            "pick_obj_uid",
            "place_obj_uid",
        )
        info["features"] |= {f"annotation.{name}": {"dtype": "binary", "shape": [1]} for name in names}
        info["features"]["action.gripper_close"] = {"dtype": "float32", "shape": [1]}
        (root / "meta/info.json").write_text(json.dumps(info))
        return root

    return make


def test_rows_of_a_known_episode(annotated: Callable[..., Path]) -> None:
    rows = list(grounding_rows(annotated(), "front", options=GroundingRowOptions(license="test licence")))
    at_frame_6 = {row["role"]: row for row in rows if row["frame_index"] == 6}
    assert at_frame_6["pick"]["boxes"] == [[10.0, 20.0, 20.0, 40.0]]
    assert at_frame_6["place"]["boxes"] == [[0.0, 0.0, 64.0, 64.0]]
    assert at_frame_6["task"]["boxes"] == [[10.0, 20.0, 20.0, 40.0], [0.0, 0.0, 64.0, 64.0]]
    assert (at_frame_6["task"]["question"], at_frame_6["task"]["instruction"]) == ("spatial", "push the red block")
    # Frame 6 shows the gripper of row 5, at x = 10; the stretch ends with row 9, shown at x = 16.
    # That is too short a path; from frame 3 on it is long enough.
    assert "gripper" not in at_frame_6
    path = next(row for row in rows if row["frame_index"] == 3 and row["kind"] == "trace")
    assert path["instruction"] == "push the red block"
    assert path["boxes"] == next(r for r in rows if r["frame_index"] == 3 and r["role"] == "task")["boxes"]
    assert path["labels"] == ["object to pick up", "place to put it", "gripper"]
    (trace,) = path["traces"]
    np.testing.assert_allclose(trace[0], [4.0, 30.0])
    np.testing.assert_allclose(trace[-1], [16.0, 30.0])
    assert len(trace) <= 10
    row = at_frame_6["pick"]
    assert set(row) >= {
        "dataset",
        "camera",
        "image_width",
        "image_height",
        "instruction",
        "kind",
        "points",
        "boxes",
        "traces",
    }
    assert (row["kind"], row["points"], row["traces"]) == ("box", [], [])
    assert (row["image_width"], row["image_height"], row["coordinate_space"]) == (64, 64, "pixel")
    assert (row["source"], row["license"], row["index"]) == ("toy", "test licence", 6)
    assert "push the red block" in row["instruction"]


def test_small_and_hidden_objects_give_no_row(annotated: Callable[..., Path]) -> None:
    root = annotated()
    hidden = list(grounding_rows(root, "front", options=GroundingRowOptions(max_occlusion=0.4)))
    assert {row["role"] for row in hidden} == {"place", "task", "gripper"}
    small = list(grounding_rows(root, "front", options=GroundingRowOptions(min_box_side=15)))
    assert {row["role"] for row in small} == {"place", "task", "gripper"}


def test_malicious_annotation_column(annotated: Callable[..., Path], tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    with pytest.raises(UntrustedPickleError, match=r"episode 0, frame 4, annotation\.front\.bbox2d_tight.*mkdir"):
        list(grounding_rows(annotated(trap), "front"))
    assert not trap.exists()


def test_camera_without_annotations(make_dataset: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"no annotations.*annotation\.front\.bbox2d_tight"):
        list(grounding_rows(make_dataset(), "front"))


# --- geometry --------------------------------------------------------------------------------------


def test_segment_ends() -> None:
    closed = np.array([0, 0, 1, 1, 1, 0], dtype=bool)
    assert segment_ends(closed).tolist() == [2, 2, 5, 5, 5, 6]
    assert segment_ends(np.zeros(3, dtype=bool)).tolist() == [3, 3, 3]


def test_on_screen_part_is_the_first_run_inside() -> None:
    path = np.array([[-1, 5], [0, 5], [3, 5], [9, 5], [10, 5], [5, 5]], dtype=float)
    assert on_screen_part(path, 10, 10).tolist() == [[0, 5], [3, 5], [9, 5]]
    assert len(on_screen_part(path[:1], 10, 10)) == 0
    assert on_screen_part(path[1:4], 10, 10).tolist() == path[1:4].tolist()


def test_resample_path_keeps_the_ends_and_spaces_evenly() -> None:
    path = np.array([[0, 0], [1, 0], [2, 0], [20, 0], [20, 20]], dtype=float)
    points = resample_path(path, 4, 10.0)
    assert points is not None
    np.testing.assert_allclose(points, [[0, 0], [40 / 3, 0], [20, 20 / 3], [20, 20]])
    assert resample_path(path[:3], 4, 10.0) is None
    assert resample_path(path[:1], 4, 10.0) is None
    assert resample_path(np.zeros((5, 2)), 4, 0.0) is None


# --- the recorded episode --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(real_dataset: Path) -> EpisodeAnnotations:
    reader = open_reader(open_dataset_info(real_dataset), episodes=None, cameras=[])
    return EpisodeAnnotations(reader, reader.episodes[0])


def test_recorded_boxes(recorded: EpisodeAnnotations) -> None:
    assert recorded.cameras == ["base_view", "base_view_2", "ego_view"]
    potato = recorded.box_of(recorded.pick_uid(0), "base_view", 0)
    pan = recorded.box_of(recorded.place_uid(0), "base_view", 0)
    assert potato is not None
    assert pan is not None
    # Read off the picture: the potato lies at the right edge of the pan's box.
    assert potato.xyxy == (410, 247, 442, 277)
    assert pan.xyxy == (335, 187, 444, 272)
    assert recorded.box_of(recorded.pick_uid(0), "ego_view", 0) is None


def test_recorded_cameras_that_move(recorded: EpisodeAnnotations) -> None:
    static = {camera: recorded.camera_is_static(camera) for camera in recorded.cameras}
    assert static == {"base_view": True, "base_view_2": True, "ego_view": False}


def test_recorded_keypoints_lead_the_boxes_by_one_frame(recorded: EpisodeAnnotations) -> None:
    """While the potato is carried, its box moves as the gripper does, `IMAGE_LAG_FRAMES` later."""
    carried = np.arange(150, 235)
    corners = [recorded.box_of(recorded.pick_uid(0), "base_view", frame) for frame in range(recorded.episode.length)]
    centres = np.array([np.add(box.xyxy[:2], box.xyxy[2:]) / 2 for box in corners if box is not None])
    speeds = [smooth_speed(track) for track in (centres, recorded.tcp_pixels("base_view"))]
    errors = {lag: np.abs(speeds[0][carried] - speeds[1][carried - lag]).mean() for lag in range(-2, 4)}
    assert min(errors, key=errors.__getitem__) == IMAGE_LAG_FRAMES


def smooth_speed(track: np.ndarray) -> np.ndarray:
    kernel = np.ones(7) / 7
    return np.stack([np.convolve(np.gradient(track[:, axis]), kernel, "same") for axis in (0, 1)], axis=1)


def test_recorded_rows(real_dataset: Path) -> None:
    rows = list(grounding_rows(real_dataset, "base_view", options=GroundingRowOptions(stride=20)))
    assert {row["role"] for row in rows} == {"pick", "place", "task", "gripper"}
    for row in rows:
        points = np.array([point for trace in row["traces"] for point in trace] or np.reshape(row["boxes"], (-1, 2)))
        assert (points >= 0).all()
        assert (points <= [640, 480]).all()
        assert all(2 <= len(trace) <= 10 for trace in row["traces"])
    # The first path ends above the potato, between the fingers.
    x, y = next(row for row in rows if row["kind"] == "trace")["traces"][0][-1]
    assert 400 < x < 440
    assert 200 < y < 277
    moving = list(grounding_rows(real_dataset, "ego_view", options=GroundingRowOptions(stride=20)))
    assert {row["kind"] for row in moving} == {"box"}
