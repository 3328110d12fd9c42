"""ST4VLA: a vision-language planner (System 2) and a diffusion action expert (System 1) in one transformers model."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .action_expert_st4vla import ActionExpert, StateEncoder
from .code_export_st4vla import CodeExportMixin
from .configuration_st4vla import ST4VLAConfig
from .noise_schedule_st4vla import add_noise, build_scheduler, is_flow_matching, sample_timesteps, training_target
from .query_transformer_st4vla import QueryTransformer
from .turns_st4vla import separate_turns
from .vision_tower_st4vla import speed_up_vision

# Forward arguments the planner knows nothing about; `generate` drops them.
_ACTION_ONLY_INPUTS = (
    "vision_pixel_values",
    "view_mask",
    "image_sizes",
    "state",
    "state_mask",
    "actions",
    "action_is_pad",
    "action_dim_mask",
    "labels",
    "grounding_inputs",
    "noise",
    "timestep",
)


@dataclass
class ST4VLAOutput(ModelOutput):
    """
    Output of [`ST4VLAForActionPrediction.forward`]; fields are `None` where nothing asked for them.

    Args:
        loss (`torch.FloatTensor`): plain sum of the losses below that were computed; trainers weigh the parts.
        action_loss (`torch.FloatTensor`): mean over samples of `action_losses`.
        lm_loss (`torch.FloatTensor`): next-token loss of `labels`, or of the grounding batch, or their sum.
        action_losses (`torch.FloatTensor` of shape `(batch,)`): each sample's mean squared error over its valid steps,
            valid dimensions and noisy copies.
        logits (`torch.FloatTensor` of shape `(batch, length, vocabulary)`): only without `actions` and `labels`.
        past_key_values (`Cache`): of the planner, with `use_cache`.
        latent_planning_tokens (`torch.FloatTensor` of shape `(batch, num_query_tokens, query_hidden_size)`).
    """

    loss: torch.FloatTensor | None = None
    action_loss: torch.FloatTensor | None = None
    lm_loss: torch.FloatTensor | None = None
    action_losses: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: Any | None = None
    latent_planning_tokens: torch.FloatTensor | None = None


@dataclass
class ST4VLAPlan(ModelOutput):
    """
    Output of [`ST4VLAForActionPrediction.plan`].

    Args:
        actions (`torch.FloatTensor` of shape `(batch, chunk_size, action_dim)`): float32, normalised.
        latent_planning_tokens (`torch.FloatTensor` of shape `(batch, num_query_tokens, query_hidden_size)`): what the
            actions follow from.
        sequences (`torch.LongTensor` of shape `(batch, prompt + new tokens)`): as `generate` returns them.
    """

    actions: torch.FloatTensor | None = None
    latent_planning_tokens: torch.FloatTensor | None = None
    sequences: torch.LongTensor | None = None


class ST4VLAPreTrainedModel(PreTrainedModel):
    """Weight initialisation, strict loading and capabilities shared with transformers."""

    config: ST4VLAConfig
    base_model_prefix = "vlm"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the action loss is a mean per batch, so Trainer must divide by accumulation steps
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["QueryTransformer", "ActionExpert"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QueryTransformer):
            init.normal_(module.query_tokens)
        elif isinstance(module, ActionExpert):
            init.normal_(module.unconditional, std=self.config.initializer_range)
            init.normal_(module.position_embeddings, std=self.config.initializer_range)
            # Predicting zero first makes the initial loss the variance of the target, whatever the weights before.
            init.zeros_(module.output_proj.weight)
            init.zeros_(module.output_proj.bias)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *args: Any,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        Loads a model strictly: as in transformers, but weights that are missing, unexpected or of another shape raise.

        Raises:
            ValueError: naming the offending weights. Nothing is ever filled with random numbers.
        """
        # Mis-shaped weights are let through to be named below; transformers' own error does not name them.
        kwargs["ignore_mismatched_sizes"] = True
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        _require_complete(report, str(pretrained_model_name_or_path), expected_missing=())
        _align_weights(model)
        return (model, report) if output_loading_info else model

    @classmethod
    def from_vlm(cls, vlm_name_or_path: str | os.PathLike, config: ST4VLAConfig, **kwargs: Any) -> Any:
        """
        A new model around a plain vision-language checkpoint: its weights become `vlm.*`, all else is initialised.

        Args:
            vlm_name_or_path (`str`): local folder or Hub id of a Qwen2.5-VL or Qwen3-VL checkpoint.
            config ([`ST4VLAConfig`]): with that checkpoint's `vlm_config`.

        Raises:
            ValueError: when the checkpoint does not fill `vlm.*` completely, or holds weights with no place there.
        """
        kwargs["ignore_mismatched_sizes"] = True
        model, report = super().from_pretrained(vlm_name_or_path, config=config, output_loading_info=True, **kwargs)
        outside = tuple(key for key in model.state_dict() if not key.startswith("vlm."))
        _require_complete(report, str(vlm_name_or_path), expected_missing=outside)
        _align_weights(model)
        return model


