"""Projection-space similarity against subspaces made by hand, and what it reads off a model."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from injected_noise import losses

from training_st4vla.gradient_similarity import column_space, gradient_similarity, projection_space_similarity


def spanned(*columns: list[float]) -> torch.Tensor:
    """A matrix with these columns, mixed by a random regular matrix: the same column space."""
    basis = torch.tensor(columns).T
    mix = torch.randn(len(columns), 9, generator=torch.Generator().manual_seed(len(columns)))
    return basis @ mix


def test_identical_subspaces_give_one_and_orthogonal_ones_zero() -> None:
    plane = spanned([1.0, 0, 0, 0], [0, 1.0, 0, 0])
    same_plane = spanned([1.0, 1.0, 0, 0], [1.0, -1.0, 0, 0]) * 1e-4
    other_plane = spanned([0, 0, 1.0, 0], [0, 0, 1.0, 1.0])
    line_within = spanned([3.0, 4.0, 0, 0])
    for second, expected, ranks in (
        (same_plane, 1.0, (2, 2)),
        (other_plane, 0.0, (2, 2)),
        (line_within, 1.0, (2, 1)),
    ):
        found = projection_space_similarity(plane, second, rank=0.999999)
        assert found.pss == pytest.approx(expected, abs=1e-6)
        assert found.ranks == ranks
        assert found.chance == 0.5


@pytest.mark.parametrize("degrees", [10, 30, 45, 80])
def test_an_angle_gives_its_squared_cosine(degrees: float) -> None:
    angle = math.radians(degrees)
    lines = spanned([1.0, 0, 0]), spanned([math.cos(angle), math.sin(angle), 0])
    assert projection_space_similarity(*lines, rank=1).pss == pytest.approx(math.cos(angle) ** 2, abs=1e-6)
    # Planes that share one direction and differ by the angle in the other.
    planes = spanned([1.0, 0, 0], [0, 0, 1.0]), spanned([math.cos(angle), math.sin(angle), 0], [0, 0, 1.0])
    expected = (math.cos(angle) ** 2 + 1) / 2
    assert projection_space_similarity(*planes, rank=2).pss == pytest.approx(expected, abs=1e-6)


def test_it_is_the_trace_of_the_product_of_projectors() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(12, 5, generator=generator), torch.randn(12, 3, generator=generator)
    projectors = [matrix @ torch.linalg.pinv(matrix) for matrix in (first, second)]
    expected = torch.trace(projectors[0] @ projectors[1]).item() / 3
    assert projection_space_similarity(first, second, rank=99).pss == pytest.approx(expected, abs=1e-5)


def test_random_subspaces_come_to_their_share_of_the_space() -> None:
    generator = torch.Generator().manual_seed(2)
    found = [
        projection_space_similarity(
            torch.randn(40, 8, generator=generator), torch.randn(40, 4, generator=generator), rank=99
        )
        for _ in range(200)
    ]
    assert found[0].chance == 8 / 40
    assert sum(one.pss for one in found) / len(found) == pytest.approx(8 / 40, abs=0.01)


def test_the_rank_rule_counts_energy_or_dimensions_and_never_noise() -> None:
    matrix = torch.diag(torch.tensor([10.0, 3.0, 1.0, 1e-9]))  # squared: 100, 9, 1 of 110
    ranks = {rule: column_space(matrix, rule).shape[1] for rule in (0.5, 0.9, 0.95, 0.999, 1, 2, 50)}
    assert ranks == {0.5: 1, 0.9: 1, 0.95: 2, 0.999: 3, 1: 1, 2: 2, 50: 3}
    assert column_space(torch.zeros(3, 3)).shape == (3, 0)
    for wrong in (0, -1, 1.5):
        with pytest.raises(ValueError, match="rank: expected a share between 0 and 1 or a whole number"):
            column_space(matrix, wrong)
    with pytest.raises(ValueError, match="a gradient is zero"):
        projection_space_similarity(matrix, torch.zeros(4, 4))
    with pytest.raises(ValueError, match="equally many rows, found 4 and 3"):
        projection_space_similarity(matrix, torch.ones(3, 4))


@pytest.fixture
def batch(make_inputs: Callable, processor: Any, grounding_samples: list) -> dict[str, Any]:
    """Two action samples and three grounding samples with a loss each."""
    from training_st4vla.data.collators import GroundingCollator

    return {
        **make_inputs(2, 2),
        "actions": torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)),
        "grounding_inputs": GroundingCollator(processor)(grounding_samples[:3]),
    }


def test_gradients_of_both_losses_are_compared_and_left_alone(model: Any, batch: dict[str, Any]) -> None:
    layers = r"vlm\.model\.language_model\.layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)\.weight"
    torch.manual_seed(0)
    found = gradient_similarity(model, batch, layers, rank=4)
    assert len(found) == 4  # two layers of two matrices
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.manual_seed(0)
    outputs = model(**batch)
    name = "vlm.model.language_model.layers.1.mlp.down_proj.weight"
    weight = dict(model.named_parameters())[name]
    gradients = [
        torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (outputs.lm_loss, outputs.action_loss)
    ]
    assert found[name] == projection_space_similarity(*gradients, rank=4)
    assert 0 < found[name].pss < 1


def test_a_loss_has_the_subspace_of_itself(model: Any, batch: dict[str, Any]) -> None:
    """With the same gradient on both sides the similarity is 1 whatever the rank rule."""

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, **inputs: Any) -> Any:
            outputs = self.inner(**inputs)
            outputs.action_loss = 3.0 * outputs.lm_loss
            return outputs

    found = gradient_similarity(Twice(), batch, r"inner\.vlm\..*layers\.\d+\.self_attn\.o_proj\.weight")
    assert [one.pss for one in found.values()] == pytest.approx([1.0, 1.0], abs=1e-5)


def test_names_that_match_nothing_trained_are_refused(model: Any, batch: dict[str, Any]) -> None:
    from training_st4vla.errors import UserError

    with pytest.raises(UserError, match="--similarity-layers: no trained matrix of the model matches"):
        gradient_similarity(model, batch, r"planner\..*")
    assert gradient_similarity(model, batch, r"action_expert\.output_proj\.weight") == {}  # no text loss there
    torch.nn.init.zeros_(model.action_expert.output_proj.weight)  # as in a new model
    assert gradient_similarity(model, batch) == {}


def test_a_run_logs_it_and_is_not_changed_by_it(train: Callable[..., Any], grounding_samples: list) -> None:
    plain = train("plain", grounding=grounding_samples, grounding_ratio=0.5)
    watched = train(
        "watched", grounding=grounding_samples, grounding_ratio=0.5, similarity_steps=2, similarity_samples=3
    )
    assert losses(watched) == losses(plain)
    assert losses(watched, "grad_norm") == losses(plain, "grad_norm")
    entries = [entry for entry in watched.state.log_history if "pss" in entry]
    assert [entry["step"] for entry in entries] == [2, 4]
    for entry in entries:
        assert 0 < entry["pss"] <= 1
        assert max(entry["pss_rank_spatial"], entry["pss_rank_action"]) / 64 <= entry["pss_chance"] < 1


def test_without_grounding_samples_it_is_refused(train: Callable[..., Any]) -> None:
    from training_st4vla.errors import UserError

    with pytest.raises(UserError, match="--similarity-steps: needs grounding samples"):
        train(similarity_steps=2)
