"""The published grounding benchmarks by name: where they are, how their rows are read, what is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from training_st4vla.data.grounding import GroundingDataset, GroundingSample, open_grounding_dataset
from training_st4vla.data.grounding.rows import find_splits
from training_st4vla.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """A published set.

    Args:
        name: As `--benchmark` names it.
        layout: Layout of its rows; see `LAYOUT_NAMES`.
        hub_id: Where it is without `--data`; empty: it must be given.
        splits: Splits that are evaluated, each on its own; empty: the only one.
        file: Which file of a `--data` folder, where the folder holds others as well.
        asks: What is asked and scored, for people.
        defaults: Further arguments of `open_grounding_dataset`.
    """

    name: str
    layout: str
    asks: str
    hub_id: str = ""
    splits: tuple[str, ...] = ()
    file: str = ""
    defaults: Mapping[str, Any] = MappingProxyType({})


BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        benchmark.name: benchmark
        for benchmark in (
            Benchmark(
                "refcocog", "refcoco", "the box of what a sentence names, IoU >= 0.5", "lmms-lab/RefCOCOg", ("test",)
            ),
            Benchmark(
                "refit",
                "refcoco",
                "the box of what a sentence names, IoU >= 0.5 (embodied-r1: points in the box)",
                file="roborefit_test.json",
            ),
            Benchmark(
                "where2place",
                "masks",
                "points in free space, in the mask",
                "FlagEval/Where2Place",
                file="point_questions.jsonl",
            ),
            Benchmark(
                "refspatial",
                "masks",
                "a point on an object or place, in the mask",
                "BAAI/RefSpatial-Bench",
                ("location", "placement", "unseen"),
            ),
            Benchmark("vabench", "vabench", "points in the box, or the path of the object"),
            Benchmark(
                "sharerobot",
                "sharerobot",
                "the path of the gripper",
                file="trajectory/trajectory.json",
            ),
            Benchmark("a0", "a0", "the path of the contact point", defaults=MappingProxyType({"split": "test"})),
        )
    }
)


def open_benchmark(
    name_or_path: str, data: str | None = None, *, as_points: bool = False, **arguments: Any
) -> dict[str, GroundingDataset]:
    """Opens a benchmark by name, or any grounding data by path, split by split.

    Args:
        name_or_path: A name of `BENCHMARKS`, or what `open_grounding_dataset` opens.
        data: Where a benchmark of that name lies, if not on the Hub: a folder or file.
        as_points: Ask for a point where the benchmark has boxes; it is right in its box.
        arguments: As for `open_grounding_dataset`; None keeps the benchmark's own. `split` chooses one split.

    Returns:
        Datasets by split; `{"all": ...}` for one without splits.

    Raises:
        UserError: The benchmark needs `--data`.
        DataError: As for `open_grounding_dataset`.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    benchmark = BENCHMARKS.get(name_or_path)
    if benchmark is None:
        splits = {given.get("split") or "all": open_grounding_dataset(name_or_path, **given)}
    else:
        given = {**benchmark.defaults, "layout": benchmark.layout, "source": benchmark.name, **given}
        path = _located(benchmark, data)
        wanted = [given.pop("split")] if given.get("split") else _splits(benchmark, path)
        splits = {split or "all": open_grounding_dataset(path, split=split, **given) for split in wanted}
    return {name: PointQuestions(dataset) for name, dataset in splits.items()} if as_points else splits


class PointQuestions(GroundingDataset):
    """The same questions, asking for a point wherever the truth is a box; the box is its region."""

    def __init__(self, dataset: GroundingDataset) -> None:
        self.__dict__ = dict(dataset.__dict__)

    def read(self, values: Any, number: int, where: str) -> GroundingSample:
        """See `GroundingDataset.read`."""
        sample = super().read(values, number, where)
        return replace(sample, kind="point") if sample.kind == "box" else sample

    def select(self, indices: Any) -> "PointQuestions":
        """See `GroundingDataset.select`."""
        return PointQuestions(super().select(indices))


def _located(benchmark: Benchmark, data: str | None) -> str:
    if data is None:
        if not benchmark.hub_id:
            raise UserError(
                f"--data: the benchmark {benchmark.name!r} has no place on the Hub that is known to be stable. "
                "Download it and give its folder or file."
            )
        return benchmark.hub_id
    file = Path(data).expanduser() / benchmark.file
    return str(file) if benchmark.file and file.is_file() else data


def _splits(benchmark: Benchmark, path: str) -> list[str | None]:
    """The benchmark's splits as this copy spells them; a copy without them is taken whole."""
    if benchmark.layout == "a0":
        return [None]
    found = list(find_splits(path))
    spelled = {name.lower(): name for name in found}
    wanted = [spelled[name] for name in benchmark.splits if name in spelled]
    if wanted:
        return [*wanted]
    return [None] if len(found) == 1 else [*found]


__all__ = ["BENCHMARKS", "Benchmark", "PointQuestions", "open_benchmark"]
