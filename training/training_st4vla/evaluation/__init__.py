"""Scores, intervals and reports.

- `intervals`: Wilson and bootstrap 95 % intervals, paired comparison of two models on the same seeds;
- `grounding_scores`: boxes, points and traces, with failures counted as failures;
- `open_loop`: predicted against recorded actions, beside two trivial baselines;
- `table`: results as aligned text; `plots` and `report`: figures and one self-contained HTML file.

These are pure functions on arrays: only numpy is imported with them, matplotlib and Pillow by the functions that draw.
Models and data meet them in `action_predictions`, `grounding_predictions` (answers by generation),
`grounding_evaluation` (answers against samples) and `benchmarks` (published sets by name).
"""
