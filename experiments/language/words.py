"""Align the built-in encoder to a language model's words: each patch is drawn to the word for what it shows.

Rendered data say what every patch shows: the object of a scene's mask, a document's word or digit. Labelled images say
it of the whole image. A projected patch and the language model's own embedding of the word are compared by cosine, so
the language model never runs: in the same time the encoder sees many times as many images as in a language alignment.
Linear heads, which are dropped afterwards, also read from it where the patch is, and where the box of its object is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from experiments.command_line import print_metrics, run_experiment
from experiments.language.word_targets import BACKGROUND, IGNORED, Labelled, WordNumbers
from perception_encoder.cli import output
from perception_encoder.cli.options import option, out_option
from perception_encoder.data.pairs import TensorBatch
from perception_encoder.files import write_json
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_models.decoder import Decoder
from perception_encoder.language_models.model import PerceptionLanguageModel
from perception_encoder.language_models.weights import (
    WEIGHTS,
    build_language_model,
    load_trained,
    read_trained,
    write_language_model,
)
from perception_encoder.models.checkpoints.find import RECORD
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.initialization import torch_generator
from perception_encoder.preprocess.image import open_image
from perception_encoder.progress import Track, untracked
from perception_encoder.training.checkpoint import check_run, run_directory
from perception_encoder.training.config import TrainingConfig
from perception_encoder.training.distributed import whole_model
from perception_encoder.training.loop import Section, Task, Validation, train_steps
from perception_encoder.training.metrics import Listener
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.run import describe_run

BACKGROUND_WEIGHT = 0.1
"""Most patches of a scene show its floor or a wall."""
SCALE = 10.0
"""Of the cosines, at first."""
LOSS_WEIGHTS = {"scenes": 1.0, "documents": 0.3, "labelled": 0.3, "colours": 0.5, "boxes": 0.3, "positions": 0.1}


@dataclass(frozen=True, kw_only=True)
class WordConfig(TrainingConfig):
    """All that decides the result, but the data."""

    model: LanguageConfig = field(default_factory=lambda: LanguageConfig(image_size=224, pool=1))
    """The encoder, its layer and size, and the language model."""
    initial: str | None = None
    """Weights of an earlier run."""
    steps: int = 2_000
    batch_size: int = 32
    warmup: int = 100
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adamw", lr=1e-3))


@dataclass(frozen=True)
class WordBatch(TensorBatch):
    """Images, and what they show."""

    images: Float[Tensor, "B 3 S S"]
    patches: Int[Tensor, "B P"]
    """The word's number of each patch; `IGNORED` if it is not known."""
    colours: Int[Tensor, "B P"]
    boxes: Int[Tensor, "B P 4"]
    """Left, top, right and bottom of each patch's object, in hundredths of the image, or `IGNORED`."""
    labels: Int[Tensor, " B"]
    """The word's number of a whole image, or `IGNORED`."""
    documents: Bool[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.images)


class WordModel(nn.Module):
    """An encoder and a projector beside the embeddings of words."""

    words: Tensor

    def __init__(self, model: PerceptionLanguageModel, words: Float[Tensor, "K dim"], grid: int) -> None:
        """`words`: centred embeddings of unit length; `grid`: patches along a side."""
        super().__init__()
        self.vision, self.projector = model.vision, model.projector
        self.scale = nn.Parameter(torch.tensor(SCALE))
        self.register_buffer("words", words)
        self.boxes = nn.Linear(words.shape[1], 4 * 2 * 10)
        self.positions = nn.Linear(words.shape[1], 2 * grid)
        self.grid = grid

    def forward(
        self, images: Float[Tensor, "B 3 S S"]
    ) -> tuple[Float[Tensor, "B P K"], Float[Tensor, "B P 4 2 10"], Float[Tensor, "B P 2 G"]]:
        """Scaled cosines of patches and words; logits of the digits of their objects' boxes, of rows and columns."""
        tokens = self.vision.forward_features(images, norm=False)[:, self.vision.num_prefix_tokens :]
        projected = functional.normalize(self.projector.projector(tokens).float(), dim=-1)
        boxes, positions = self.scale * self.boxes(projected), self.scale * self.positions(projected)
        words = self.scale * projected @ self.words.T
        return words, boxes.unflatten(-1, (4, 2, 10)), positions.unflatten(-1, (2, self.grid))


