"""`st4vla evaluate-grounding`: points, boxes and traces against the truth, in scores that can be compared."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_st4vla.commands.arguments import device_flag, dtype_flag, exit_with, flag
from training_st4vla.commands.console import emit, say, write_atomic, write_json
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError, require_extra

MODEL, SHUFFLED, RANDOM, PRIOR = "model", "shuffled words", "random object", "prior"


@dataclass
class EvaluateGroundingArguments:
    """Flags of `st4vla evaluate-grounding`."""

    model: str = flag("model folder or Hub id: ST4VLA, Qwen2.5-VL or Qwen3-VL", "")
    benchmark: str = flag(
        "refcocog, refit, where2place, refspatial, vabench, sharerobot, a0, or a dataset: file, folder, Hub id",
        "",
    )
    data: str | None = flag("folder or file of the benchmark, if not on the Hub", None)
    split: str | None = flag("one split; all of the benchmark's without it", None)
    kinds: list[str] | None = flag("answers to ask for: point, box, trace; all without it", None)
    roles: list[str] | None = flag("roles to ask about, as the data name them; all without it", None)
    max_samples: int | None = flag("ask at most so many questions, drawn evenly by the seed", None)
    compat: str | None = flag("reproduce a published scorer: robopoint (points) or embodied-r1 (points, traces)", None)
    skip_invalid: bool = flag("leave out rows that cannot be used, and say which; every image is read first", False)
    as_points: bool = flag("ask for a point where the truth is a box; it is right in its box", False)
    shuffle_instructions: bool = flag(
        "ask again with words exchanged between questions: what looking alone gives", False
    )
    prior_from: str | None = flag("grounding dataset of the mean box, point and trace; the benchmark without it", None)
    verbatim: bool = flag("ask published questions with their own instructions on how to write coordinates", False)
    dialect: str | None = flag("how the model writes coordinates; the processor's dialect without it", None)
    layout: str | None = flag("layout of the rows of a dataset that is no benchmark; detected without it", None)
    data_dialect: str | None = flag("how conversations write coordinates, or text", None)
    coordinate_space: str | None = flag(
        "space of coordinates that do not declare theirs: pixel, unit, percent, byte, per_mille", None
    )
    image_root: str | None = flag("folder of the image files", None)
    frames_root: str | None = flag("LeRobot dataset of rows that point to video frames", None)
    batch_size: int = flag("questions per batch", 8)
    max_new_tokens: int = flag("longest answer, in tokens", 256)
    native_size: bool = flag(
        "ask at each image's own size instead of the processor's image_size; a plain VLM is always asked so", False
    )
    worst: int = flag("worst answers per kind in the report", 12)
    seed: int = flag("seed of --max-samples and --shuffle-instructions", 0)
    dtype: str = dtype_flag()
    device: str = device_flag()
    predictions: str | None = flag("write every question, answer and score to this JSON-lines file", None)
    json: str | None = flag("write the figures to this file", None)
    card: bool = flag("write the figures into the model folder's card", False)
    report: str | None = flag("write an HTML report with the worst answers to this new file", None)


def arguments() -> tuple[type, ...]:
    """Flags of this command."""
    require_extra("datasets", "train")
    return (EvaluateGroundingArguments,)


def run(args: EvaluateGroundingArguments) -> int:
    """Evaluates every split, prints tables, writes JSON, predictions and the report."""
    evaluate_grounding(args)
    return 0


@dataclass(frozen=True)
class SplitResult:
    """
    One split's questions, answers and scores: `scores` by answerer (`model`, ...) and kind, `roles` of the model's
    answers by what is asked for (`target box`, `place point`, ...), where the data say it. Numbers of questions:
    `words` ask for words, `invalid` cannot be used, `unchanged` are not changed by the shuffled words, and not asked
    again.
    """

    name: str
    samples: list[Any]
    results: list[Any]
    scores: dict[str, dict[str, Any]]
    roles: dict[str, Any]
    words: int
    invalid: int
    unchanged: int | None

    def without_region(self) -> dict[str, int]:
        """How many point questions are asked and cannot be scored, by role (empty where there is none)."""
        scored = self._scored("point")
        return dict(Counter(one.role for i, one in enumerate(self.samples) if one.kind == "point" and i not in scored))

    def _scored(self, kind: str) -> set[int]:
        return set(self.scores[MODEL][kind].indices) if kind in self.scores[MODEL] else set()

    def notes(self) -> list[str]:
        """What must be known to read the scores: which questions a row or a column leaves out, and why."""
        from processing_st4vla import GroundingResult

        found = []
        if self.words:
            found.append(f"{self.words} questions ask for words and are not scored.")
        if self.invalid:
            found.append(f"{self.invalid} rows cannot be used and are left out (--skip-invalid).")
        missing = self.without_region()
        if missing:
            roles = ", ".join(f"{number} {role}".strip() for role, number in missing.items())
            asked = sum(sample.kind == "point" for sample in self.samples)
            found.append(
                f"point: {sum(missing.values())} of {asked} questions are not scored ({roles}), as no box or mask of "
                "their image says where a point is right."
            )
        boxes = [i for i in self._scored("point") if isinstance(self.samples[i].answer, GroundingResult)]
        if boxes:
            found.append(f"point: anywhere in the visible box of what is asked for is right ({len(boxes)} questions).")
        if self.unchanged is not None:
            found.append(
                f"{SHUFFLED}: {self.unchanged} of {len(self.samples)} questions are left out, as their new words are "
                "their own or name the same answer."
            )
        covered = [
            f"{scored.score.num_questions} of {self.scores[MODEL][kind].score.num_questions} {kind} questions"
            for kind, scored in self.scores[RANDOM].items()
        ]
        if covered:
            found.append(
                f"{RANDOM}: a labelled object of the same image, whichever is meant (the mean over all of them); "
                f"{' and '.join(covered)} are about images with two or more."
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready figures."""
        return {
            "questions": len(self.samples),
            "not_scored": {
                "words": self.words,
                "invalid": self.invalid,
                "points_without_region": self.without_region(),
            },
            "not_shuffled": self.unchanged,
            "notes": self.notes(),
            **{
                who: {kind: scored.score.to_dict() for kind, scored in kinds.items()}
                for who, kinds in self.scores.items()
            },
            "roles": {name: scored.score.to_dict() for name, scored in self.roles.items()},
        }


