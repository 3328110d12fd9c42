"""What closed-loop evaluation can drive: our models, and any LeRobot policy."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from training_st4vla.errors import UserError
from training_st4vla.evaluation.chunking import AdaptiveEnsemble, ChunkQueue, GripperHold


class Policy(Protocol):
    """A policy for a batch of environments that run in step."""

    name: str

    def reset(self, envs: Any, seeds: list[int]) -> None:
        """Forgets the last episodes; `envs` is the vector environment that was just reset with `seeds`."""
        ...

    def act(self, observation: dict[str, Any], instructions: list[str]) -> np.ndarray:
        """Environment observation (batched, as Gymnasium gives it) → actions `[B, A]` in environment units."""
        ...

    def ground(self, observation: dict[str, Any], instructions: list[str], rows: list[int]) -> list[Any] | None:
        """`GroundingResult`s on the first camera for some rows of the batch; None for a policy that cannot."""
        ...


class ModelPolicy:
    """
    An ST4VLA model.

    Args:
        model ([`ST4VLAForActionPrediction`]), processor ([`ST4VLAProcessor`]).
        dataset_key (`str`, *optional*): whose action contract; the only one without it.
        n_action_steps (`int`, *optional*): actions executed of each chunk; half a chunk without it.
        ensemble (`int`, *optional*): horizon of the adaptive ensemble; a chunk is then predicted at every step.
        gripper_hold (`int`): control steps that a new gripper command is kept for at least.
        seed (`int`): with the episodes' seeds and the step it decides the sampled noise.

    Raises:
        UserError: for an unknown contract, and for flags that contradict each other or the model.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        dataset_key: str | None = None,
        n_action_steps: int | None = None,
        ensemble: int | None = None,
        gripper_hold: int = 0,
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        name: str = "model",
    ) -> None:
        self.name, self.model, self.processor, self.seed = name, model, processor, seed
        self.contract = processor.contract(dataset_key)
        self.contract.require_known("evaluation")
        self.dataset_key = dataset_key
        chunk = model.config.chunk_size
        self.n_action_steps = max(chunk // 2, 1) if n_action_steps is None else n_action_steps
        if not 1 <= self.n_action_steps <= chunk:
            raise UserError(f"--n-action-steps: expected 1 to {chunk}, the model's chunk, found {n_action_steps}.")
        if ensemble is not None and n_action_steps not in (None, 1):
            raise UserError(
                f"--n-action-steps: the ensemble predicts a chunk at every step and executes one action of it, found "
                f"{n_action_steps}. Leave out one of --n-action-steps and --ensemble."
            )
        if gripper_hold and not self.contract.gripper_dims:
            raise UserError("--gripper-hold: the model's action contract names no gripper dimension to hold.")
        self.ensemble_horizon, self.gripper_steps = ensemble, gripper_hold
        self.sampling = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        self.reset(None, [])  # says now what is wrong with the other numbers

    def reset(self, envs: Any, seeds: list[int]) -> None:
        """New queues, and noise that follows from each episode's seed."""
        self._queue = ChunkQueue(self.n_action_steps if self.ensemble_horizon is None else 1)
        self._ensemble = None if self.ensemble_horizon is None else AdaptiveEnsemble(self.ensemble_horizon)
        self._hold = GripperHold(self.contract.gripper_dims, self.gripper_steps)
        self._seeds, self._step = seeds, 0

    def act(self, observation: dict[str, Any], instructions: list[str]) -> np.ndarray:
        """The next action of every environment."""
        if self._queue.is_empty:
            chunks = self._predict(observation, instructions)
            self._queue.push(chunks if self._ensemble is None else self._ensemble.step(chunks)[:, None])
        self._step += 1
        return self._hold.step(self._queue.pop())

    def ground(self, observation: dict[str, Any], instructions: list[str], rows: list[int]) -> list[Any]:
        """What the model answers to the spatial prompt that it acts under, on the first camera."""
        camera = named_images(observation, self.contract.cameras)[0]
        pictures, words = [[camera[row]] for row in rows], [instructions[row] for row in rows]
        inputs = self.processor.ground(images=pictures, text=words, kind="spatial")
        tokens = self.model.generate(**inputs.to(self.model.device), max_new_tokens=128, do_sample=False)
        return self.processor.post_process_grounding(tokens, inputs)

    def _predict(self, observation: dict[str, Any], instructions: list[str]) -> np.ndarray:
        import torch

        views = named_images(observation, self.contract.cameras)
        inputs = self.processor(
            images=[list(row) for row in zip(*views, strict=True)],
            text=instructions,
            state=self._state(observation),
            dataset_key=self.dataset_key,
        )
        shape = (self.model.config.chunk_size, self.model.config.action_dim)
        noise = torch.stack(
            [torch.randn(shape, generator=seeded_generator(self.seed, seed, self._step)) for seed in self._seeds]
        )
        inputs = inputs.to(self.model.device)
        actions = self.model.sample_actions(**inputs, noise=noise.to(self.model.device), **self.sampling)
        return np.asarray(self.processor.post_process_actions(actions, self.dataset_key), dtype=np.float64)

    def _state(self, observation: dict[str, Any]) -> list[np.ndarray] | None:
        expected = self.contract.state
        if self.model.config.state_dim is None or expected is None:
            return None
        state = observation.get("agent_pos")
        if state is None or state.shape[1] != expected.dim:
            found = "none" if state is None else f"{state.shape[1]} numbers"
            raise UserError(
                f"state: the model expects {expected.dim} numbers, the environment gives {found} as `agent_pos`."
            )
        return list(state)


class LeRobotPolicy:
    """
    A LeRobot checkpoint, run as `lerobot-eval` runs it: its own processors around `select_action`.

    Args:
        path (`str`): folder or Hub id with LeRobot's `config.json`. env_config: LeRobot's config of the environment.
        n_action_steps (`int`, *optional*): takes the place of the checkpoint's own `n_action_steps`.

    Raises:
        UserError: when the policy has no `n_action_steps`, or refuses this one.
    """

    def __init__(
        self,
        path: str,
        env_config: Any,
        *,
        n_action_steps: int | None = None,
        device: str = "cpu",
        name: str | None = None,
    ) -> None:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.envs.factory import make_env_pre_post_processors
        from lerobot.policies.factory import make_policy, make_pre_post_processors

        config = PreTrainedConfig.from_pretrained(path)
        if n_action_steps is not None:
            config = _with_action_steps(config, n_action_steps)
        config.pretrained_path = Path(path) if Path(path).exists() else path  # pyright: ignore[reportAttributeAccessIssue]
        config.device = device
        self.name = name or Path(path).name
        self.policy = make_policy(cfg=config, env_cfg=env_config).eval()
        self.before, self.after = make_pre_post_processors(
            policy_cfg=config,
            pretrained_path=str(config.pretrained_path),
            preprocessor_overrides={"device_processor": {"device": device}},
        )
        self.env_before, self.env_after = make_env_pre_post_processors(env_cfg=env_config, policy_cfg=config)

    def reset(self, envs: Any, seeds: list[int]) -> None:
        """Empties the policy's queues."""
        self.policy.reset()

    def act(self, observation: dict[str, Any], instructions: list[str]) -> np.ndarray:
        """The next action of every environment."""
        import torch
        from lerobot.envs.utils import preprocess_observation

        batch: dict[str, Any] = {**preprocess_observation(observation), "task": list(instructions)}
        with torch.inference_mode():
            action = self.after(self.policy.select_action(self.before(self.env_before(batch))))
        return self.env_after({"action": action})["action"].cpu().numpy()

    def ground(self, observation: dict[str, Any], instructions: list[str], rows: list[int]) -> None:
        """LeRobot policies have no grounding."""
        return


def seeded_generator(*entropy: int) -> Any:
    """A torch generator that follows from all of the numbers."""
    import torch

    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def named_images(observation: dict[str, Any], cameras: tuple[str, ...]) -> list[np.ndarray]:
    """
    The environment's images of `cameras`, in that order, each `[B, H, W, 3]` uint8.

    Args:
        observation (`dict`): with `pixels`, an array or a dictionary of arrays by camera.
        cameras (`tuple[str, ...]`): of the action contract; `observation.images.front` is the environment's `front`.
            Empty: all of the environment's, in its order.

    Raises:
        UserError: when the environment lacks one.
    """
    pixels = observation.get("pixels")
    if pixels is None:
        raise UserError("cameras: the environment gives no images (no `pixels` in its observation).")
    if not isinstance(pixels, dict):
        pixels = {"image": pixels}
    if not cameras:
        return list(pixels.values())
    missing = [camera for camera in cameras if camera.rsplit(".", 1)[-1] not in pixels and len(cameras) > 1]
    if missing:
        raise UserError(f"cameras: the model was trained with {list(cameras)}, the environment has {sorted(pixels)}.")
    if len(cameras) == 1 and len(pixels) == 1:
        return list(pixels.values())
    return [pixels[camera.rsplit(".", 1)[-1]] for camera in cameras]


def is_lerobot_checkpoint(path: str) -> bool:
    """
    Whether a folder or Hub repository holds a LeRobot policy: its `config.json` has `type` and no `model_type`.

    False where there is no such file or it cannot be fetched; opening the model says why.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    config = Path(path) / "config.json"
    if not Path(path).exists():
        try:
            config = Path(hf_hub_download(path, "config.json"))
        except (HFValidationError, HfHubHTTPError, EntryNotFoundError, OSError):
            return False
    if not config.is_file():
        return False
    fields = json.loads(config.read_text())
    return "type" in fields and "model_type" not in fields


def _with_action_steps(config: Any, n_action_steps: int) -> Any:
    """LeRobot's config of a policy with other `n_action_steps`, checked by its own rules."""
    if not hasattr(config, "n_action_steps"):
        raise UserError(f"--n-action-steps: LeRobot's policy {config.type!r} has no such setting; leave it out.")
    try:
        return dataclasses.replace(config, n_action_steps=n_action_steps)
    except ValueError as error:
        raise UserError(
            f"--n-action-steps: LeRobot's policy {config.type!r} refuses {n_action_steps}: {error}"
        ) from error


__all__ = ["LeRobotPolicy", "ModelPolicy", "Policy", "is_lerobot_checkpoint", "named_images"]
