"""The frame returned is the frame asked for, whatever the order and the group of pictures."""

import contextlib
import pickle
import random
from pathlib import Path

import av
import numpy as np
import pytest
from lerobot_toy import FPS, read_number, write_video

from training_st4vla.data.errors import VideoReadError
from training_st4vla.data.video import VideoCache, VideoReader


def decode_everything(path: Path, count: int) -> list[np.ndarray]:
    """An independent decoder: the whole file in order, frame by frame, nothing sought."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [next(frames).to_ndarray(format="rgb24") for _ in range(count)]


@pytest.fixture(scope="module")
def numbered_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "numbers.mp4"
    write_video(path, range(90), gop=25)
    return path


@pytest.mark.parametrize("camera", ["video.base_view", "video.ego_view"])
def test_real_frames_equal_a_plain_sequential_decode(real_dataset: Path, camera: str) -> None:
    path = real_dataset / f"videos/chunk-000/{camera}/episode_000000.mp4"
    reference = decode_everything(path, 100)
    reader = VideoReader(path)
    order = [*range(20), *random.Random(0).choices(range(100), k=60), 99, 98, 97, 50, 50]
    for index in order:
        # The timestamp as LeRobot stores it: float32.
        np.testing.assert_array_equal(reader.frame_at(float(np.float32(index / 30))), reference[index])


def test_real_frames_are_not_the_key_frames_before_them(real_dataset: Path) -> None:
    path = real_dataset / "videos/chunk-000/video.ego_view/episode_000000.mp4"
    reference = decode_everything(path, 62)
    reader = VideoReader(path)
    frames = {index: reader.frame_at(index / 30) for index in (60, 61)}
    assert not np.array_equal(reference[60], reference[61])
    np.testing.assert_array_equal(frames[61], reference[61])


def test_numbers_are_right_in_every_order(numbered_video: Path) -> None:
    reader = VideoReader(numbered_video)
    shuffled = random.Random(1).sample(range(90), k=90)
    for order in (range(90), reversed(range(90)), shuffled, range(0, 90, 7), [5, 5, 6, 5]):
        for index in order:
            frame = reader.frame_at(index / FPS)
            assert frame.dtype == np.uint8
            assert frame.shape == (64, 64, 3)
            assert read_number(frame) == index


def test_sequential_reading_does_not_seek(numbered_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = VideoReader(numbered_video)
    seeks = []
    original = reader._seek
    monkeypatch.setattr(reader, "_seek", lambda timestamp: (seeks.append(timestamp), original(timestamp)))
    for index in range(30, 60):
        reader.frame_at(index / FPS)
    assert seeks == [30 / FPS]


@pytest.mark.parametrize("timestamp", [9.0, 60.0, 0.05])
def test_a_time_without_a_frame_is_an_error(numbered_video: Path, timestamp: float) -> None:
    with pytest.raises(VideoReadError, match=r"no frame at the asked time.*numbers\.mp4.*expected a frame within"):
        VideoReader(numbered_video).frame_at(timestamp)


def test_reading_goes_on_after_an_error(numbered_video: Path) -> None:
    reader = VideoReader(numbered_video)
    with pytest.raises(VideoReadError):
        reader.frame_at(60.0)
    assert read_number(reader.frame_at(4.2)) == 42


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VideoReadError, match=r"missing.*absent\.mp4"):
        VideoReader(tmp_path / "absent.mp4")


def test_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_bytes(b"this is not a video" * 100)
    with pytest.raises(VideoReadError, match=r"cannot be read.*text\.mp4"):
        VideoReader(path)


def test_damaged_data_is_an_error_not_a_wrong_frame(numbered_video: Path, tmp_path: Path) -> None:
    content = bytearray(numbered_video.read_bytes())
    start = content.find(b"mdat") + 900
    for position in range(start, start + 300):
        content[position] ^= 0xFF
    path = tmp_path / "damaged.mp4"
    path.write_bytes(bytes(content))
    found = {}
    for index in range(90):
        with contextlib.suppress(VideoReadError):
            found[index] = read_number(VideoReader(path).frame_at(index / FPS))
    assert len(found) < 90
    assert all(index == number for index, number in found.items())


def test_truncated_file(numbered_video: Path, tmp_path: Path) -> None:
    path = tmp_path / "truncated.mp4"
    path.write_bytes(numbered_video.read_bytes()[:2000])
    with pytest.raises(VideoReadError, match=r"cannot be read.*truncated\.mp4"):
        VideoReader(path)


def test_cache_keeps_few_files_open(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.mp4" for number in range(4)]
    for number, path in enumerate(paths):
        write_video(path, [10 * number, 10 * number + 1])
    cache = VideoCache(max_open=2)
    for _ in range(2):
        for number, path in enumerate(paths):
            assert read_number(cache.frame_at(path, 0.1)) == 10 * number + 1
    assert list(cache._readers) == paths[2:]
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.max_open == 2
    assert read_number(copy.frame_at(paths[0], 0.0)) == 0