def evaluate_grounding(args: EvaluateGroundingArguments) -> dict[str, SplitResult]:
    """The command as a function; returns the results by split."""
    from training_st4vla.evaluation.benchmarks import open_benchmark
    from training_st4vla.evaluation.grounding_evaluation import comparison_table, role_table
    from training_st4vla.loading import load_grounder

    _check(args)
    splits = open_benchmark(
        args.benchmark,
        args.data,
        as_points=args.as_points or (args.compat == "embodied-r1" and args.benchmark == "refit"),
        split=args.split,
        layout=args.layout,
        dialect=args.data_dialect,
        coordinate_space=args.coordinate_space,
        image_root=args.image_root,
        frames_root=args.frames_root,
        verbatim=args.verbatim or None,
        check_first=not args.skip_invalid,
    )
    splits = {name: dataset.of(args.kinds, args.roles) for name, dataset in splits.items()}
    chosen = {name: dataset.thin_out(args.max_samples, args.seed) for name, dataset in splits.items()}
    model, processor = load_grounder(args.model, args.dtype, args.device)
    if args.dialect is not None:
        processor.grounding_dialect = args.dialect
    asked_at = _asked_at(args, processor)
    found: dict[str, SplitResult] = {}
    for name, dataset in chosen.items():
        found[name] = _evaluate_split(args, name, dataset, splits[name], model, processor)
        emit(comparison_table(found[name].scores, f"{args.benchmark}, {name}, asked at {asked_at}").to_text())
        for note in found[name].notes():
            emit(note)
        if found[name].roles:
            emit(role_table(found[name].roles).to_text())
    _write(args, found, str(model.dtype).rpartition(".")[2], asked_at)
    return found


def _asked_at(args: EvaluateGroundingArguments, processor: Any) -> str:
    """The size at which images are shown to the model, in words."""
    if args.native_size or processor.image_size is None:
        return "each image's own size"
    height, width = processor.image_size
    return f"{width} x {height} pixels"


