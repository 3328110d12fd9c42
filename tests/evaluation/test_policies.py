"""What drives an evaluation: our models and LeRobot's, with stand-ins for the model and no simulator."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from training_st4vla.commands.evaluate_policy import EvaluatePolicyArguments, load_policy
from training_st4vla.errors import UserError
from training_st4vla.evaluation.chunking import AdaptiveEnsemble
from training_st4vla.evaluation.policies import LeRobotPolicy, ModelPolicy, is_lerobot_checkpoint

CHUNK, DIM = 4, 3


class Inputs(dict):
    """What a processor returns."""

    def to(self, device: Any) -> "Inputs":
        return self


class StandInModel:
    """Predicts the noise it is given, and counts how often it is asked; dimension 2 is a gripper's sign."""

    device = torch.device("cpu")
    config = SimpleNamespace(chunk_size=CHUNK, action_dim=DIM, state_dim=None)

    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []
        self.asked: list[dict[str, Any]] = []

    def sample_actions(self, noise: torch.Tensor, **given: Any) -> torch.Tensor:
        actions = torch.cat([noise[..., :2], noise[..., 2:].sign()], dim=-1)
        self.chunks.append(actions.double().numpy())
        self.asked.append(given)
        return actions


class StandInProcessor:
    """Hands on what it is given."""

    def __init__(self, **contract: Any) -> None:
        values = {"gripper_dims": (2,), "cameras": ("observation.images.front",), "state": None, **contract}
        self._contract = SimpleNamespace(require_known=lambda purpose: None, **values)

    def contract(self, dataset_key: str | None) -> Any:
        return self._contract

    def __call__(self, images: Any, text: Any, state: Any, dataset_key: Any) -> Inputs:
        return Inputs(images=images, text=text)

    def post_process_actions(self, actions: torch.Tensor, dataset_key: Any) -> torch.Tensor:
        return actions


def drive(policy: ModelPolicy, seeds: list[int], steps: int) -> np.ndarray:
    """The actions `[steps, B, A]` of one batch of episodes."""
    policy.reset(None, seeds)
    observation = {"pixels": {"front": np.zeros((len(seeds), 8, 8, 3), np.uint8)}}
    return np.stack([policy.act(observation, ["do it"] * len(seeds)) for _ in range(steps)])


@pytest.mark.parametrize(("wanted", "executed", "asked"), [(None, 2, 3), (1, 1, 6), (3, 3, 2), (4, 4, 2)])
def test_so_many_actions_of_each_chunk_are_executed(wanted: int | None, executed: int, asked: int) -> None:
    model = StandInModel()
    actions = drive(ModelPolicy(model, StandInProcessor(), n_action_steps=wanted), [5, 6], steps=6)
    assert len(model.chunks) == asked
    expected = np.concatenate([np.moveaxis(chunk[:, :executed], 1, 0) for chunk in model.chunks])[:6]
    np.testing.assert_allclose(actions, expected)


def test_the_ensemble_asks_at_every_step_and_averages() -> None:
    model = StandInModel()
    actions = drive(ModelPolicy(model, StandInProcessor(), ensemble=3), [5, 6], steps=5)
    assert len(model.chunks) == 5
    ensemble = AdaptiveEnsemble(3)
    np.testing.assert_allclose(actions, np.stack([ensemble.step(chunk) for chunk in model.chunks]))
    assert not np.allclose(actions[-1], model.chunks[-1][:, 0]), "older chunks speak, too"
    np.testing.assert_allclose(actions[0], model.chunks[0][:, 0])


def test_a_new_gripper_command_is_held() -> None:
    free = drive(ModelPolicy(StandInModel(), StandInProcessor(), n_action_steps=4), [1, 2, 3], steps=40)
    held = drive(
        ModelPolicy(StandInModel(), StandInProcessor(), n_action_steps=4, gripper_hold=5), [1, 2, 3], steps=40
    )
    np.testing.assert_array_equal(free[..., :2], held[..., :2])

    def shortest(commands: np.ndarray) -> int:
        changes = np.flatnonzero(np.diff(commands))
        return int(np.diff(changes).min())

    assert min(shortest(free[:, row, 2]) for row in range(3)) == 1
    assert min(shortest(held[:, row, 2]) for row in range(3)) >= 5


def test_an_episode_depends_on_its_seed_and_not_on_its_batch() -> None:
    """Two models on the same seeds meet the same noise: the comparison is paired."""
    together = drive(ModelPolicy(StandInModel(), StandInProcessor()), [5, 6, 7], steps=6)
    alone = drive(ModelPolicy(StandInModel(), StandInProcessor()), [6], steps=6)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])
    assert not np.allclose(together[:, 0], together[:, 1])
    policy = ModelPolicy(StandInModel(), StandInProcessor(), n_action_steps=3)
    drive(policy, [5], steps=2)
    again = drive(policy, [6], steps=3)
    np.testing.assert_array_equal(again, drive(policy, [6], steps=3))


