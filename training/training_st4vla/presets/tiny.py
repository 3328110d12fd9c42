"""The `tiny` preset: a complete ST4VLA of at most 9.5 M parameters that trains on two CPU cores."""

from typing import Any

from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from modeling_st4vla import ST4VLAConfig
from processing_st4vla import ST4VLAProcessor
from training_st4vla.presets.tiny_tokenizer import VOCABULARY_SIZE, build_tiny_tokenizer

TEXT_SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VISION_SIZES: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 384,
    "depth": 6,
    "num_heads": 4,
    "fullatt_block_indexes": [2, 5],
    "window_size": 112,
}
ENCODER_SIZES: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 224,
}
QUERY_WIDTH = 128
EXPERT_SIZES: dict[str, Any] = {"hidden_size": 128, "num_layers": 4, "num_heads": 4, "condition_dropout": 0.1}


def build_tiny_processor() -> ST4VLAProcessor:
    """The processor of the tiny preset, with its own tokenizer and no action contract yet."""
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28}
    tokenizer = build_tiny_tokenizer()
    return ST4VLAProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=pixels),
        chat_template=tokenizer.chat_template,
    )


def build_tiny_config(
    processor: ST4VLAProcessor, action_dim: int, chunk_size: int, state_dim: int | None
) -> ST4VLAConfig:
    """The config of the tiny preset, with the token ids of `processor`."""

    def token_id(token: str) -> int:
        return processor.tokenizer.convert_tokens_to_ids(token)

    head_dim = TEXT_SIZES["hidden_size"] // TEXT_SIZES["num_attention_heads"]
    # Multimodal rotary positions share the head's frequencies between time, height and width, as 1 : 1.5 : 1.5.
    time = head_dim // 8
    section = [time, (head_dim // 2 - time) // 2, (head_dim // 2 - time) // 2]
    vlm_config = {
        "model_type": "qwen2_5_vl",
        "text_config": {
            **TEXT_SIZES,
            "vocab_size": VOCABULARY_SIZE,
            "rope_parameters": {"rope_type": "default", "mrope_section": section, "rope_theta": 1_000_000.0},
            "tie_word_embeddings": True,
            "bos_token_id": token_id("<|im_start|>"),
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": token_id("<|endoftext|>"),
        },
        "vision_config": {**VISION_SIZES, "out_hidden_size": TEXT_SIZES["hidden_size"]},
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
        "tie_word_embeddings": True,
    }
    return ST4VLAConfig(
        vlm_config=vlm_config,
        vision_encoder_config={"model_type": "dinov2", **ENCODER_SIZES},
        query_hidden_size=QUERY_WIDTH,
        query_num_heads=4,
        action_expert=EXPERT_SIZES,
        action_dim=action_dim,
        chunk_size=chunk_size,
        state_dim=state_dim,
    )


__all__ = ["build_tiny_config", "build_tiny_processor"]
