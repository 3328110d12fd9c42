"""Statistics in pieces: the numbers of all at once, and the stated bound where quantiles come from a histogram."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from training_st4vla.data import statistics
from training_st4vla.data.statistics import compute_statistics, summarize_pieces


def pieces_of(values: np.ndarray, size: int) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (values[start : start + size] for start in range(0, len(values), size))


@pytest.fixture
def values() -> np.ndarray:
    draw = np.random.default_rng(0)
    columns = [draw.normal(1e4, 1, 20_000), draw.standard_cauchy(20_000), draw.integers(0, 2, 20_000), np.ones(20_000)]
    return np.stack(columns, axis=1).astype(np.float32)


def test_pieces_are_exact_below_a_size(values: np.ndarray) -> None:
    found, levels = summarize_pieces(pieces_of(values, 77))
    exact = values.astype(np.float64)
    np.testing.assert_allclose(found["q01"], np.quantile(exact, 0.01, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["q99"], np.quantile(exact, 0.99, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["mean"], exact.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found["std"], exact.std(axis=0), rtol=1e-8)
    assert found["min"] == exact.min(axis=0).tolist()
    assert (found["count"], found["quantile_error"]) == (20_000, [0.0] * 4)
    assert levels == [None, None, [0.0, 1.0], None]


def test_large_data_are_within_the_stated_bound(values: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, levels = summarize_pieces(pieces_of(values, 500))
    monkeypatch.setattr(statistics, "EXACT_NUMBERS", 1000)
    found, same = summarize_pieces(pieces_of(values, 500))
    assert same == levels
    assert {name: found[name] for name in ("min", "max", "mean", "std")} == {
        name: exact[name] for name in ("min", "max", "mean", "std")
    }
    span = np.array(found["max"]) - found["min"]
    np.testing.assert_allclose(found["quantile_error"], span / statistics.BINS)
    for name, share in (("q01", 0.01), ("q99", 0.99)):
        ranked = np.quantile(values.astype(np.float64), share, axis=0, method="lower")
        assert (np.abs(np.array(found[name]) - ranked) <= found["quantile_error"]).all(), name


class Part:
    """The least that statistics need."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self._values, self.reads = name, values, 0

    def values(self) -> Iterator[tuple[np.ndarray, None]]:
        self.reads += 1
        yield self._values, None

    def fingerprint(self) -> str:
        return self.name


def test_several_together_and_once(tmp_path: object, values: np.ndarray) -> None:
    first, second = Part("a", values[:100]), Part("b", values[100:300])
    together = compute_statistics([first, second], tmp_path)  # type: ignore[arg-type]
    assert together["action"] == summarize_pieces(pieces_of(values[:300], 100))[0] | {
        name: together["action"][name] for name in ("mean", "std")
    }
    assert together["state"] is None
    reads = first.reads
    assert compute_statistics([first, second], tmp_path) == together  # type: ignore[arg-type]
    assert first.reads == reads
    compute_statistics([second, first], tmp_path)  # type: ignore[arg-type]
    assert first.reads > reads
