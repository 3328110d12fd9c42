"""Charts for reports: predicted against recorded actions, loss curves, scores with their intervals.

Every function returns a matplotlib `Figure` that belongs to no window (drawn by Agg, no pyplot state) in one of two
themes, for `Report.figure(light, dark=dark)`. Figures are six inches wide with type that stays readable when a phone
shows them at 360 pixels. Colours are Okabe and Ito's, distinct for colour-blind readers (https://jfly.uni-koeln.de/color/);
lines differ in dash too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .table import IntervalLike, plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Theme = Literal["light", "dark"]
FloatArray = NDArray[np.float64]

WIDTH = 6.0  # inches
OKABE_ITO = {
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
_INKS = {"light": ("#ffffff", "#1b1f24", "#c9ced6"), "dark": ("#161a1f", "#e6e9ee", "#454c56")}
_CYCLES = {
    "light": ("blue", "vermillion", "green", "purple", "orange", "sky blue"),
    "dark": ("sky blue", "orange", "green", "purple", "yellow", "vermillion"),
}
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_INSTALL = "Figures need matplotlib: pip install 'st4vla[train]'"


def plot_actions(
    recorded: ArrayLike,
    predicted: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    samples: ArrayLike | None = None,
    fps: float | None = None,
    boundaries: Sequence[int] = (),
    title: str = "",
    theme: Theme = "light",
) -> Figure:
    """Predicted and recorded actions over time, one panel per dimension with a shared time axis.

    Args:
        recorded (`ArrayLike` of shape `[N, A]`): Recorded actions; NaN leaves a gap.
        predicted (`ArrayLike` of shape `[N, A]`): The model's actions for the same frames; NaN leaves a gap.
        names (`Sequence[str]`, *optional*), units (`Sequence[str]`, *optional*): Of the A dimensions.
        samples (`ArrayLike` of shape `[S, N, A]`, *optional*): Several samples of the model; their 5 to 95 % band is
            shaded behind the prediction.
        fps (`float`, *optional*): Control rate in Hz; the time axis is then in seconds, else in frames.
        boundaries (`Sequence[int]`): Frames where a new chunk or episode begins, marked by thin lines.
        title (`str`): Above the panels.
        theme (`str`): `"light"` or `"dark"`.

    Raises:
        ValueError: for shapes that disagree, or a rate that is not positive.
        ImportError: where matplotlib is not installed, with the command that installs it.
    """
    truth, model = np.asarray(recorded, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if truth.ndim != 2 or 0 in truth.shape or model.shape != truth.shape:
        raise ValueError(f"Both must have one shape [N, A], found {list(truth.shape)} and {list(model.shape)}.")
    band = _band(samples, truth.shape)
    labels = _axis_labels(names, units, truth.shape[1])
    if fps is not None and not fps > 0:
        raise ValueError(f"`fps` must be positive, found {fps}.")
    time = np.arange(len(truth)) / (fps or 1.0)
    figure = _figure(1.35 * truth.shape[1] + 0.9, theme)
    panels = figure.subplots(truth.shape[1], 1, sharex=True, squeeze=False)[:, 0]
    for dim, axes in enumerate(panels):
        _style(axes, theme)
        _draw_actions(axes, time, truth[:, dim], model[:, dim], None if band is None else band[:, :, dim], theme)
        axes.grid(visible=not boundaries, axis="x")
        for frame in boundaries:
            axes.axvline(time[min(frame, len(time) - 1)], color=_INKS[theme][2], linewidth=0.8, zorder=0)
        axes.set_title(labels[dim], loc="left", fontsize=11, color=_INKS[theme][1])
        axes.set_xlim(time[0], time[-1] if len(time) > 1 else time[0] + 1)
    panels[-1].set_xlabel("time, s" if fps else "frame")
    _finish(figure, title, theme, panels[0])
    return figure


def plot_loss_curve(
    steps: ArrayLike | Mapping[str, ArrayLike],
    losses: Mapping[str, ArrayLike],
    *,
    log_scale: bool | None = None,
    ylabel: str = "loss",
    title: str = "",
    theme: Theme = "light",
) -> Figure:
    """Losses over optimiser steps.

    Args:
        steps (`ArrayLike` of shape `[n]`, or a mapping of such): Steps, shared or one array for each curve (a held-out
            loss is logged less often).
        losses (`Mapping[str, ArrayLike]`): Curves by name, each of shape `[n]`; gaps where not finite.
        log_scale (`bool`, *optional*): Logarithmic axis; by default where all values are positive and span more than
            a factor of 20.
        ylabel (`str`), title (`str`): Labels.
        theme (`str`): `"light"` or `"dark"`.

    Raises:
        ValueError: for no curve, or lengths that disagree.
    """
    if not losses:
        raise ValueError("At least one loss curve is needed.")
    figure = _figure(3.4, theme)
    axes = figure.subplots()
    _style(axes, theme)
    every = []
    for i, (name, values) in enumerate(losses.items()):
        x = np.asarray(steps[name] if isinstance(steps, Mapping) else steps, dtype=np.float64)
        y = np.asarray(values, dtype=np.float64)
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(f"{name}: steps and losses must have one shape [n], found {x.shape} and {y.shape}.")
        y = np.where(np.isfinite(y), y, np.nan)
        marker = "o" if len(x) < 3 else ""
        axes.plot(x, y, color=_colour(i, theme), linestyle=_DASHES[i % 4], marker=marker, label=plain_text(name))
        every.append(y[~np.isnan(y)])
    if _wants_log(np.concatenate(every)) if log_scale is None else log_scale:
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    _finish(figure, title, theme, axes if len(losses) > 1 else None)
    return figure


def plot_error_bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[IntervalLike]],
    *,
    xlabel: str = "",
    percent: bool = False,
    reference: float | None = None,
    title: str = "",
    theme: Theme = "light",
) -> Figure:
    """Estimates with their intervals, one row per label and one mark per series; rows run downwards.

    Args:
        labels (`Sequence[str]`): Tasks, metrics or dimensions.
        series (`Mapping[str, Sequence[Interval]]`): For each model, one interval per label; bounds that are NaN are
            not drawn.
        xlabel (`str`): What is measured, with its unit.
        percent (`bool`): Multiply by 100.
        reference (`float`, *optional*): A dashed line at this value (1 for a ratio), before the factor.
        title (`str`): Above the chart.
        theme (`str`): `"light"` or `"dark"`.

    Raises:
        ValueError: for no label or series, or a series of another length.
    """
    if not labels or not series:
        raise ValueError("At least one label and one series are needed.")
    for name, intervals in series.items():
        if len(intervals) != len(labels):
            raise ValueError(f"{name}: expected {len(labels)} intervals, found {len(intervals)}.")
    figure = _figure(1.0 + len(labels) * (0.2 + 0.24 * len(series)), theme)
    axes = figure.subplots()
    _style(axes, theme)
    factor = 100.0 if percent else 1.0
    for i, (name, intervals) in enumerate(series.items()):
        offset = (i - (len(series) - 1) / 2) * 0.7 / len(series)
        _draw_intervals(
            axes,
            np.array(range(len(labels)), dtype=np.float64) + offset,
            intervals,
            factor,
            i,
            plain_text(name),
            theme,
        )
    if reference is not None:
        axes.axvline(factor * reference, color=_INKS[theme][1], linestyle=(0, (4, 3)), linewidth=1.0, zorder=0)
    axes.set_yticks(range(len(labels)), [plain_text(str(label)) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(xlabel)
    _finish(figure, title, theme, axes if len(series) > 1 else None)
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# Helpers
# ---------------------------------------------------------------------------------------------------------------------


def _figure(height: float, theme: Theme) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    if theme not in _INKS:
        raise ValueError(f'`theme` must be "light" or "dark", found {theme!r}.')
    figure = Figure(figsize=(WIDTH, height), dpi=160, layout="constrained", facecolor=_INKS[theme][0])
    FigureCanvasAgg(figure)
    return figure


def _style(axes: Axes, theme: Theme) -> None:
    paper, ink, line = _INKS[theme]
    axes.set_facecolor(paper)
    axes.grid(visible=True, color=line, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=ink, labelsize=11, length=3)
    axes.xaxis.label.set(color=ink, fontsize=11)
    axes.yaxis.label.set(color=ink, fontsize=11)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(line)


def _finish(figure: Figure, title: str, theme: Theme, legend_of: Axes | None) -> None:
    """Title above and legend below the panels, in the theme's ink."""
    ink = _INKS[theme][1]
    if title:
        figure.suptitle(plain_text(title), color=ink, fontsize=13, x=0.01, ha="left")
    if legend_of is not None:
        handles, labels = legend_of.get_legend_handles_labels()
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
        for text in legend.get_texts():
            text.set(color=ink, fontsize=11)


