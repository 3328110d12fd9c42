"""Scores, intervals and reports: pure functions on arrays, without torch.

- `intervals`: Wilson and bootstrap 95 % intervals, paired comparison of two models on the same seeds;
- `grounding_scores`: boxes, points and traces, with failures counted as failures;
- `open_loop`: predicted against recorded actions, beside two trivial baselines;
- `table`: results as aligned text; `plots` and `report`: figures and one self-contained HTML file.

Only numpy is imported with these modules; matplotlib and Pillow are imported by the functions that draw.
"""