def _check(args: EvaluateGroundingArguments) -> None:
    from processing_st4vla.spatial import DIALECTS

    for name in ("model", "benchmark"):
        if not getattr(args, name):
            raise UserError(f"--{name}: expected one, found none.")
    if args.compat not in (None, "robopoint", "embodied-r1"):
        raise UserError(f"--compat: expected robopoint or embodied-r1, found {args.compat!r}.")
    if args.dialect is not None and args.dialect not in DIALECTS:
        raise UserError(f"--dialect: expected one of {', '.join(DIALECTS)}, found {args.dialect!r}.")
    if args.report and Path(args.report).exists():
        raise UserError(f"--report: {args.report} exists already; choose another name.")
    for name in ("batch_size", "max_new_tokens", "max_samples"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(args, name)}.")


def _evaluate_split(
    args: EvaluateGroundingArguments, name: str, dataset: Any, whole: Any, model: Any, processor: Any
) -> SplitResult:
    from tqdm.auto import tqdm

    from training_st4vla.evaluation.grounding_baselines import changed_questions, prior_results, random_object_scores
    from training_st4vla.evaluation.grounding_evaluation import score_grounding, score_roles
    from training_st4vla.evaluation.grounding_predictions import predict_grounding, shuffled_instructions

    kept, words_only = _usable(dataset, name, args.skip_invalid)
    samples, invalid = list(kept.samples()), len(dataset) - len(kept) - words_only
    if not samples:
        raise UserError(f"--benchmark: {args.benchmark} ({name}) has no question that asks for coordinates.")

    def ask(instructions: list[tuple[int, str]], title: str) -> list[Any]:
        questions = ({**kept.question(i), "instruction": words} for i, words in instructions)
        with tqdm(total=len(instructions), unit="question", desc=f"{name}: {title}") as bar:
            return predict_grounding(
                model,
                processor,
                questions,
                batch_size=args.batch_size,
                max_new_tokens=args.max_new_tokens,
                image_size=None if args.native_size else "default",
                progress=bar.update,
            )

    words = [sample.instruction for sample in samples]
    results = ask(list(enumerate(words)), "answers")
    known = samples
    if args.max_samples is not None:
        known = list((whole.filter(lambda _: True) if args.skip_invalid else whole).samples())
    compat: Any = args.compat

    def score(answers: Sequence[Any], asked: Sequence[Any]) -> dict[str, Any]:
        return score_grounding(answers, asked, compat=compat, region_source=known)

    scores, unchanged = {MODEL: score(results, samples)}, None
    if args.shuffle_instructions:
        shuffled = shuffled_instructions(words, [(one.kind, one.question) for one in samples], args.seed)
        changed = changed_questions(samples, shuffled, known)
        answers = ask([(i, shuffled[i]) for i in changed], SHUFFLED)
        scores[SHUFFLED], unchanged = score(answers, [samples[i] for i in changed]), len(samples) - len(changed)
    scores[RANDOM] = random_object_scores(samples, compat=compat, source=known)
    scores[PRIOR] = score(prior_results(samples, _prior_samples(args)), samples)
    roles = score_roles(results, samples, compat=compat, region_source=known)
    return SplitResult(name, samples, results, scores, roles, words_only, invalid, unchanged)


def _usable(dataset: Any, name: str, skip_invalid: bool) -> tuple[Any, int]:
    """The samples that can be asked and scored, and how many ask for words; an invalid one raises unless skipped."""
    from training_st4vla.data.errors import DataError
    from training_st4vla.evaluation.grounding_truth import check_readable

    usable, words = [], 0
    for index in range(len(dataset)):
        try:
            sample = dataset.sample(index)
            if sample.kind == "text":
                words += 1
                continue
            sample.check(training=False)
            if skip_invalid:
                check_readable(sample)
            usable.append(index)
        except DataError as error:
            if not skip_invalid:
                raise
            say(f"{name}, question {index}, left out: {error}")
    return dataset.select(usable), words


def _prior_samples(args: EvaluateGroundingArguments) -> list[Any] | None:
    if args.prior_from is None:
        return None
    from training_st4vla.data.grounding import open_grounding_dataset

    return list(open_grounding_dataset(args.prior_from, coordinate_space=args.coordinate_space).samples())