def _draw_actions(
    axes: Axes, time: FloatArray, truth: FloatArray, model: FloatArray, band: FloatArray | None, theme: Theme
) -> None:
    if band is not None:
        axes.fill_between(time, band[0], band[1], color=_colour(1, theme), alpha=0.25, linewidth=0, label="5 to 95 %")
    for i, (name, values) in enumerate((("recorded", truth), ("predicted", model))):
        marker = "o" if len(time) < 3 else ""
        axes.plot(
            time, values, color=_colour(i, theme), linestyle=_DASHES[i], linewidth=1.7, marker=marker, label=name
        )


def _draw_intervals(
    axes: Axes, rows: FloatArray, intervals: Sequence[IntervalLike], factor: float, i: int, name: str, theme: Theme
) -> None:
    colour = _colour(i, theme)
    values = factor * np.array([[v.estimate, v.low, v.high] for v in intervals], dtype=np.float64)
    axes.hlines(rows, values[:, 1], values[:, 2], colors=colour, linewidth=2.2)
    axes.plot(values[:, 0], rows, linestyle="", marker="osD^v"[i % 5], markersize=7, color=colour, label=name)


def _band(samples: ArrayLike | None, shape: tuple[int, ...]) -> FloatArray | None:
    if samples is None:
        return None
    array = np.asarray(samples, dtype=np.float64)
    if array.ndim != 3 or array.shape[1:] != shape or array.shape[0] < 2:
        raise ValueError(f"`samples` must have shape [S >= 2, {shape[0]}, {shape[1]}], found {list(array.shape)}.")
    return np.quantile(array, [0.05, 0.95], axis=0)


def _axis_labels(names: Sequence[str] | None, units: Sequence[str] | None, count: int) -> list[str]:
    for what, given in (("names", names), ("units", units)):
        if given is not None and len(given) != count:
            raise ValueError(f"`{what}` must name {count} dimensions, found {len(given)}.")
    labels = [plain_text(str(name)) for name in names] if names is not None else [f"action[{i}]" for i in range(count)]
    if units is None:
        return labels
    return [f"{label}, {plain_text(str(unit))}" if unit else label for label, unit in zip(labels, units, strict=True)]


def _colour(i: int, theme: Theme) -> str:
    cycle = _CYCLES[theme]
    return OKABE_ITO[cycle[i % len(cycle)]]


def _wants_log(values: FloatArray) -> bool:
    return values.size > 1 and bool(values.min() > 0 and values.max() > 20 * values.min())
