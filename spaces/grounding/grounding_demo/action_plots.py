"""Action chunks as small plots, one per dimension, with names and units of the action contract. Plain SVG, escaped."""

from collections.abc import Sequence
from html import escape

import numpy as np

CSS = """
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); gap: 10px;
  --predicted: #0072b2; --recorded: #d55e00; }
.dark .plots { --predicted: #56b4e9; --recorded: #e69f00; }
.plots figure { margin: 0; padding: 8px 10px 6px; border: 1px solid var(--border-color-primary); border-radius: 8px;
  background: var(--background-fill-primary); min-width: 0; }
.plots figcaption { font-size: 13px; font-weight: 600; color: var(--body-text-color); overflow-wrap: anywhere; }
.plots figcaption span { font-weight: 400; color: var(--body-text-color-subdued); }
.plots svg { display: block; width: 100%; height: 104px; overflow: visible; }
.plots path { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; }
.plots .predicted { stroke: var(--predicted); }
.plots .recorded { stroke: var(--recorded); stroke-dasharray: 5 4; }
.plots .zero { stroke: var(--border-color-primary); stroke-width: 1; }
.plots .ends { display: flex; justify-content: space-between; font-size: 11.5px; color: var(--body-text-color-subdued);
  font-variant-numeric: tabular-nums; }
.key { font-size: 13px; display: flex; gap: 18px; margin: 0 0 8px; --predicted: #0072b2; --recorded: #d55e00; }
.dark .key { --predicted: #56b4e9; --recorded: #e69f00; }
.key i { display: inline-block; width: 26px; height: 0; border-top: 3px solid var(--predicted); vertical-align: 4px;
  margin-right: 6px; }
.key i.recorded { border-top: 3px dashed var(--recorded); }
"""
_WIDTH, _HEIGHT = 200.0, 100.0


def plots_html(
    predicted: np.ndarray,
    names: Sequence[str],
    units: Sequence[str],
    hz: float | None,
    recorded: np.ndarray | None = None,
) -> str:
    """
    One plot per dimension.

    Args:
        predicted, recorded (`np.ndarray` of shape `(steps, dim)`): in `units`; NaN leaves a gap.
        hz: actions per second; without it the axis counts steps.
    """
    steps = len(predicted)
    span = f"{steps} steps" if hz is None else f"{steps / hz:.3g} s, {steps} steps"
    key = '<p class="key"><span><i></i>predicted</span><span><i class="recorded"></i>recorded</span></p>'
    plots = "".join(
        _plot(predicted[:, index], name, unit, span, None if recorded is None else recorded[:, index])
        for index, (name, unit) in enumerate(zip(names, units, strict=True))
    )
    return f'{key if recorded is not None else ""}<div class="plots">{plots}</div>'


def _plot(predicted: np.ndarray, name: str, unit: str, span: str, recorded: np.ndarray | None) -> str:
    everything = predicted if recorded is None else np.concatenate([predicted, recorded])
    low, high = float(np.nanmin(everything)), float(np.nanmax(everything))
    room = max((high - low) * 0.08, 1e-6 * max(abs(low), abs(high), 1.0))
    bottom, top = low - room, high + room
    lines = _path(predicted, bottom, top, "predicted")
    if recorded is not None:
        lines = _path(recorded, bottom, top, "recorded") + lines
    if bottom < 0 < top:
        level = _HEIGHT * top / (top - bottom)
        lines = f'<path class="zero" d="M0 {level:.2f}H{_WIDTH:g}"/>' + lines
    title = escape(f"{name} in {unit}: from {low:.4g} to {high:.4g}")
    return (
        f"<figure><figcaption>{escape(name)} <span>[{escape(unit)}]</span></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" role="img" aria-label="{title}">'
        f"{lines}</svg>"
        f'<div class="ends"><span>{low:.3g} … {high:.3g}</span><span>{escape(span)}</span></div></figure>'
    )


def _path(values: np.ndarray, bottom: float, top: float, kind: str) -> str:
    steps = np.linspace(0, _WIDTH, len(values)) if len(values) > 1 else np.array([0.0])
    heights = _HEIGHT * (top - values) / (top - bottom)
    pieces, pen = [], "M"
    for x, y in zip(steps, heights, strict=True):
        if np.isnan(y):
            pen = "M"
            continue
        pieces.append(f"{pen}{x:.2f} {y:.2f}")
        pen = "L"
    return f'<path class="{kind}" d="{"".join(pieces)}"/>'


__all__ = ["CSS", "plots_html"]
