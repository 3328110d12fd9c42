"""Configuration of the ST4VLA dual-system policy."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

# The schedule the method was trained with: 100 steps, squared cosine, epsilon prediction, DDIM with leading spacing.
# `clip_sample` differs from the diffusers default: normalised actions may leave [-1, 1] on the way.
DEFAULT_SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "leading",
}

# DiT-B, the size of the published checkpoints.
DEFAULT_ACTION_EXPERT: dict[str, Any] = {
    "hidden_size": 768,
    "num_layers": 12,
    "num_heads": 12,
    "condition_dropout": 0.1,
}

# One config.json serves transformers and LeRobot: these are the keys LeRobot's policy config writes beside ours.
LEROBOT_KEYS = frozenset(
    {
        "type",
        "n_obs_steps",
        "n_action_steps",
        "input_features",
        "output_features",
        "normalization_mapping",
        "device",
        "use_amp",
        "use_peft",
        "push_to_hub",
        "repo_id",
        "private",
        "tags",
        "license",
        "pretrained_path",
        "pretrained_revision",
        "rtc_config",
    }
)

# What transformers itself hands to, or stores in, any config beside its declared fields.
_TRANSFORMERS_KEYS = frozenset(
    {
        "model_type",
        "auto_map",
        "name_or_path",
        "_name_or_path",
        "_commit_hash",
        "torch_dtype",
        "attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation_internal",
        "experts_implementation",
        "output_attentions",
        "num_labels",
        "quantization_config",
        "transformers_weights",
        "tie_word_embeddings",
    }
)


@strict
class ST4VLAConfig(PreTrainedConfig):
    r"""
    Configuration of [`ST4VLAForActionPrediction`].

    Args:
        vlm_config (`dict` or `PreTrainedConfig`, *optional*):
            System 2, the planner: any Qwen2.5-VL or Qwen3-VL config. Defaults to Qwen2.5-VL's own defaults.
        vision_encoder_config (`dict` or `PreTrainedConfig`, *optional*):
            The second view encoder: any DINOv2 config. Defaults to DINOv2-S/14 at 224 pixels (22 M parameters).
        planner_layers (`list[int]`, *optional*, defaults to `[-1]`):
            Which entries of the planner's hidden-state tuple (0 = embeddings, last = after the final norm; negative
            counts from the end) feed the query transformer, one cross-attention block each.
        num_query_tokens (`int`, *optional*, defaults to 64):
            Number of latent planning tokens.
        query_hidden_size (`int`, *optional*, defaults to 768):
            Width of the latent planning tokens.
        query_num_heads (`int`, *optional*, defaults to 8):
            Attention heads of the query transformer.
        query_dropout (`float`, *optional*, defaults to 0.1):
            Dropout on attention and MLP outputs of the query transformer while training.
        gradient_decay (`float`, *optional*, defaults to 0.5):
            Factor on the gradient that the action loss sends back into the planner (arXiv 2510.13778, section 2.1).
            1 leaves it unchanged, 0 stops it.
        action_expert (`dict`, *optional*):
            System 1, the diffusion transformer: `hidden_size`, `num_layers`, `num_heads`, `condition_dropout` (chance
            per sample that training hides the condition, for classifier-free guidance). Defaults to DiT-B.
        action_dim (`int`, *optional*, defaults to 7):
            Dimensions of one action.
        chunk_size (`int`, *optional*, defaults to 16):
            Actions predicted at once.
        state_dim (`int`, *optional*):
            Dimensions of the proprioceptive state; `None` builds no state token.
        scheduler (`dict`, *optional*):
            A diffusers scheduler config with `_class_name`. Defaults to the DDIM schedule of the method.
        num_inference_steps (`int`, *optional*, defaults to 10):
            Denoising steps of `sample_actions`.
        guidance_scale (`float`, *optional*, defaults to 1.5):
            Classifier-free guidance of `sample_actions`; 1 switches it off.
        num_noise_samples (`int`, *optional*, defaults to 4):
            Noisy copies of each action chunk per training step, sharing one condition.

    Raises:
        ValueError: for a key that is neither a field, nor known to transformers, nor one of LeRobot's policy keys; for
            sizes that do not fit each other.
    """

    model_type = "st4vla"
    sub_configs = {"vlm_config": AutoConfig, "vision_encoder_config": AutoConfig}

    vlm_config: dict | PreTrainedConfig | None = None
    vision_encoder_config: dict | PreTrainedConfig | None = None
    planner_layers: list[int] | tuple[int, ...] | None = None
    num_query_tokens: int = 64
    query_hidden_size: int = 768
    query_num_heads: int = 8
    query_dropout: float | int = 0.1
    gradient_decay: float | int = 0.5
    action_expert: dict | None = None
    action_dim: int = 7
    chunk_size: int = 16
    state_dim: int | None = None
    scheduler: dict | None = None
    num_inference_steps: int = 10
    guidance_scale: float | int = 1.5
    num_noise_samples: int = 4
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self._refuse_unknown_keys(kwargs)
        kwargs.pop("tie_word_embeddings", None)  # a read-only view of the planner's own field
        self.vlm_config = _build_sub_config(self.vlm_config, "qwen2_5_vl", {})
        self.vision_encoder_config = _build_sub_config(
            self.vision_encoder_config, "dinov2", {"hidden_size": 384, "num_attention_heads": 6, "image_size": 224}
        )
        self.planner_layers = [-1] if self.planner_layers is None else [int(index) for index in self.planner_layers]
        self.action_expert = _complete(self.action_expert, DEFAULT_ACTION_EXPERT)
        self.scheduler = dict(DEFAULT_SCHEDULER if self.scheduler is None else self.scheduler)
        super().__post_init__(**kwargs)

    def _refuse_unknown_keys(self, keys: dict[str, Any]) -> None:
        generation_keys = set(self._generation_keys())
        unknown = sorted(set(keys) - _TRANSFORMERS_KEYS - LEROBOT_KEYS - generation_keys)
        if unknown:
            raise ValueError(
                f"ST4VLAConfig: unknown key(s) {unknown}. Expected only documented fields; a misspelt key would be "
                "ignored silently. Correct the spelling or remove the key from config.json."
            )

    @staticmethod
    def _generation_keys() -> list[str]:
        from transformers import GenerationConfig

        return [key for key in GenerationConfig().to_dict() if not key.startswith("_")]

    @property
    def text_config(self) -> PreTrainedConfig:
        """The planner's text config, where `generate` and resizing look for sizes."""
        return self.vlm_config.text_config

    @property
    def vision_config(self) -> PreTrainedConfig:
        """The planner's vision config."""
        return self.vlm_config.vision_config

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the planner's language head shares its embedding table."""
        return bool(getattr(self.vlm_config, "tie_word_embeddings", False))

    @property
    def resolved_planner_layers(self) -> list[int]:
        """`planner_layers` as non-negative indices into the planner's hidden-state tuple."""
        count = self.text_config.num_hidden_layers + 1
        return [index % count for index in self.planner_layers]

    @property
    def num_condition_tokens(self) -> int:
        """Tokens the action expert is conditioned on: the latent planning tokens and, if built, the state token."""
        return self.num_query_tokens + (self.state_dim is not None)

    def validate_architecture(self) -> None:
        """Checks that depend on several fields; run by `@strict` after every construction."""
        layers = self.text_config.num_hidden_layers
        outside = [index for index in self.planner_layers if not -layers - 1 <= index <= layers]
        if outside or not self.planner_layers:
            raise ValueError(
                f"planner_layers: expected at least one hidden-state index in [{-layers - 1}, {layers}] for a planner "
                f"of {layers} layers, found {list(self.planner_layers)}."
            )
        for name, width, heads in (
            ("query_hidden_size", self.query_hidden_size, self.query_num_heads),
            ("action_expert.hidden_size", self.action_expert["hidden_size"], self.action_expert["num_heads"]),
        ):
            if heads < 1 or width % heads:
                raise ValueError(f"{name}: expected a multiple of its {heads} attention heads, found {width}.")
        for name, value, low, high in (
            ("gradient_decay", self.gradient_decay, 0, 1),
            ("query_dropout", self.query_dropout, 0, 1),
            ("action_expert.condition_dropout", self.action_expert["condition_dropout"], 0, 1),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name}: expected a number in [{low}, {high}], found {value}.")
        for name in ("num_query_tokens", "action_dim", "chunk_size", "num_inference_steps", "num_noise_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}.")
        if self.state_dim is not None and self.state_dim < 1:
            raise ValueError(f"state_dim: expected None or at least 1, found {self.state_dim}.")
        if "_class_name" not in self.scheduler:
            raise ValueError(
                "scheduler: expected a diffusers scheduler config with `_class_name`, for example "
                f"{{'_class_name': 'DDIMScheduler', ...}}, found keys {sorted(self.scheduler)}."
            )


def _build_sub_config(
    value: dict | PreTrainedConfig | None, model_type: str, defaults: dict[str, Any]
) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    fields = dict(defaults if value is None else value)
    return AutoConfig.for_model(fields.pop("model_type", model_type), **fields)


def _complete(value: dict[str, Any] | None, defaults: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(value or {}) - set(defaults))
    if unknown:
        raise ValueError(f"action_expert: unknown key(s) {unknown}; expected only {sorted(defaults)}.")
    return {**defaults, **(value or {})}


__all__ = ["DEFAULT_SCHEDULER", "ST4VLAConfig"]