def _write(args: EvaluateGroundingArguments, found: dict[str, SplitResult], dtype: str, asked_at: str) -> None:
    settings = {"model": args.model, "benchmark": args.benchmark, "compat": args.compat, "seed": args.seed}
    settings["asked_at"] = asked_at
    if args.json:
        write_json(Path(args.json), {**settings, "splits": {name: one.to_dict() for name, one in found.items()}})
    if args.card:
        _write_card(args, found)
    if args.predictions:
        rows = [row for one in found.values() for row in _prediction_rows(one)]
        write_atomic(Path(args.predictions), "".join(json.dumps(row) + "\n" for row in rows).encode())
    if args.report:
        _write_report(args, found, dtype, asked_at)
        say(f"{args.report}: written.")


def _write_card(args: EvaluateGroundingArguments, found: dict[str, SplitResult]) -> None:
    from training_st4vla.model_card import Measured, add_results
    from training_st4vla.provenance import portable_command

    benchmark = Path(args.benchmark.rstrip("/")).name
    for name, one in found.items():
        figures = []
        for who, kinds in one.scores.items():
            for kind, scored in kinds.items():
                headline = scored.score[scored.headline_name]
                interval = getattr(headline, scored.score.average)
                label = f"{kind} {scored.headline_name}" + ("" if who == MODEL else f" ({who})")
                number = scored.score.num_questions
                figures.append(Measured(label, interval.estimate, interval.low, interval.high, number))
        what = benchmark if len(found) == 1 else f"{benchmark}, {name}"
        add_results(Path(args.model), "grounding", what, figures, portable_command(), one.notes())


def _prediction_rows(one: SplitResult) -> list[dict[str, Any]]:
    values = {
        index: (kind.headline_name, float(kind.score.per_question[kind.headline_name][place]))
        for kind in one.scores[MODEL].values()
        for place, index in enumerate(kind.indices)
    }
    rows = []
    for index, (sample, result) in enumerate(zip(one.samples, one.results, strict=True)):
        metric, value = values.get(index, (None, None))
        rows.append(
            {
                "split": one.name,
                "where": sample.where,
                "kind": sample.kind,
                "role": sample.role,
                "instruction": sample.instruction,
                "metric": metric,
                "score": None if value is None or value != value else value,
                "result": result.to_dict(),
            }
        )
    return rows


def _write_report(args: EvaluateGroundingArguments, found: dict[str, SplitResult], dtype: str, asked_at: str) -> None:
    from training_st4vla.evaluation.grounding_evaluation import comparison_table, draw_answer, role_table
    from training_st4vla.evaluation.report import Report, RunInfo

    info = RunInfo.collect(dtype=dtype, extra={"Seed": str(args.seed), "Protocol": args.compat or "st4vla"})
    report = Report("Grounding", f"{Path(args.model).name} on {args.benchmark}, asked at {asked_at}", info=info)
    for one in found.values():
        report.section(f"Scores: {one.name}").table(comparison_table(one.scores))
        for note in one.notes():
            report.text(note)
        if one.roles:
            report.table(role_table(one.roles))
        report.text(
            f"{PRIOR}: always the mean answer of {args.prior_from or 'these questions'}, without looking. A model "
            f"that looks and does not listen scores about as much as {RANDOM}; one that listens is above both, and "
            "falls when its words are shuffled."
        )
        for kind, scored in one.scores[MODEL].items():
            report.table(scored.score.table())
            pictures = []
            for index, value in scored.worst(args.worst):
                sample, result = one.samples[index], one.results[index]
                caption = f"{scored.headline_name} {value:.3f}: {sample.instruction[:200]} | {result.raw_text[:200]}"
                pictures.append((draw_answer(sample, result), caption))
            report.section(f"Worst answers: {one.name}, {kind}")
            report.text("Left: the truth. Right: the answer, with its text below.").gallery(pictures, max_side=800)
    report.write(args.report or "")


COMMAND = Command(
    name="evaluate-grounding",
    arguments=arguments,
    run=run,
    description="Grounding scores with 95 % intervals beside a prior that does not look, and the worst answers.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
