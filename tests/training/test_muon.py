"""Muon and AdamW as one optimizer."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from training_st4vla.muon import Muon, MuonAdamW, orthogonalize


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"embed": nn.Embedding(5, 4), "mix": nn.Linear(4, 6), "out": nn.Linear(6, 3, bias=False)})


def backward(net: Any, seed: int) -> None:
    ids = torch.randint(0, 5, (7,), generator=torch.Generator().manual_seed(seed))
    net.zero_grad()
    net["out"](net["mix"](net["embed"](ids)).tanh()).square().mean().backward()


@pytest.mark.parametrize(("hardware", "tolerance"), [(True, 0.0), (False, 5e-4)])
def test_each_part_does_what_it_does_alone(monkeypatch: Any, hardware: bool, tolerance: float) -> None:
    """In float32, where bfloat16 would be emulated, the steps differ from torch's by the rounding of theirs."""
    monkeypatch.setattr("training_st4vla.muon.multiplies_bfloat16", lambda device: hardware)
    ours, theirs = network(), network()
    both = MuonAdamW(list(ours.named_parameters()), lr=0.01, weight_decay=0.1)
    muon = torch.optim.Muon(
        [theirs["mix"].weight, theirs["out"].weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        [theirs["embed"].weight, theirs["mix"].bias], lr=0.01, weight_decay=0.1, betas=(0.9, 0.95)
    )
    for step in range(3):
        backward(ours, step)
        backward(theirs, step)
        both.step()
        muon.step()
        adamw.step()
    for (name, mine), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("shape", [(40, 16), (16, 40), (24, 24)])
def test_orthogonalizing_brings_all_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrices = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices *= torch.tensor([7.0, 0.01])[:, None, None]
    values = torch.linalg.svdvals(orthogonalize(matrices, (3.4445, -4.7750, 2.0315), 5, 1e-7))
    assert 0.3 < values.min() <= values.max() < 1.3
    flat = orthogonalize(torch.zeros(1, *shape), (3.4445, -4.7750, 2.0315), 5, 1e-7)
    assert not flat.any()


@pytest.mark.parametrize("together", [1 << 26, 10, 1])
def test_matrices_of_one_shape_step_together_as_alone(monkeypatch: Any, together: int) -> None:
    monkeypatch.setattr("training_st4vla.muon.multiplies_bfloat16", lambda device: False)
    monkeypatch.setattr("training_st4vla.muon._ELEMENTS_TOGETHER", together)
    shapes = [(3, 5), (4, 4), (3, 5), (5, 3), (3, 5), (4, 4)]
    draw = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
    alone = [nn.Parameter(weight.detach().clone()) for weight in ours]
    optimizers = [Muon(ours, 0.01, 0.1), *(Muon([weight], 0.01, 0.1) for weight in alone)]
    for _ in range(3):
        for weight, other in zip(ours, alone, strict=True):
            weight.grad = torch.randn(weight.shape, generator=draw)
            other.grad = weight.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for weight, other in zip(ours, alone, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-6)


def test_a_schedule_reaches_both_and_a_checkpoint_goes_on_exactly() -> None:
    net = network()
    optimizer = MuonAdamW(list(net.named_parameters()), lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 2 else 0.0)
    for step in range(2):
        backward(net, step)
        optimizer.step()
        schedule.step()
    frozen = copy.deepcopy(net.state_dict())
    backward(net, 2)
    optimizer.step()
    assert all(torch.equal(frozen[name], value) for name, value in net.state_dict().items())

    def go_on(first: nn.Module, saved: dict[str, Any] | None) -> list[torch.Tensor]:
        again = MuonAdamW(list(first.named_parameters()), lr=0.01)
        if saved is not None:
            again.load_state_dict(saved)
        backward(first, 3)
        again.step()
        return [value.clone() for value in first.parameters()]

    start = network()
    one = MuonAdamW(list(start.named_parameters()), lr=0.01)
    backward(start, 0)
    one.step()
    saved, copied = copy.deepcopy(one.state_dict()), copy.deepcopy(start)
    backward(start, 3)
    one.step()
    resumed = go_on(copied, saved)
    for value, reference in zip(resumed, start.parameters(), strict=True):
        torch.testing.assert_close(value, reference, rtol=0, atol=0)
    fresh = go_on(copy.deepcopy(copied), None)
    assert not all(torch.equal(value, other) for value, other in zip(fresh, resumed, strict=True))
