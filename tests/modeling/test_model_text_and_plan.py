"""Text from the planner, and `plan`: both answers from one pass equal the two separate calls."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import draw


@pytest.mark.parametrize("views", [(1,), (2,), (1, 2, 1)], ids=["one view", "two views", "ragged batch"])
def test_plan_is_generate_and_sample_actions(
    model: Any, make_inputs: Callable, relative_error: Callable, views: tuple[int, ...]
) -> None:
    inputs, noise = make_inputs(*views), draw(len(views), 5, 3)
    actions = model.sample_actions(**inputs, noise=noise)
    sequences = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    plan = model.plan(**inputs, noise=noise, max_new_tokens=12, do_sample=False)
    assert torch.equal(plan.sequences, sequences)
    assert relative_error(plan.actions, actions) < 1e-5
    assert torch.equal(sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert plan.sequences.shape[1] > inputs["input_ids"].shape[1]


def test_generate_is_greedy_over_the_logits(model: Any, make_inputs: Callable) -> None:
    inputs = make_inputs(1)
    found = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
    ids, expected = inputs["input_ids"], []
    for _ in range(6):  # without a cache, one whole pass per token
        kinds = (ids == model.config.vlm_config.image_token_id).int()
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=kinds,
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
            ).logits
        expected.append(logits[0, -1].argmax().item())
        if expected[-1] == model.generation_config.eos_token_id:
            break
        ids = torch.cat([ids, torch.tensor([[expected[-1]]])], dim=1)
    assert found == expected


def test_text_does_not_depend_on_batch_mates(model: Any, make_inputs: Callable) -> None:
    together = make_inputs(1, 2, 1)
    width = together["input_ids"].shape[1]
    batch = model.generate(**together, max_new_tokens=10, do_sample=False)[:, width:]
    pad = model.generation_config.pad_token_id
    for row, views in enumerate((1, 2, 1)):
        alone = make_inputs(views, first=row)
        single = model.generate(**alone, max_new_tokens=10, do_sample=False)[0, alone["input_ids"].shape[1] :]
        assert batch[row, : len(single)].tolist() == single.tolist()
        assert (batch[row, len(single) :] == pad).all()


def test_calls_do_not_influence_each_other(model: Any, make_inputs: Callable) -> None:
    # The planner keeps its last multimodal position offset; it must not leak into another call.
    first, second, noise = make_inputs(2), make_inputs(1, first=1), draw(1, 5, 3)
    options = {"noise": noise, "max_new_tokens": 8, "do_sample": False}
    alone = model.plan(**second, **options)
    model.plan(**first, **options)
    again = model.plan(**second, **options)
    assert torch.equal(alone.sequences, again.sequences)
    assert torch.equal(alone.actions, again.actions)
    model.generate(**first, max_new_tokens=8, do_sample=False)
    assert torch.equal(model.sample_actions(**second, noise=noise), alone.actions)
    assert torch.equal(model.generate(**second, max_new_tokens=8, do_sample=False), alone.sequences)


@pytest.mark.parametrize("call", ["sample_actions", "plan", "generate", "forward", "labels"])
def test_missing_token_kinds_change_nothing(model: Any, make_inputs: Callable, call: str) -> None:
    # Without `mm_token_type_ids` the planner would take one-dimensional positions, and ground wrongly in silence.
    inputs, noise = make_inputs(1), draw(1, 5, 3)
    bare = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    run = {
        "sample_actions": lambda given: model.sample_actions(**given, noise=noise),
        "plan": lambda given: model.plan(**given, noise=noise, max_new_tokens=6, do_sample=False).sequences,
        "generate": lambda given: model.generate(
            **given, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
        ).logits[0],
        "forward": lambda given: model(**given).logits,
        "labels": lambda given: model(**given, labels=given["input_ids"]).lm_loss,
    }[call]
    with torch.no_grad():
        torch.testing.assert_close(run(bare), run(inputs), rtol=0, atol=0)


def test_missing_attention_mask_means_no_padding(model: Any, make_inputs: Callable) -> None:
    inputs, noise = make_inputs(1), draw(1, 5, 3)
    bare = {name: value for name, value in inputs.items() if name != "attention_mask"}
    assert torch.equal(model.sample_actions(**bare, noise=noise), model.sample_actions(**inputs, noise=noise))
    plans = [model.plan(**given, noise=noise, max_new_tokens=4, do_sample=False) for given in (bare, inputs)]
    assert torch.equal(plans[0].sequences, plans[1].sequences)
    losses = [model(**given, labels=given["input_ids"]).lm_loss for given in (bare, inputs)]
    assert losses[0] == losses[1]


def test_generation_settings_are_the_planners(model: Any) -> None:
    assert model.generation_config is model.vlm.generation_config
    assert model.generation_config.guidance_scale is None  # 1.5 is the action expert's, not the text's
    assert model.generation_config.eos_token_id == model.config.text_config.eos_token_id
    model.generation_config.max_new_tokens = 3
    assert model.vlm.generation_config.max_new_tokens == 3


def test_language_model_is_where_others_look_for_it(model: Any) -> None:
    assert model.base_model is model.vlm.model
    assert model.lm_head is model.vlm.lm_head is model.get_output_embeddings()
    assert model.get_input_embeddings() is model.vlm.get_input_embeddings()
    assert model.lm_head.weight is model.get_input_embeddings().weight  # tied
    assert model.can_generate()
    assert model.base_model_prefix == "vlm"
    assert model.accepts_loss_kwargs is False
    model.resize_token_embeddings(1030)
    assert model.lm_head.weight.shape == (1030, 64)
    assert model.config.text_config.vocab_size == 1030