class ST4VLAForActionPrediction(CodeExportMixin, ST4VLAPreTrainedModel, GenerationMixin):
    """
    Predicts action chunks and grounding text from images and an instruction.

    Data flows one way: planner (and DINOv2 patch tokens) → query transformer → latent planning tokens (and an optional
    state token) → action expert. The grounding text comes from the planner's own language head.
    """

    def __init__(self, config: ST4VLAConfig) -> None:
        super().__init__(config)
        self.vlm = AutoModelForImageTextToText.from_config(config.vlm_config)
        speed_up_vision(self.vlm)
        self.vision_encoder = AutoModel.from_config(config.vision_encoder_config)
        self.vision_projector = nn.Linear(config.vision_encoder_config.hidden_size, config.text_config.hidden_size)
        self.query_transformer = QueryTransformer(config)
        if config.state_dim is not None:
            self.state_encoder = StateEncoder(config.state_dim, config.query_hidden_size)
        self.action_expert = ActionExpert(config)
        self._noise_scheduler: Any = None
        self.post_init()

    # The places where transformers and TRL look for the language model.

    @property
    def generation_config(self) -> Any:
        """The planner's generation config: one object, whether text is generated through this model or `model.vlm`."""
        return self.vlm.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        # transformers derives a first value from our config before the planner exists, and would take the action
        # expert's `guidance_scale` for the one of text generation.
        if "vlm" in self._modules:
            self.vlm.generation_config = value

    @property
    def base_model(self) -> nn.Module:
        """The planner without its language head; `trl.SFTTrainer` reads hidden states from it."""
        return self.vlm.base_model

    @property
    def lm_head(self) -> nn.Module:
        """The planner's language head."""
        return self.vlm.lm_head

    def get_input_embeddings(self) -> nn.Module:
        return self.vlm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.vlm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.vlm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.vlm.set_output_embeddings(new_embeddings)

    @property
    def noise_scheduler(self) -> Any:
        """The diffusers scheduler used for training and sampling; replace it to sample with another solver."""
        if self._noise_scheduler is None:
            self._noise_scheduler = build_scheduler(self.config.scheduler)
        return self._noise_scheduler

    @noise_scheduler.setter
    def noise_scheduler(self, scheduler: Any) -> None:
        trained = build_scheduler(self.config.scheduler)
        for name, ours, theirs in (
            ("flow matching", is_flow_matching(trained), is_flow_matching(scheduler)),
            ("num_train_timesteps", trained.config.num_train_timesteps, scheduler.config.num_train_timesteps),
            ("prediction_type", trained.config.get("prediction_type"), scheduler.config.get("prediction_type")),
            ("beta_schedule", trained.config.get("beta_schedule"), scheduler.config.get("beta_schedule")),
        ):
            if ours != theirs:
                raise ValueError(
                    f"noise_scheduler: this model was trained with {name} = {ours}, the new scheduler has {theirs}. "
                    f"Build it with {type(scheduler).__name__}.from_config(model.noise_scheduler.config)."
                )
        self._noise_scheduler = scheduler

    # Planner → latent planning tokens → condition

    def _run_planner(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        use_cache: bool = False,
        turn_ids: torch.Tensor | None = None,
        **vlm_inputs: Any,
    ) -> tuple[list[torch.Tensor], torch.Tensor, Any]:
        """One planner pass without the language head: states of `planner_layers`, last hidden state, cache."""
        vlm_inputs = self._with_token_kinds(input_ids, vlm_inputs)
        if turn_ids is not None:
            kinds, grids = vlm_inputs["mm_token_type_ids"], vlm_inputs["image_grid_thw"]
            separate = separate_turns(self.vlm.model, input_ids, turn_ids, attention_mask, kinds, grids)
            attention_mask = separate.pop("attention_mask")
            vlm_inputs |= separate
        layers, last = self.config.resolved_planner_layers, self.config.text_config.num_hidden_layers
        outputs = self.vlm.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=use_cache,
            output_hidden_states=any(layer != last for layer in layers),
            **vlm_inputs,
        )
        final = outputs.last_hidden_state
        states = [final if layer == last else outputs.hidden_states[layer] for layer in layers]
        return states, final, outputs.past_key_values

    def _with_token_kinds(self, input_ids: torch.Tensor | None, vlm_inputs: dict[str, Any]) -> dict[str, Any]:
        # Without them the planner would fall back to one-dimensional positions and ground wrongly, silently.
        absent = vlm_inputs.get("mm_token_type_ids") is None and vlm_inputs.get("pixel_values") is not None
        if not absent or input_ids is None:
            return vlm_inputs
        return {**vlm_inputs, "mm_token_type_ids": (input_ids == self.config.vlm_config.image_token_id).int()}

    def _encode_views(self, vision_pixel_values: torch.Tensor) -> torch.Tensor:
        """DINOv2 patch tokens of all views, `(batch, views * patches, vlm_width)`."""
        batch, views = vision_pixel_values.shape[:2]
        pixels = vision_pixel_values.flatten(0, 1).to(self.vision_projector.weight.dtype)
        tokens = self.vision_encoder(pixels).last_hidden_state
        prefix = 1 + getattr(self.config.vision_encoder_config, "num_register_tokens", 0)
        return self.vision_projector(tokens[:, prefix:]).unflatten(0, (batch, views)).flatten(1, 2)

    def _condition(
        self,
        planner_states: list[torch.Tensor],
        attention_mask: torch.Tensor,
        vision_pixel_values: torch.Tensor,
        view_mask: torch.Tensor | None,
        state: torch.Tensor | None,
        state_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the action expert sees: latent planning tokens, then the state token if the model has one."""
        vision_tokens = self._encode_views(vision_pixel_values)
        batch, views = vision_pixel_values.shape[:2]
        if view_mask is None:
            view_mask = torch.ones(batch, views, dtype=torch.bool, device=vision_pixel_values.device)
        vision_mask = view_mask.bool().repeat_interleave(vision_tokens.shape[1] // views, dim=1)
        tokens = self.query_transformer(planner_states, attention_mask.bool(), vision_tokens, vision_mask)
        if state is not None:
            token = self.state_encoder(state).to(tokens.device, tokens.dtype)
            if state_mask is not None:  # a sample without state: the learned "nothing known" of guidance, this token's
                absent = self.action_expert.unconditional[-1:].to(tokens.dtype)
                token = torch.where(state_mask.bool().to(tokens.device)[:, None, None], token, absent)
            tokens = torch.cat([tokens, token], dim=1)
        return tokens

    # Losses

    def _language_loss(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None,
        num_items: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """Next-token loss; logits are computed at supervised positions only. `num_items` overrides the divisor."""
        targets = F.pad(labels[:, 1:], (0, 1), value=-100)
        supervised = targets != -100
        if attention_mask is not None:  # padding predicts nothing, not even the first token of its sample
            supervised = supervised & attention_mask.bool()
        logits = self.vlm.lm_head(hidden_states[supervised.to(hidden_states.device)]).float()
        total = F.cross_entropy(logits, targets[supervised].to(logits.device), reduction="sum")
        return total / (supervised.sum().clamp(min=1) if num_items is None else num_items)

    def _action_losses(
        self,
        condition: torch.Tensor,
        actions: torch.Tensor,
        action_is_pad: torch.Tensor | None,
        action_dim_mask: torch.Tensor | None,
        noise: torch.Tensor | None,
        timestep: torch.Tensor | None,
    ) -> torch.Tensor:
        """Each sample's denoising error, `(batch,)`: mean over valid steps, valid dimensions and noisy copies."""
        # 1. Draw noise and timesteps: several noisy copies per sample share one condition
        batch, expert = actions.shape[0], self.action_expert
        weight = torch.ones_like(actions, dtype=torch.float32)
        if action_is_pad is not None:
            weight = weight * (~action_is_pad.bool()).to(weight.device)[:, :, None]
        if action_dim_mask is not None:
            weight = weight * action_dim_mask.to(weight.device)[:, None, :]
        # What does not count is not read either: the expert's attention would carry it into the steps that do.
        actions = actions.float().masked_fill(weight == 0, 0.0)
        copies = self.config.num_noise_samples
        if noise is not None:
            copies = noise.shape[1] if noise.ndim == 4 else 1
        elif timestep is not None:
            copies = timestep.shape[1] if timestep.ndim == 2 else 1
        if noise is None:
            noise = torch.randn(batch, copies, *actions.shape[1:], device=actions.device)
        if timestep is None:
            timestep = sample_timesteps(self.noise_scheduler, (batch, copies), actions.device)
        noise = noise.reshape(batch * copies, *actions.shape[1:]).float()
        if action_dim_mask is not None:  # padded dimensions are 0 at every noise level, as they are while sampling
            noise = noise * action_dim_mask.to(noise.device).repeat_interleave(copies, dim=0)[:, None, :]
        timestep = timestep.reshape(batch * copies)

        # 2. Noise the actions and predict the target of the scheduler
        actions = actions.repeat_interleave(copies, dim=0)
        noisy = add_noise(self.noise_scheduler, actions, noise, timestep)
        target = training_target(self.noise_scheduler, actions, noise, timestep)
        prediction = expert(noisy, timestep, condition.repeat_interleave(copies, dim=0))

        # 3. Average what counts
        squared = (prediction - target.to(prediction.device)).square().unflatten(0, (batch, copies)).mean(dim=1)
        weight = weight.to(squared.device)
        return (squared * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1)

    # Public calls

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        vision_pixel_values: torch.Tensor | None = None,
        view_mask: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        actions: torch.Tensor | None = None,
        action_is_pad: torch.Tensor | None = None,
        action_dim_mask: torch.Tensor | None = None,
        state_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        turn_ids: torch.LongTensor | None = None,
        grounding_inputs: dict[str, Any] | None = None,
        noise: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> ST4VLAOutput:
        r"""
        Training with `actions` and/or `labels` and/or `grounding_inputs`; plain planner logits without any of them.

        Args:
            input_ids, attention_mask (`(batch, length)`), pixel_values (`(patches, patch_dim)`, all images one after
                the other), image_grid_thw (`(images, 3)`), mm_token_type_ids: the planner's inputs.
            vision_pixel_values (`torch.Tensor` of shape `(batch, views, 3, height, width)`): ImageNet-normalised.
            view_mask (`torch.BoolTensor` of shape `(batch, views)`, *optional*): False at padded views.
            image_sizes (*optional*): accepted and ignored; post-processing reads it.
            state (`torch.Tensor` of shape `(batch, state_dim)`): normalised; given exactly if the model has one.
            actions (`torch.Tensor` of shape `(batch, chunk_size, action_dim)`): labels, normalised.
            action_is_pad (`torch.BoolTensor` of shape `(batch, chunk_size)`): True at steps past the episode's end.
            action_dim_mask (`torch.Tensor` of shape `(batch, action_dim)`): 0 at padded dimensions.
            state_mask (`torch.BoolTensor` of shape `(batch,)`): False for samples that come without a state; a learned
                token stands in for theirs.
            labels (`torch.LongTensor` of shape `(batch, length)`): -100 where not supervised.
            turn_ids (`torch.LongTensor` of shape `(batch, length)`): with labels, several questions share an image;
                see `turns_st4vla`.
            grounding_inputs (`dict`): a second planner batch with `labels` (and `turn_ids`); both losses come from
                this one forward.
            noise (`torch.Tensor` of shape `(batch, copies, chunk_size, action_dim)` or without `copies`), timestep
                (shape `(batch, copies)` or `(batch,)`): injected instead of drawn, for deterministic tests.
            num_items_in_batch (*optional*): divisor of the text loss instead of this batch's supervised tokens.

        Raises:
            ValueError: naming the argument whose presence or shape does not fit the model.
        """
        if input_ids is None and kwargs.get("inputs_embeds") is None:
            raise ValueError("input_ids: expected token ids of shape (batch, length), found None.")
        planner_inputs = {
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "mm_token_type_ids": mm_token_type_ids,
        }
        if turn_ids is not None and (labels is None or actions is not None):
            raise ValueError(
                "turn_ids: expected `labels` beside them and no `actions`; a policy is asked one question."
            )
        if actions is None and labels is None and grounding_inputs is None:
            planner_inputs = self._with_token_kinds(input_ids, planner_inputs)
            outputs = self.vlm(input_ids=input_ids, attention_mask=attention_mask, **planner_inputs, **kwargs)
            return ST4VLAOutput(logits=outputs.logits, past_key_values=outputs.past_key_values)

        output = ST4VLAOutput()
        if actions is not None or labels is not None:
            attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            states, final, _ = self._run_planner(input_ids, attention_mask, turn_ids=turn_ids, **planner_inputs)
            if labels is not None:
                output.lm_loss = self._language_loss(final, labels, attention_mask, num_items_in_batch)
        if actions is not None:
            self._check_action_inputs(input_ids, vision_pixel_values, state)
            self._check_actions(actions, input_ids.shape[0])
            condition = self._condition(states, attention_mask, vision_pixel_values, view_mask, state, state_mask)
            output.latent_planning_tokens = condition[:, : self.config.num_query_tokens]
            output.action_losses = self._action_losses(
                condition, actions, action_is_pad, action_dim_mask, noise, timestep
            )
            output.action_loss = output.action_losses.mean()
        if grounding_inputs is not None:
            grounding_loss = self._grounding_loss(grounding_inputs, num_items_in_batch)
            output.lm_loss = grounding_loss if output.lm_loss is None else output.lm_loss + grounding_loss
        output.loss = sum(loss for loss in (output.action_loss, output.lm_loss) if loss is not None)
        return output

    def _grounding_loss(self, inputs: dict[str, Any], num_items: torch.Tensor | int | None) -> torch.Tensor:
        inputs = {name: value for name, value in inputs.items() if name not in _ACTION_ONLY_INPUTS or name == "labels"}
        labels = inputs.pop("labels", None)
        if labels is None:
            raise ValueError("grounding_inputs: expected a `labels` entry beside the planner's inputs, found none.")
        _, final, _ = self._run_planner(**inputs)
        return self._language_loss(final, labels, inputs.get("attention_mask"), num_items)

    @torch.no_grad()
    def sample_actions(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        vision_pixel_values: torch.Tensor | None = None,
        view_mask: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        action_dim_mask: torch.Tensor | None = None,
        state_mask: torch.Tensor | None = None,
        **planner_inputs: Any,
    ) -> torch.FloatTensor:
        """
        Samples an action chunk. Keeps no state between calls; deterministic given `noise` (or `generator`).

        Args:
            num_inference_steps (`int`, *optional*), guidance_scale (`float`, *optional*): default to the config's.
            noise (`torch.Tensor` of shape `(batch, chunk_size, action_dim)`, *optional*): the initial sample.
            generator (`torch.Generator`, *optional*): draws the initial sample when `noise` is not given.
            action_dim_mask, state_mask, others: the processor's outputs, as in `forward`. Padded dimensions come out
                as 0.

        Returns:
            `torch.FloatTensor` of shape `(batch, chunk_size, action_dim)`, float32, normalised; turn it into
            environment units with `processor.post_process_actions`.
        """
        self._check_action_inputs(input_ids, vision_pixel_values, state)
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states, _, _ = self._run_planner(input_ids, attention_mask, **_planner_only(planner_inputs))
        condition = self._condition(states, attention_mask, vision_pixel_values, view_mask, state, state_mask)
        return self._denoise(condition, num_inference_steps, guidance_scale, noise, generator, action_dim_mask)

    @torch.no_grad()
    def plan(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        vision_pixel_values: torch.Tensor | None = None,
        view_mask: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        action_dim_mask: torch.Tensor | None = None,
        state_mask: torch.Tensor | None = None,
        **generation_options: Any,
    ) -> ST4VLAPlan:
        """
        Actions and grounding text from one prefill: what `sample_actions` and `generate` give, for one planner pass.

        Args:
            generation_options: passed to `generate`, for example `max_new_tokens`.
            others: as in `sample_actions`.
        """
        # 1. Prefill once
        self._check_action_inputs(input_ids, vision_pixel_values, state)
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if mm_token_type_ids is None:
            mm_token_type_ids = (input_ids == self.config.vlm_config.image_token_id).int()
        states, _, cache = self._run_planner(
            input_ids,
            attention_mask,
            use_cache=True,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
        )
        # 2. Act
        condition = self._condition(states, attention_mask, vision_pixel_values, view_mask, state, state_mask)
        actions = self._denoise(condition, num_inference_steps, guidance_scale, noise, generator, action_dim_mask)
        # 3. Go on in text from the same cache. `generate` needs one token to start from, so the last one runs again.
        cache.crop(-1)
        sequences = self.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            mm_token_type_ids=mm_token_type_ids,
            past_key_values=cache,
            **generation_options,
        )
        tokens = condition[:, : self.config.num_query_tokens]
        return ST4VLAPlan(actions=actions, latent_planning_tokens=tokens, sequences=sequences)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Text from the planner, by transformers' `generate`; inputs that only concern actions are dropped."""
        input_ids = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs"))
        return self.vlm.generate(*args, **self._with_token_kinds(input_ids, _planner_only(kwargs)))

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.vlm.prepare_inputs_for_generation(*args, **_planner_only(kwargs))

    def _denoise(
        self,
        condition: torch.Tensor,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        noise: torch.Tensor | None,
        generator: torch.Generator | None,
        action_dim_mask: torch.Tensor | None,
    ) -> torch.FloatTensor:
        shape = (condition.shape[0], self.config.chunk_size, self.config.action_dim)
        if noise is None:
            device = condition.device if generator is None else generator.device
            noise = torch.randn(shape, generator=generator, device=device)
        elif tuple(noise.shape) != shape:
            raise ValueError(f"noise: expected shape {shape}, found {tuple(noise.shape)}.")
        # A scheduler keeps its place in the schedule: every call steps its own copy (two threads may share a model).
        scheduler = build_scheduler(
            {"_class_name": type(self.noise_scheduler).__name__, **self.noise_scheduler.config}
        )
        return self.action_expert.sample(
            condition,
            noise.to(condition.device),
            scheduler,
            self.config.num_inference_steps if num_inference_steps is None else num_inference_steps,
            float(self.config.guidance_scale if guidance_scale is None else guidance_scale),
            generator,
            action_dim_mask,
        )

    # Checks

    def _check_action_inputs(
        self, input_ids: torch.Tensor, vision_pixel_values: torch.Tensor | None, state: torch.Tensor | None
    ) -> None:
        batch, config = input_ids.shape[0], self.config
        if vision_pixel_values is None or vision_pixel_values.ndim != 5 or vision_pixel_values.shape[0] != batch:
            found = None if vision_pixel_values is None else tuple(vision_pixel_values.shape)
            raise ValueError(
                f"vision_pixel_values: expected shape ({batch}, views, 3, height, width), found {found}. "
                "Make the inputs with the model's processor, with images."
            )
        expected = None if config.state_dim is None else (batch, config.state_dim)
        found = None if state is None else tuple(state.shape)
        if expected != found:
            raise ValueError(
                f"state: expected {expected} for a model with state_dim={config.state_dim}, found {found}."
            )

    def _check_actions(self, actions: torch.Tensor, batch: int) -> None:
        expected = (batch, self.config.chunk_size, self.config.action_dim)
        if tuple(actions.shape) != expected:
            raise ValueError(
                f"actions: expected shape {expected} (batch, chunk_size, action_dim), found {tuple(actions.shape)}."
            )


def _planner_only(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in _ACTION_ONLY_INPUTS}


def _align_weights(model: nn.Module) -> None:
    # Weights mapped from a safetensors file start at any byte, and CPU kernels sum in another order there: without
    # this, a reloaded model differs from the saved one in the last bit.
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % 64:
            parameter.data = parameter.data.clone()


def _require_complete(report: dict[str, Any], source: str, expected_missing: tuple[str, ...]) -> None:
    missing = sorted(set(report.get("missing_keys", ())) - set(expected_missing))
    unexpected = sorted(report.get("unexpected_keys", ()))
    mismatched = sorted(
        f"{name}: expected {tuple(expected)}, found {tuple(found)}"
        for name, found, expected in report.get("mismatched_keys", ())
    )
    problems = [
        f"{len(keys)} {name} weight(s), for example {keys[:4]}"
        for name, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", mismatched))
        if keys
    ]
    if problems:
        raise ValueError(
            f"{source}: the weights do not match the model of its config.json: {'; '.join(problems)}. "
            "Nothing was loaded in their place. Use the config.json saved with these weights, or convert them."
        )


__all__ = ["ST4VLAForActionPrediction", "ST4VLAOutput", "ST4VLAPlan", "ST4VLAPreTrainedModel"]
