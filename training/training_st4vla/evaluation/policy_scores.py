"""Success rates per task and suite, comparison of two policies on the same seeds, and the closed-loop report."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training_st4vla.errors import UserError
from training_st4vla.evaluation.closed_loop import EpisodeResult, Rollout
from training_st4vla.evaluation.intervals import PairedComparison, compare_paired, wilson_interval
from training_st4vla.evaluation.report import Report, RunInfo
from training_st4vla.evaluation.table import ResultTable


def success_table(results: Sequence[EpisodeResult]) -> ResultTable:
    """Success per task of each suite, and over each suite, with Wilson 95 % intervals."""
    groups: dict[tuple[str, str], list[EpisodeResult]] = defaultdict(list)
    for result in results:
        groups[result.suite, result.task].append(result)
    rows: list[list[Any]] = []
    for suite in dict.fromkeys(result.suite for result in results):
        tasks = [key for key in groups if key[0] == suite]
        rows += [_row(suite, task, groups[suite, task]) for _, task in tasks]
        if len(tasks) > 1:
            rows.append(_row(suite, "all", [result for key in tasks for result in groups[key]]))
    return ResultTable(
        headers=("suite", "task", "success [95 %]", "successes", "episodes", "mean steps of successes", "found it"),
        rows=rows,
        title="Closed-loop success",
        note="Wilson score intervals. An episode succeeds when the environment says so before its step limit. Found "
        "it: the share of episodes that first went to the named object, where the environment says so.",
    )


def compare_results(first: Sequence[EpisodeResult], second: Sequence[EpisodeResult]) -> PairedComparison:
    """
    Two policies on the same episodes, `second - first`.

    Raises:
        UserError: when the episodes (suite, task, seed) are not the same.
    """
    ours, theirs = ({result.key: result.success for result in results} for results in (first, second))
    if ours.keys() != theirs.keys():
        different = sorted(map(str, ours.keys() ^ theirs.keys()))
        raise UserError(
            f"--compare: expected results on the same episodes, found {len(different)} that only one has, for example "
            f"{different[0]}. Run both with the same --env, --tasks, --split, --episodes and --seed."
        )
    keys = list(ours)
    return compare_paired([float(ours[key]) for key in keys], [float(theirs[key]) for key in keys])


def comparison_table(names: tuple[str, str], comparison: PairedComparison) -> ResultTable:
    """The comparison as a table."""
    return ResultTable(
        headers=("policy", "success", "wins alone"),
        rows=[
            [names[0], comparison.mean_first, comparison.first_better],
            [names[1], comparison.mean_second, comparison.second_better],
            ["difference [95 %]", comparison.difference, ""],
        ],
        title="Paired comparison on the same seeds",
        note=f"p = {comparison.p_value:.3g}, {comparison.test}, two-sided; {comparison.ties} episodes ended alike.",
    )


def results_to_json(policy: str, results: Sequence[EpisodeResult], **run: Any) -> dict[str, Any]:
    """All that a later comparison needs, the summary, and what `run` says about how it was made."""
    table = success_table(results)
    return {
        "policy": policy,
        **run,
        "summary": [
            {"suite": suite, "task": task, "success": interval.to_dict()} for suite, task, interval, *_ in table.rows
        ],
        "episodes": [result.to_dict() for result in results],
    }


def results_from_json(value: dict[str, Any]) -> list[EpisodeResult]:
    """The episodes of a file that `results_to_json` made."""
    return [EpisodeResult(**episode) for episode in value["episodes"]]


def write_policy_report(
    path: Path,
    policy: str,
    environment: str,
    results: Sequence[EpisodeResult],
    *,
    filmed: Sequence[Rollout] = (),
    comparison: ResultTable | None = None,
    info: RunInfo | None = None,
) -> Path:
    """One HTML file that opens offline: table, comparison, and the films of `filmed`, failures first."""
    report = Report("Closed-loop evaluation", f"{policy} in {environment}", info=info)
    report.section("Success").table(success_table(results))
    if comparison is not None:
        report.section("Comparison").table(comparison)
    for title, wanted in (("Failures", False), ("Successes", True)):
        count = sum(result.success is wanted for result in results)
        films = [
            (rollout.film.video, f"{rollout.result.suite}, {rollout.result.task}, seed {rollout.result.seed}")
            for rollout in filmed
            if rollout.film is not None and rollout.result.success is wanted
        ]
        if films:
            report.section(title).text(f"{len(films)} of {count} episodes.").films(films)
    return report.write(path)


def _row(suite: str, task: str, results: Sequence[EpisodeResult]) -> list[Any]:
    won = [result for result in results if result.success]
    steps = sum(result.steps for result in won) / len(won) if won else None
    told = [result.found_target for result in results if result.found_target is not None]
    found = wilson_interval(sum(told), len(told)) if told else None
    return [suite, task, wilson_interval(len(won), len(results)), len(won), len(results), steps, found]


__all__ = [
    "compare_results",
    "comparison_table",
    "results_from_json",
    "results_to_json",
    "success_table",
    "write_policy_report",
]
