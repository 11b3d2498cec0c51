"""`python -m experiments.ablation`: the paper's ablation of section 2.1 and its scaling curves, at the paper's size."""

from __future__ import annotations

import dataclasses
from functools import partial

from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.pretraining.config import MaskRegularization, PretrainingConfig
from perception_encoder.pretraining.recipes import MINUTES, RECOMPUTED, WARMUP, stages_of
from perception_encoder.stages import PRETRAINING
from perception_encoder.training.optimizer import OptimizerConfig
from synthetic.command_line import run_command
from synthetic.train import train_command

LAST_STEP = 9
FOURTEENTHS = {"s14": "PE-Core-S16-384", "b14": "PE-Core-B16-224", "l14": "PE-Core-L14-336"}
HELP = """Train a point of the paper's ablation or of its scaling curves.

    As `pe train`, with these recipes: `ablation_1` to `ablation_9` are the nine steps of section 2.1 (Fig. 2);
    `vanilla_…` and `full_…` the curves over model size (Fig. 3) and length of training (Fig. 4).

    Examples:

        python -m experiments.ablation --list
        python -m experiments.ablation ablation_9 --plan --devices 64
        python -m experiments.ablation full_s14 --shards shards/ -o runs/full_s14
    """


def ablation(step: int) -> PretrainingConfig:
    """Train ViT-L/14 with the paper's nine steps up to this one; ConfigError for another number.

    1 is the baseline, and each further one changes what section 2.1 says and nothing else: 2 progressive resolution, 3
    a batch and samples twice as large, 4 LAMB, 5 a stage at 336 px, 6 2D RoPE, 7 attention pooling, 8 augmentation,
    9 mask regularisation. The paper leaves open the text tower (here that of PE-Core-L), AdamW's betas and decay (here
    LAMB's, of what decays in open_clip), the split of step 3 (equal parts, as step 2's), and what an image goes
    through before step 8 (here it is squashed to a square).
    """
    if not 1 <= step <= LAST_STEP:
        raise ConfigError(f"the ablation step must be 1 to {LAST_STEP}, not {step}")
    batch_size = 32_768 if step < 3 else 65_536
    shares = {224: 1} if step < 2 else {98: 1, 154: 1, 224: 1} if step < 5 else {98: 10, 154: 8, 224: 4, 336: 2}
    samples = 12_000_000_000 if step < 3 else 24_000_000_000
    lamb = OptimizerConfig(decay_tables=True)
    return PretrainingConfig(
        model="PE-Core-L14-336",
        stages=stages_of(shares, round(samples / batch_size)),
        batch_size=batch_size,
        warmup=WARMUP,
        optimizer=dataclasses.replace(lamb, name="adamw", lr=5e-4) if step < 4 else lamb,
        rope=step >= 6,
        attention_pool=step >= 7,
        augmentation=Augmentation() if step >= 8 else None,
        masking=MaskRegularization() if step >= 9 else None,
        parallel=RECOMPUTED,
        half=False,
        image_side=max(shares),
        log_every=10,
        checkpoint_every=1_000,
        checkpoint_minutes=MINUTES,
    )


def scaling(step: int, size: str, steps: int = 360_000) -> PretrainingConfig:
    """One point of the curves over model size ("s14", "b14", "l14": Fig. 3) and length (120K, 240K, 360K: Fig. 4).

    `step`: of the ablation, 1 for the CLIP baseline and 9 for the whole recipe. The text towers are those of PE-Core-S,
    -B and -L, which the paper leaves open.
    """
    config = ablation(step)
    shares = {stage.image_size: stage.steps for stage in config.stages}
    return dataclasses.replace(config, model=FOURTEENTHS[size], patch_size=14, stages=stages_of(shares, steps))


RECIPES = {
    "ablation_1": ("ViT-L/14, step 1: the CLIP baseline", partial(ablation, 1)),
    "ablation_2": ("ViT-L/14, steps 1 to 2: progressive resolution", partial(ablation, 2)),
    "ablation_3": ("ViT-L/14, steps 1 to 3: twice the batch and the pairs", partial(ablation, 3)),
    "ablation_4": ("ViT-L/14, steps 1 to 4: LAMB", partial(ablation, 4)),
    "ablation_5": ("ViT-L/14, steps 1 to 5: a stage at 336 px", partial(ablation, 5)),
    "ablation_6": ("ViT-L/14, steps 1 to 6: 2D RoPE", partial(ablation, 6)),
    "ablation_7": ("ViT-L/14, steps 1 to 7: attention pooling", partial(ablation, 7)),
    "ablation_8": ("ViT-L/14, steps 1 to 8: augmentation", partial(ablation, 8)),
    "ablation_9": ("ViT-L/14, steps 1 to 9: mask regularisation", partial(ablation, 9)),
    "vanilla_s14": ("ViT-S/14: the CLIP baseline (Fig. 3)", partial(scaling, 1, "s14")),
    "full_s14": ("ViT-S/14: all nine steps (Fig. 3)", partial(scaling, 9, "s14")),
    "vanilla_b14": ("ViT-B/14: the CLIP baseline (Fig. 3)", partial(scaling, 1, "b14")),
    "full_b14": ("ViT-B/14: all nine steps (Fig. 3)", partial(scaling, 9, "b14")),
    "vanilla_l14_120k": ("ViT-L/14: CLIP (Fig. 4)", partial(scaling, 1, "l14", 120_000)),
    "full_l14_120k": ("ViT-L/14: all nine (Fig. 4)", partial(scaling, 9, "l14", 120_000)),
    "vanilla_l14_240k": ("ViT-L/14: CLIP (Fig. 4)", partial(scaling, 1, "l14", 240_000)),
    "full_l14_240k": ("ViT-L/14: all nine (Fig. 4)", partial(scaling, 9, "l14", 240_000)),
    "vanilla_l14_360k": ("ViT-L/14: CLIP (Figs. 3, 4)", partial(scaling, 1, "l14", 360_000)),
    "full_l14_360k": ("ViT-L/14: all nine (Figs. 3, 4)", partial(scaling, 9, "l14", 360_000)),
}
STAGES = (dataclasses.replace(PRETRAINING, recipes=RECIPES),)

if __name__ == "__main__":
    run_command("experiments.ablation", train_command(STAGES, HELP))
