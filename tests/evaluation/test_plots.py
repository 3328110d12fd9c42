"""Charts: right shapes in, figures out, clear errors otherwise."""

import numpy as np
import pytest

from training_st4vla.evaluation.intervals import Interval
from training_st4vla.evaluation.plots import OKABE_ITO, plot_actions, plot_error_bars, plot_loss_curve

pytest.importorskip("matplotlib")
THEMES = ("light", "dark")


@pytest.mark.parametrize("theme", THEMES)
def test_actions_have_one_panel_per_dimension(theme: str) -> None:
    rng = np.random.default_rng(0)
    recorded, samples = rng.normal(size=(30, 3)), rng.normal(size=(8, 30, 3))
    figure = plot_actions(
        recorded, samples.mean(axis=0), names=["x", "y", "g"], units=["m", "m", ""], samples=samples, fps=10,
        boundaries=[0, 8, 16], title="Episode 3", theme=theme,
    )  # fmt: skip
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["x, m", "y, m", "g"]
    assert figure.axes[-1].get_xlabel() == "time, s"
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_array_equal(lines["recorded"].get_ydata(), recorded[:, 0])
    assert {lines["recorded"].get_color(), lines["predicted"].get_color()} <= set(OKABE_ITO.values())
    assert lines["recorded"].get_linestyle() != lines["predicted"].get_linestyle()
    for dim, axes in enumerate(figure.axes):
        (band,) = axes.collections
        low, high = np.quantile(samples[:, :, dim], (0.05, 0.95), axis=0)
        edges = band.get_paths()[0].vertices[:, 1]
        assert set(np.round([*low, *high], 9)) == set(np.round(edges, 9)), "5 to 95 % of the samples, at every step"
    figure.canvas.draw()


def test_a_single_frame_is_visible() -> None:
    figure = plot_actions([[1.0, 2.0]], [[1.0, 3.0]])
    assert figure.axes[0].lines[0].get_marker() == "o"
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predicted": np.zeros((4, 2))}, r"\[N, A\]"),
        ({"samples": np.zeros((1, 5, 2))}, "samples"),
        ({"names": ["x"]}, "names"),
        ({"fps": 0.0}, "fps"),
        ({"theme": "sepia"}, "theme"),
    ],
)
def test_bad_action_plots_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_actions(**{"recorded": np.zeros((5, 2)), "predicted": np.zeros((5, 2)), **arguments})


def test_loss_curves_choose_their_axis() -> None:
    falling = plot_loss_curve([1, 2, 3], {"train": [10.0, 1.0, 0.1], "held out": [9.0, np.nan, 0.2]})
    assert falling.axes[0].get_yscale() == "log"
    assert plot_loss_curve([1, 2], {"train": [1.0, 0.9]}).axes[0].get_yscale() == "linear"
    own = plot_loss_curve({"train": [1, 2, 3], "held out": [3]}, {"train": [3, 2, 1], "held out": [2]}, theme="dark")
    assert [len(line.get_xdata()) for line in own.axes[0].lines] == [3, 1]
    with pytest.raises(ValueError, match="train"):
        plot_loss_curve([1, 2], {"train": [1.0]})
    with pytest.raises(ValueError, match="At least one"):
        plot_loss_curve([1], {})


@pytest.mark.parametrize("theme", THEMES)
def test_error_bars(theme: str) -> None:
    intervals = [Interval(0.5, 0.3, 0.7, 20, "wilson"), Interval(0.9, np.nan, np.nan, 1, "cluster bootstrap")]
    figure = plot_error_bars(
        ["pick", "place"], {"base": intervals, "ours": intervals[::-1]}, percent=True, reference=0.5, theme=theme
    )
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pick", "place"]
    assert axes.yaxis_inverted()
    figure.canvas.draw()
    with pytest.raises(ValueError, match="expected 2 intervals"):
        plot_error_bars(["a", "b"], {"base": intervals[:1]})
    with pytest.raises(ValueError, match="At least one"):
        plot_error_bars([], {})


def test_no_window_state_is_left() -> None:
    import sys

    plot_loss_curve([1, 2], {"train": [1.0, 0.9]})
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