def test_sampling_flags_reach_the_model() -> None:
    model = StandInModel()
    drive(ModelPolicy(model, StandInProcessor(), num_inference_steps=3, guidance_scale=2.0), [1], steps=1)
    assert (model.asked[0]["num_inference_steps"], model.asked[0]["guidance_scale"]) == (3, 2.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"n_action_steps": 5}, "--n-action-steps: expected 1 to 4, the model's chunk, found 5"),
        ({"n_action_steps": 0}, "--n-action-steps: expected 1 to 4, the model's chunk, found 0"),
        ({"n_action_steps": 2, "ensemble": 3}, "Leave out one of --n-action-steps and --ensemble"),
        ({"ensemble": 0}, "horizon: expected at least 1 chunk, found 0"),
        ({"gripper_hold": -1}, "gripper_hold: expected 0 or more"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_at_once(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelPolicy(StandInModel(), StandInProcessor(), **flags)


def test_a_hold_without_a_gripper_is_refused() -> None:
    with pytest.raises(UserError, match="--gripper-hold: the model's action contract names no gripper"):
        ModelPolicy(StandInModel(), StandInProcessor(gripper_dims=()), gripper_hold=3)


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small ACT policy of LeRobot with random weights and its processors; a chunk of 6, executed whole."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.envs.configs import PushtEnv
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    sizes: dict[str, Any] = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1}
    config = ACTConfig(
        input_features={
            "observation.image": PolicyFeature(FeatureType.VISUAL, (3, 64, 64)),
            "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        chunk_size=6,
        n_action_steps=6,
        pretrained_backbone_weights=None,
        use_vae=False,
        device="cpu",
        push_to_hub=False,
        **sizes,
    )
    folder = tmp_path_factory.mktemp("act")
    torch.manual_seed(0)
    ACTPolicy(config).save_pretrained(folder)
    for pipeline in make_pre_post_processors(policy_cfg=config, dataset_stats=None):
        pipeline.save_pretrained(folder)
    return folder, PushtEnv()


@pytest.mark.parametrize(("wanted", "asked"), [(None, 1), (2, 3), (6, 1)])
def test_a_lerobot_policy_executes_as_many_actions_as_wanted(
    act: tuple[Path, Any], wanted: int | None, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, env = act
    policy = LeRobotPolicy(str(folder), env, n_action_steps=wanted)
    calls: list[int] = []
    predict = policy.policy.predict_action_chunk
    monkeypatch.setattr(
        policy.policy,
        "predict_action_chunk",
        lambda batch: calls.append(1) or predict(batch),  # pyright: ignore
    )
    policy.reset(None, [0, 1])
    rng = np.random.default_rng(0)
    observation = {
        "pixels": rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8),
        "agent_pos": rng.normal(size=(2, 2)).astype(np.float32),
    }
    actions = [policy.act(observation, ["push"] * 2) for _ in range(5)]
    assert (len(calls), actions[0].shape) == (asked, (2, 2))
    assert policy.ground(observation, ["push"] * 2, [0]) is None


def test_a_lerobot_policy_refuses_what_it_does_not_have(act: tuple[Path, Any]) -> None:
    folder, env = act
    with pytest.raises(UserError, match="--n-action-steps: LeRobot's policy 'act' refuses 7"):
        LeRobotPolicy(str(folder), env, n_action_steps=7)
    args = EvaluatePolicyArguments(model=str(folder), ensemble="adaptive", gripper_hold=2)
    with pytest.raises(UserError, match=r"--ensemble, --gripper-hold: .* is a LeRobot policy"):
        load_policy(args, env)


def test_a_lerobot_checkpoint_is_known_by_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_config(**fields: str) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(fields))
        return tmp_path / "config.json"

    with_config(type="act")
    assert is_lerobot_checkpoint(str(tmp_path))
    with_config(type="act", model_type="st4vla")
    assert not is_lerobot_checkpoint(str(tmp_path))
    assert not is_lerobot_checkpoint(str(tmp_path / "absent folder"))
    assert not is_lerobot_checkpoint("nobody/nothing")  # offline

    def fetch(repo_id: str, name: str) -> str:
        assert (repo_id, name) == ("lerobot/act_something", "config.json")
        return str(with_config(type="act"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert is_lerobot_checkpoint("lerobot/act_something")
