"""Robust image pretraining (section 2.1)."""

from __future__ import annotations

from perception_encoder.training.stage import Stage

ROWS = {
    "core_n16": ("PE-Core-N, the size of the built-in model, on your pairs: two hours on 2 cores", "core_n16"),
    "core_t16": ("PE-Core-T: 58 billion pairs", "core", "t16"),
    "core_s16": ("PE-Core-S: 58 billion pairs", "core", "s16"),
    "core_b16": ("PE-Core-B: 58 billion pairs", "core", "b16"),
    "core_l14": ("PE-Core-L: 58 billion pairs", "core", "l14"),
    "core_g14": ("PE-Core-G: 86 billion pairs", "core", "g14"),
    "core_t16_cooldown": ("PE-Core-T, cooldown: 50 million pairs", "cooldown", "t16"),
    "core_s16_cooldown": ("PE-Core-S, cooldown: 50 million pairs", "cooldown", "s16"),
    "core_b16_cooldown": ("PE-Core-B, cooldown: 50 million pairs", "cooldown", "b16"),
    "core_l14_cooldown": ("PE-Core-L, cooldown: 50 million pairs", "cooldown", "l14"),
    "core_g14_cooldown": ("PE-Core-G, cooldown: 50 million pairs", "cooldown", "g14"),
    "video_finetune_t16": ("PE-Core-T, video finetuning: 22 million videos", "video_finetune", "t16"),
    "video_finetune_s16": ("PE-Core-S, video finetuning: 22 million videos", "video_finetune", "s16"),
    "video_finetune_b16": ("PE-Core-B, video finetuning: 22 million videos", "video_finetune", "b16"),
    "video_finetune_l14": ("PE-Core-L, video finetuning: 22 million videos", "video_finetune", "l14"),
    "video_finetune_g14": ("PE-Core-G, video finetuning: 22 million videos", "video_finetune", "g14"),
    "video_finetune_builtin": ("the built-in model on a thousand clips: ten minutes", "video_finetune_builtin"),
    "distill_l14": ("PE-Core-G into PE-Core-L: 4.4 billion pairs", "distill_core", "l14"),
    "distill_b16": ("PE-Core-G into PE-Core-B: 4.4 billion pairs", "distill_core", "b16"),
    "distill_s16": ("PE-Core-G into PE-Core-S: 4.4 billion pairs", "distill_core", "s16"),
    "distill_t16": ("PE-Core-G into PE-Core-T: 4.4 billion pairs", "distill_core", "t16"),
    "distill_builtin": ("a model, --set teacher=…, into the built-in one", "distill_builtin"),
    "finetune": ("weights, --set initial=…, on your pairs", "finetune"),
}
STAGE = Stage.deferred(
    "contrastive",
    __name__,
    ROWS,
    run="run.pretrain",
    plan="recipes.plan_pretraining",
    debug="recipes.debug_pretraining",
    streams=True,
)
