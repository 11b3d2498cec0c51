"""The stage of language alignment (section 4)."""

from __future__ import annotations

from functools import partial

from perception_encoder.training.stage import Stage, deferred

recipe = partial(deferred, "perception_encoder.language_alignment.recipes")

STAGE = Stage(
    name="language",
    run=deferred("perception_encoder.language_alignment.run", "align_language"),
    plan=deferred("perception_encoder.language_alignment.plan", "plan_language"),
    debug=recipe("debug_language"),
    recipes={
        "language_g14_warmup": (
            "PLM, stage 1, on PE-Core-G: the projector, 4 million samples",
            recipe("warmup", "g14"),
        ),
        "language_l14_warmup": (
            "PLM, stage 1, on PE-Core-L: the projector, 4 million samples",
            recipe("warmup", "l14"),
        ),
        "language_g14": (
            "PE-Lang-G with tiles (PLM, stage 2): everything, 72 million samples",
            recipe("alignment", "g14"),
        ),
        "language_l14": (
            "PE-Lang-L with tiles (PLM, stage 2): everything, 72 million samples",
            recipe("alignment", "l14"),
        ),
        "language_g14_untiled": ("PE-Lang-G without tiles: everything, 72 million samples", recipe("untiled", "g14")),
        "language_l14_untiled": ("PE-Lang-L without tiles: everything, 72 million samples", recipe("untiled", "l14")),
        "language_g14_stage3": (
            "PLM, stage 3, on PE-Lang-G: 36 tiles, 32 frames, 22 million samples",
            recipe("third_stage", "g14"),
        ),
        "language_l14_stage3": (
            "PLM, stage 3, on PE-Lang-L: 36 tiles, 32 frames, 22 million samples",
            recipe("third_stage", "l14"),
        ),
        "language_g14_frozen_llama_warmup": (
            "PE-Core-G, frozen, Llama-3.1-8B: the projector, 1 million samples",
            recipe("frozen_warmup", "g14", "llama"),
        ),
        "language_l14_frozen_llama_warmup": (
            "PE-Core-L, frozen, Llama-3.1-8B: the projector, 1 million samples",
            recipe("frozen_warmup", "l14", "llama"),
        ),
        "language_g14_frozen_llama": (
            "PE-Core-G, frozen, Llama-3.1-8B: the benchmark, 3 million samples",
            recipe("frozen", "g14", "llama"),
        ),
        "language_l14_frozen_llama": (
            "PE-Core-L, frozen, Llama-3.1-8B: the benchmark, 3 million samples",
            recipe("frozen", "l14", "llama"),
        ),
        "language_g14_frozen_qwen_warmup": (
            "PE-Core-G, frozen, Qwen2.5-7B: the projector, 1 million samples",
            recipe("frozen_warmup", "g14", "qwen"),
        ),
        "language_l14_frozen_qwen_warmup": (
            "PE-Core-L, frozen, Qwen2.5-7B: the projector, 1 million samples",
            recipe("frozen_warmup", "l14", "qwen"),
        ),
        "language_g14_frozen_qwen": (
            "PE-Core-G, frozen, Qwen2.5-7B: the benchmark, 3 million samples",
            recipe("frozen", "g14", "qwen"),
        ),
        "language_l14_frozen_qwen": (
            "PE-Core-L, frozen, Qwen2.5-7B: the benchmark, 3 million samples",
            recipe("frozen", "l14", "qwen"),
        ),
        "language_custom": ("PE-Core-L and SmolLM2-1.7B by LoRA on your questions", recipe("custom_questions")),
    },
)
