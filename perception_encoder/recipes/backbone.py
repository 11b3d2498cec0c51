"""Training a convolutional teacher: the run of section 2.1 with a network of timm in the vision tower's place.

It learns together with the text tower. The run writes two files: the network, and the model whose text tower learned
beside it while its vision tower stood by; the latter is what a student begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from perception_encoder.data.progress import Track, untracked
from perception_encoder.data.streams import Shards
from perception_encoder.distillation.backbone import BACKBONE, Backbone
from perception_encoder.errors import ConfigError
from perception_encoder.pretraining.run import Objective, PretrainingConfig, pretrain, tower_configs
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers
from perception_encoder.train.distributed import process_group
from perception_encoder.train.metrics import Listener
from perception_encoder.train.seed import torch_generator


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(PretrainingConfig):
    """All that decides a backbone's weights, but the data itself."""

    backbone: str = "resnet18d"
    """timm's name of the network."""
    locked: str | None = "visual"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.locked != "visual" or self.masking or self.lora or self.frames or self.parallel.kind == "fsdp":
            raise ConfigError(
                "a backbone stands for the vision tower: locked is 'visual', and masking, lora, frames and fsdp are off"
            )


class BackboneTowers(nn.Module):
    """A backbone and the text tower of `towers`, called as `Towers` is."""

    def __init__(self, backbone: Backbone, towers: Towers) -> None:
        super().__init__()
        self.backbone, self.towers = backbone, towers

    def forward(
        self, pictures: Tensor, tokens: Tensor, masked: Tensor | None = None, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """Embeddings of uint8 pictures (b, 3, H, W) and of token ids (u, T), the logit scale, and no mask loss."""
        images, texts = self.backbone(pictures), self.towers.encode_texts(tokens)
        return images.float(), texts.float(), self.towers.clip.logit_scale.exp(), None


def train_backbone(
    config: BackboneConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run, or go on with it; returns `OUT/backbone.safetensors`, a teacher's path. Raises what `pretrain` does."""
    _, text = tower_configs(config)
    backbone = Backbone(config.backbone, text.output_dim, torch_generator(config.seed))

    def make_task(towers: Towers) -> ContrastiveTask:
        return ContrastiveTask(BackboneTowers(backbone, towers))

    objective = Objective(make_task=make_task, picture_size=0, identity="", teacher=None)
    with process_group() as rank:
        pretrain(config, data, out, track, listener, objective)
        if rank.number == 0:
            backbone.write(out / BACKBONE, config.stages[-1].image_size)
    return out / BACKBONE
