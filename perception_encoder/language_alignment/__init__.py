"""Language alignment (section 4): an encoder, a projector and a language model that answers questions about images."""

from __future__ import annotations

from perception_encoder.training.stage import Stage

ROWS = {
    "language_g14_warmup": ("PLM, stage 1, on PE-Core-G: the projector, 4 million samples", "warmup", "g14"),
    "language_l14_warmup": ("PLM, stage 1, on PE-Core-L: the projector, 4 million samples", "warmup", "l14"),
    "language_g14": ("PE-Lang-G with tiles (PLM, stage 2): everything, 72 million samples", "alignment", "g14"),
    "language_l14": ("PE-Lang-L with tiles (PLM, stage 2): everything, 72 million samples", "alignment", "l14"),
    "language_g14_untiled": ("PE-Lang-G without tiles: everything, 72 million samples", "untiled", "g14"),
    "language_l14_untiled": ("PE-Lang-L without tiles: everything, 72 million samples", "untiled", "l14"),
    "language_g14_stage3": ("PLM, stage 3, on PE-Lang-G: 36 tiles, 32 frames, 22 million", "third_stage", "g14"),
    "language_l14_stage3": ("PLM, stage 3, on PE-Lang-L: 36 tiles, 32 frames, 22 million", "third_stage", "l14"),
    "language_g14_frozen_llama_warmup": ("PE-Core-G, Llama-3.1-8B: the projector", "frozen_warmup", "g14", "llama"),
    "language_l14_frozen_llama_warmup": ("PE-Core-L, Llama-3.1-8B: the projector", "frozen_warmup", "l14", "llama"),
    "language_g14_frozen_llama": ("PE-Core-G, frozen, Llama-3.1-8B: the benchmark", "frozen", "g14", "llama"),
    "language_l14_frozen_llama": ("PE-Core-L, frozen, Llama-3.1-8B: the benchmark", "frozen", "l14", "llama"),
    "language_g14_frozen_qwen_warmup": ("PE-Core-G, Qwen2.5-7B: the projector", "frozen_warmup", "g14", "qwen"),
    "language_l14_frozen_qwen_warmup": ("PE-Core-L, Qwen2.5-7B: the projector", "frozen_warmup", "l14", "qwen"),
    "language_g14_frozen_qwen": ("PE-Core-G, frozen, Qwen2.5-7B: the benchmark", "frozen", "g14", "qwen"),
    "language_l14_frozen_qwen": ("PE-Core-L, frozen, Qwen2.5-7B: the benchmark", "frozen", "l14", "qwen"),
    "language_custom": ("PE-Core-L and SmolLM2-1.7B by LoRA on your questions", "custom_questions"),
}
STAGE = Stage.deferred(
    "language", __name__, ROWS, run="run.align_language", plan="plan.plan_language", debug="recipes.debug_language"
)
