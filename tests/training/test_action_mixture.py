"""A mixture of three datasets: trained together, each sample's loss is the one it has alone."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from injected_noise import losses
from mixture_toy import write_three

ACTION_DIM, STATE_DIM, CHUNK = 8, 8, 5


@pytest.fixture(scope="module")
def mixture_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_three(tmp_path_factory.mktemp("three"))


@pytest.fixture
def wide_model(build_model: Callable[..., Any]) -> Any:
    """A model as wide as the widest dataset, without dropout."""
    expert = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "condition_dropout": 0.0}
    return build_model(query_dropout=0.0, action_expert=expert, action_dim=ACTION_DIM, state_dim=STATE_DIM)


@pytest.fixture
def mixed(mixture_file: Path, wide_model: Any, processor: Any) -> Any:
    """The mixture, opened; the processor knows its contracts."""
    from training_st4vla.data.action_mixture import fill_up, mix, open_source, settle_contracts
    from training_st4vla.data.sources import read_mixture

    sources = read_mixture(mixture_file)
    datasets = [open_source(source, CHUNK, processor) for source in sources]
    fill_up(processor, wide_model.config, datasets)
    settle_contracts(sources, datasets, processor, "training")
    return mix(sources, datasets, seed=3)


def test_each_dataset_keeps_its_own_contract(mixed: Any, processor: Any) -> None:
    contracts = {key: processor.contract(key) for key in processor.action_contracts}
    assert {key: (c.action.dim, len(c.cameras), c.control_hz) for key, c in contracts.items()} == {
        "five": (7, 1, 5.0),
        "ten": (8, 2, 10.0),
        "thirty": (7, 2, 30.0),
    }
    assert contracts["thirty"].action.statistics["max"][0] > 50 * contracts["five"].action.statistics["max"][0]
    assert [contracts[key].state and contracts[key].state.dim for key in ("five", "ten", "thirty")] == [None, 8, 4]
    assert (processor.action_dim, processor.state_dim) == (ACTION_DIM, STATE_DIM)
    assert [round(number / len(mixed), 1) for number in mixed.draws.values()] == [0.2, 0.4, 0.4]


def batch_of(samples: list[dict[str, Any]], processor: Any) -> dict[str, Any]:
    from training_st4vla.data.collators import ActionCollator

    inputs = ActionCollator(processor)(samples)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(64, 2, CHUNK, ACTION_DIM, generator=generator)
    timestep = torch.randint(0, 100, (64, 2), generator=generator)
    rows = [sample["index"] for sample in samples]
    return {**inputs, "noise": noise[rows], "timestep": timestep[rows]}


def test_each_sample_has_the_loss_it_has_alone(mixed: Any, processor: Any, wide_model: Any) -> None:
    samples = [part[index] for part in mixed.datasets.values() for index in (0, 8)]
    batch = batch_of(samples, processor)
    assert batch["view_mask"].sum(dim=1).tolist() == [1, 1, 2, 2, 2, 2]
    assert batch["action_dim_mask"].sum(dim=1).tolist() == [7, 7, 8, 8, 7, 7]
    assert batch["state_mask"].tolist() == [False, False, True, True, True, True]
    assert (batch["actions"][:2, :, 7] == 0).all()
    assert (batch["state"][4:, 4:] == 0).all()
    with torch.no_grad():
        together = wide_model(**batch).action_losses
        alone = torch.cat([wide_model(**batch_of([sample], processor)).action_losses for sample in samples])
    assert len(set(together.tolist())) == 6
    torch.testing.assert_close(together, alone, rtol=2e-5, atol=1e-6)


def test_what_is_filled_up_reaches_nothing(mixed: Any, processor: Any, wide_model: Any) -> None:
    batch = batch_of([mixed.datasets[name][0] for name in mixed.datasets], processor)
    changed = {**batch, "noise": batch["noise"].clone(), "actions": batch["actions"].clone()}
    changed["noise"][0, ..., 7] += 3
    changed["actions"][0, :, 7] -= 5
    changed["state"] = batch["state"].clone()
    changed["state"][0] = 7.0  # of a sample without state
    with torch.no_grad():
        expected, found = (wide_model(**inputs).action_losses for inputs in (batch, changed))
        sampling = {k: v for k, v in batch.items() if k not in ("actions", "action_is_pad", "noise", "timestep")}
        sampled = wide_model.sample_actions(**sampling, noise=batch["noise"][:, 0])
        again = wide_model.sample_actions(**sampling, noise=changed["noise"][:, 0])
        without_state = {**batch, "state_mask": torch.tensor([False, False, True])}
        assert wide_model(**without_state).action_losses[1] != expected[1]
    assert torch.equal(found, expected)
    assert torch.equal(sampled, again)
    assert (sampled[[0, 2], :, 7] == 0).all()
    assert (sampled[1, :, 7] != 0).all()
    raw = processor.post_process_actions(sampled[:1], "five")
    assert raw.shape == (1, CHUNK, 7)
    assert set(np.unique(raw[..., 6])) <= {0.0, 1.0}


def run(mixed: Any, processor: Any, model: Any, folder: Path, resume: Path | None = None, **settings: Any) -> Any:
    from training_st4vla.action_config import SpatialActionConfig
    from training_st4vla.action_trainer import SpatialActionTrainer
    from training_st4vla.data.augmentation import Augmentation, AugmentedDataset

    values = {"output_dir": str(folder), "per_device_train_batch_size": 6, "logging_steps": 1, "seed": 3}
    values |= {"learning_rate": 1e-3, "vlm_learning_rate": 1e-3, "action_expert_learning_rate": 1e-3}
    values |= {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    trainer = SpatialActionTrainer(
        model=copy.deepcopy(model),
        args=SpatialActionConfig(**{**values, **settings}),
        train_dataset=AugmentedDataset(mixed, Augmentation(), seed=3),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


def test_a_mixture_trains_alike_with_workers_and_resumed(
    mixed: Any, processor: Any, wide_model: Any, tmp_path: Path
) -> None:
    steps = {"max_steps": 12, "save_strategy": "steps", "save_steps": 5, "save_total_limit": 5}
    whole = losses(run(mixed, processor, wide_model, tmp_path / "whole", **steps))  # 10 batches are an epoch
    assert sum(whole[-3:]) < 0.9 * sum(whole[:3])
    resumed = {"resume": tmp_path / "whole" / "checkpoint-5", "dataloader_num_workers": 3}
    again = run(mixed, processor, wide_model, tmp_path / "again", **{**steps, **resumed})
    assert losses(again) == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_dim": None}, "action dimension: the model has 8, the dataset 7"),
        ({"action_dim": 9}, "action_dim: the model has 8, its processor fills up to 9"),
        ({"state_dim": None}, "state dimension: the model has 8, the dataset None"),
    ],
)
def test_filling_up_is_never_silent(change: dict, message: str, mixed: Any, processor: Any, wide_model: Any) -> None:
    from training_st4vla.errors import UserError
    from training_st4vla.fit import check_fit

    check_fit(wide_model, processor, mixed)
    for name, value in change.items():
        setattr(processor, name, value)
    with pytest.raises(UserError, match=message):
        check_fit(wide_model, processor, mixed)


def test_the_processor_remembers_its_widths(mixed: Any, processor: Any, tmp_path: Path, draw_view: Any) -> None:
    from processing_st4vla import ST4VLAProcessor

    processor.save_pretrained(tmp_path)
    loaded = ST4VLAProcessor.from_pretrained(tmp_path)
    assert (loaded.action_dim, loaded.state_dim) == (ACTION_DIM, STATE_DIM)
    acting = loaded(images=[[draw_view(0)]], text=["push"], dataset_key="five")
    assert acting["action_dim_mask"].tolist() == [[True] * 7 + [False]]
    assert (acting["state_mask"].tolist(), acting["state"].abs().sum()) == ([False], 0)
    with pytest.raises(ValueError, match="state: expected one for every sample whose action contract declares"):
        loaded(images=[[draw_view(0)]], text=["push"], dataset_key="five", state=[[0.0] * 8])


def test_streamed_order_is_kept_and_resumed(mixed: Any, processor: Any, wide_model: Any, tmp_path: Path) -> None:
    from torch.utils.data import SequentialSampler

    from training_st4vla.data.mixtures import MixtureDataset
    from training_st4vla.data.streaming import StreamedOrder

    streamed = MixtureDataset({name: StreamedOrder(part, 1) for name, part in mixed.datasets.items()}, seed=3)
    steps = {"max_steps": 12, "save_strategy": "steps", "save_steps": 11, "save_total_limit": 5}
    first = run(streamed, processor, wide_model, tmp_path / "whole", **steps)
    assert isinstance(first._get_train_sampler(), SequentialSampler)
    assert int(streamed._epoch) == 1  # the second epoch has begun, in another order
    resumed = run(streamed, processor, wide_model, tmp_path / "again", tmp_path / "whole" / "checkpoint-11", **steps)
    assert losses(resumed) == losses(first)