class WordTask(Task):
    """Classify patches by their word and their colour, and whole images by the mean over their patches."""

    validation: Validation | None = None

    def __init__(self, model: WordModel, colours: Sequence[int]) -> None:
        self.model: nn.Module = model
        self.colours = torch.tensor(colours)
        self.weights = torch.ones(len(model.words))
        self.weights[BACKGROUND] = BACKGROUND_WEIGHT

    def losses(self, batch: WordBatch) -> dict[str, Tensor]:
        """Weighted means over the patches of each source, so that none drowns another; of no target, zero."""
        logits, boxes, positions = self.model(batch.images)  # (B, P, K), (B, P, 4, 2, 10), (B, P, 2, G)
        pages = batch.documents[:, None]
        digits = torch.stack([batch.boxes // 10, batch.boxes % 10], -1)
        digits = digits.masked_fill(batch.boxes[..., None] == IGNORED, IGNORED)
        side = positions.shape[-1]
        cells = torch.cartesian_prod(*[torch.arange(side, device=logits.device)] * 2)
        rows = {
            "scenes": (logits, batch.patches.masked_fill(pages, IGNORED), self.weights),
            "documents": (logits, batch.patches.masked_fill(~pages, IGNORED), self.weights),
            "labelled": (logits.mean(1), batch.labels, None),
            "colours": (logits[..., self.colours], batch.colours, None),
            "boxes": (boxes, digits, None),
            "positions": (positions, cells.expand(len(batch), -1, -1), None),
        }
        return {
            name: LOSS_WEIGHTS[name] * mean_cross_entropy(scores.flatten(0, -2), targets.flatten(), weights)
            for name, (scores, targets, weights) in rows.items()
        }


def mean_cross_entropy(
    scores: Float[Tensor, "N K"], targets: Int[Tensor, " N"], weights: Float[Tensor, " K"] | None
) -> Tensor:
    """The mean over the targets that are not `IGNORED`; zero without any."""
    if bool((targets != IGNORED).any()):
        return functional.cross_entropy(scores, targets, weights, ignore_index=IGNORED)
    return scores.sum() * 0


class WordBatches:
    """The batch of each step; a pure function of the step. Scenes and labelled images are mirrored at random."""

    def __init__(self, sources: Mapping[str, Sequence[Labelled]], config: WordConfig) -> None:
        self.sources, self.config = [source for source in sources.values() if source], config
        self.size = config.model.image_size or 224

    def __call__(self, step: int) -> WordBatch:
        generator = np.random.default_rng([self.config.seed, step])
        shares = np.array([len(source) for source in self.sources], float)
        drawn = generator.choice(len(self.sources), self.config.batch_size, p=shares / shares.sum())
        chosen = [self.sources[at][int(generator.integers(len(self.sources[at])))] for at in drawn]
        mirrored = generator.random(len(chosen)) < 0.5
        images, targets = [], []
        for item, mirror in zip(chosen, mirrored, strict=True):
            pixels = np.asarray(open_image(item.image, item.key).convert("RGB").resize((self.size, self.size)))
            placed = item.mirrored() if mirror and item.symmetric else item
            images.append(pixels[:, ::-1] if placed is not item else pixels)
            targets.append(placed)
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        patches = torch.from_numpy(np.stack([entry.patches for entry in targets])).long()
        colours = torch.from_numpy(np.stack([target.colours for target in targets])).long()
        boxes = torch.from_numpy(np.stack([target.boxes for target in targets])).long()
        labels = torch.tensor([target.label for target in targets])
        return WordBatch(
            batch, patches, colours, boxes, labels, torch.tensor([not value.symmetric for value in targets])
        )


def word_embeddings(decoder: Decoder, words: Sequence[str]) -> Float[Tensor, "K dim"]:
    """The mean of a word's token embeddings, less the mean of all tokens, of unit length."""
    table = decoder.model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    centre, rows = table.mean(0), []
    for word in words:
        ids = decoder.tokenizer(word if len(word) == 1 else f" {word}", add_special_tokens=False)["input_ids"]
        rows.append((table[torch.tensor(ids)] - centre).mean(0))
    return functional.normalize(torch.stack(rows), dim=1)


def align_words(
    config: WordConfig,
    sources: Mapping[str, Sequence[Labelled]],
    words: Sequence[str],
    colours: Sequence[int],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run, or resume; return the weights, which `initial` of a language alignment takes.

    `sources`: what their patches show, as `word_targets` numbers the words; `colours`: the numbers of the colours.
    """
    with run_directory(out):
        model, decoder = build_language_model(config.model.parts, torch_generator(config.seed))
        if config.initial is not None:
            initial = Path(config.initial)
            load_trained(initial, *read_trained(initial), model)
        model.requires_grad_(False)
        patch = model.vision.config.patch_size
        word_model = WordModel(model, word_embeddings(decoder, words), config.model.parts.media.image_size // patch)
        word_model.vision.requires_grad_(True)
        word_model.projector.requires_grad_(True)
        counts = {name: len(source) for name, source in sources.items()}
        fingerprint = config.fingerprint([repr(sorted(counts.items())), *words])
        check_run(out, fingerprint)
        write_json(out / RECORD, describe_run(config, fingerprint, counts))
        batches = WordBatches(sources, config)
        train_steps(Section(WordTask(word_model, colours), batches), config, out, fingerprint, listener)
        whole_model(word_model)
        calibrate(model, batches(0).images)
        write_language_model(out / WEIGHTS, config.model.parts, model, vision=True, decoder=False)
    return out / WEIGHTS


@torch.no_grad()
def calibrate(model: PerceptionLanguageModel, images: Float[Tensor, "B 3 S S"]) -> None:
    """Give the projected patches the mean and the length of the language model's embeddings, in place."""
    table = model.decoder.get_input_embeddings().weight  # type: ignore[operator]
    centre = table.mean(0)
    lengths = model.projector.projector(model.image_features(images)).norm(dim=-1)
    factor = (table - centre).norm(dim=1).mean() / lengths.mean()
    last = model.projector.projector[-1]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(factor)
    last.bias.mul_(factor).add_(centre)


def words(
    scenes: Annotated[list[Path], option("Directory of a split of rendered scenes; repeat for more.", "DIR")],
    documents: Annotated[list[Path] | None, option("words.jsonl of rendered documents; repeat.", "FILE")] = None,
    labelled: Annotated[list[Path] | None, option("Shard of labelled images; repeat.", "FILE")] = None,
    initial: Annotated[str | None, option("Weights of an earlier run.", "FILE")] = None,
    image_size: Annotated[int, option("Side of the images, in pixels.", "N", least=1)] = 224,
    batch_size: Annotated[int, option("Images of a step.", "N", least=1)] = 32,
    steps: Annotated[int, option("Steps.", "N", least=1)] = WordConfig.steps,
    out: Annotated[Path, out_option("Directory of the run.")] = Path("runs/language_builtin_words"),
) -> None:
    """Align the built-in encoder to SmolLM2's words: the first stage of the built-in language model.

    A stopped run resumes if the command is repeated.

    Examples:

        python -m experiments.language.words --scenes scenes/train --image-size 160 --batch-size 64 -o runs/words_scenes
        python -m experiments.language.words --scenes scenes/train --labelled photos/train.tar \\
            --documents receipts/train/words.jsonl --initial runs/words_scenes/language.safetensors
    """
    from perception_encoder.cli.output import track

    model = LanguageConfig(image_size=image_size, pool=1)
    config = WordConfig(model=model, initial=initial, batch_size=batch_size, steps=steps)
    grid = image_size // find_entry(model.encoder).vision.patch_size
    documents, labelled = documents or [], labelled or []
    numbers = WordNumbers.of(scenes, documents, labelled)
    sources = {
        "scenes": numbers.scenes(scenes, grid),
        "documents": numbers.documents(documents, grid),
        "labelled": numbers.labelled(labelled, grid),
    }
    counts = ", ".join(f"{len(source):,} {name}" for name, source in sources.items())
    output.print_line(f"{len(numbers.words):,} words; {counts}")
    path = align_words(config, sources, numbers.words, numbers.colours, out, track, print_metrics)
    output.print_line(f"written: {path}")


if __name__ == "__main__":
    run_experiment("language.words", words)
