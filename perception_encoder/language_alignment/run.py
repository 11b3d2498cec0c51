"""Run a language alignment: wire its configuration to conversations, the training loop and a directory (section 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from perception_encoder.data.conversation_files import Expand
from perception_encoder.data.conversation_records import ConversationSample
from perception_encoder.data.conversations import Conversations, open_conversations
from perception_encoder.data.sampler import WeightedSampler
from perception_encoder.errors import ConfigError
from perception_encoder.language_alignment.batch import Example, LanguageBatch, collate
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.feature_file import FeatureFile
from perception_encoder.language_alignment.load import WEIGHTS
from perception_encoder.language_alignment.plan import language_cost, shape_of
from perception_encoder.language_alignment.task import Aligned, HeldOutAnswers, LanguageAlignmentTask
from perception_encoder.language_alignment.text.adapters import add_decoder_adapters, merge_decoder_adapters
from perception_encoder.language_alignment.text.fresh_decoder import FRESH, write_fresh_decoder
from perception_encoder.language_alignment.weights import (
    Parts,
    build_language_model,
    load_trained,
    naming,
    read_trained,
    write_language_model,
)
from perception_encoder.models.checkpoints.weights import weight_hash
from perception_encoder.models.precision import fast_autocast
from perception_encoder.preprocess.conversation import MediaPart
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.preprocess.image import content_key
from perception_encoder.preprocess.tiling import media_pixels
from perception_encoder.progress import Track, untracked
from perception_encoder.ranks import Rank
from perception_encoder.training.checkpoint import check_run, load_weights, run_directory, write_best
from perception_encoder.training.cost import RunCost
from perception_encoder.training.distributed import Exchange, process_group, whole_model
from perception_encoder.training.loop import train
from perception_encoder.training.metrics import Listener, describe_run, write_record
from perception_encoder.training.seed import torch_generator
from perception_encoder.training.validation import choose_metric

FRESH_SAMPLES = 4000
"""Conversations of each source from which the vocabulary of a fresh language model is made."""
PROCEDURE = 2
"""Rises when the same configuration and data give another result."""


def align_language(
    config: LanguageConfig,
    data: Sequence[Path],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
    expand: Expand | None = None,
) -> Path:
    """Run, or resume, a language alignment; return the weights that it wrote, `OUT/language.safetensors`.

    `data`, `expand`: as `open_conversations` reads them. A validated run also writes `OUT/best.safetensors`.
    Raises ConfigError, DataError, CheckpointError, and OutputError, also if another run is training in `out`.
    """
    with process_group() as rank, run_directory(out):
        run = LanguageRun(config, data, out, rank, track, expand)
        run.train(listener)
        return run.write()


class LanguageRun:
    """A run's data, model and directory; raises what `align_language` does, before any step."""

    def __init__(
        self,
        config: LanguageConfig,
        data: Sequence[Path],
        out: Path,
        rank: Rank,
        track: Track,
        expand: Expand | None = None,
    ) -> None:
        higher_is_better = HeldOutAnswers.higher_is_better
        self.metric = choose_metric(config.validation, higher_is_better) if config.validation else ""
        self.config, self.out, self.rank = config, out, rank
        sources = [open_conversations(path, skip_bad=config.skip_bad, expand=expand, track=track) for path in data]
        self.trainee = LanguageTrainee(self._with_decoder(sources))
        share = config.validation.share if config.validation else 0.0
        parts = [source.split(share) for source in sources] if share else [(source, None) for source in sources]
        self.training, held_out = [part for part, _ in parts], [part for _, part in parts if part is not None]
        weights = f"{weight_hash(self.trainee.model.vision)} {config.decoder}"
        names = [f"procedure {PROCEDURE}", weights, *(source.fingerprint for source in sources)]
        self.fingerprint = config.fingerprint(names)
        check_run(out, self.fingerprint)
        counts = {str(path): len(source) for path, source in zip(data, self.training, strict=True)}
        self.record = describe_run(config, self.fingerprint, counts)
        if rank.number == 0:
            write_record(out, self.record)
        examples = Examples(config, self.trainee, self._features())
        self.batches = ConversationBatches(config, self.training, examples, rank)
        validation = None
        if config.validation is not None and any(map(len, held_out)):
            most = -(-config.validation.size // len(held_out))  # of each source
            samples = [source[number] for source in held_out for number in range(min(most, len(source)))]
            batches = _held_out_batches(examples, samples, config.batch_size, track)
            validation = HeldOutAnswers(self.trainee.aligned, batches)
        else:
            self.config = dataclasses.replace(config, validation=None)
        self.task = LanguageAlignmentTask(self.trainee.aligned, config.drop_path, config.seed, validation)

    def _with_decoder(self, sources: Sequence[Conversations]) -> LanguageConfig:
        """The configuration with the path of the language model that is made for this run, if it is."""
        if self.config.decoder != FRESH:
            return self.config
        texts = [text for source in sources for sample in _spread(source, FRESH_SAMPLES) for _, text in sample.turns]
        if self.rank.number == 0:
            write_fresh_decoder(self.out / "decoder", texts, torch_generator(self.config.seed, 3))
        Exchange()(None)  # the others wait for it
        return dataclasses.replace(self.config, decoder=str(self.out / "decoder"))

    def _features(self) -> FeatureFile | None:
        """Where the frozen tower's features are cached; None if it is trained, or shared out by FSDP."""
        shared = self.config.parallel.kind == "fsdp" and self.rank.of > 1
        if self.config.train_vision or not self.config.cached or shared:
            return None
        vision, media = self.trainee.model.vision, self.trainee.parts.media
        rows, columns = vision.grid_of(media.image_size, media.image_size)
        name = f"{weight_hash(vision)}-{media.image_size}-{self.rank.number}"
        return FeatureFile(self.out / "features" / name, rows * columns, vision.config.width)

    def train(self, listener: Listener | None) -> None:
        """Train to the end."""
        train(self.task, self.batches, self.config, self.out, self.fingerprint, listener, cost=self._cost())

    def _cost(self) -> RunCost | None:
        """None for a language model whose operations are not known."""
        decoder, size = self.trainee.decoder, self.trainee.parts.media.image_size
        vision = dataclasses.replace(self.trainee.model.vision.config, image_size=size)
        try:
            return language_cost(self.config, vision, shape_of(decoder.model.config, decoder.name))
        except ConfigError:
            return None

    def write(self) -> Path:
        """Write the weights, and those of the best validated step; return the path of the former."""
        path = self.out / WEIGHTS
        whole_model(self.trainee.aligned)
        if self.rank.number == 0:
            self.trainee.write(path)
            write_record(self.out, self.record | write_best(path, self.config, self.metric, self._write_step))
        return path

    def _write_step(self, step: int, path: Path) -> None:
        """Write the weights as they were after a step."""
        trainee = LanguageTrainee(self.trainee.config)
        load_weights(self.out, step, trainee.aligned)
        trainee.write(path)


class LanguageTrainee:
    """The model of a run, with what is trained marked so."""

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        generator = torch_generator(config.seed)
        self.parts, state = config.parts, dict[str, Tensor]()
        initial = Path(config.initial) if config.initial is not None else None
        if initial is not None:
            earlier, state = read_trained(initial)
            if earlier.decoder != config.decoder:  # of use to another language model is the tower alone
                tower = {name: getattr(earlier, name) for name in ("encoder", "layer", "layer_scale")}
                earlier = dataclasses.replace(self.parts, lora=None, **tower)
                state = {name: value for name, value in state.items() if name.startswith("vision.")}
            self.parts = _continued(config, self.parts, earlier)
            before = dataclasses.replace(self.parts, layer_scale=earlier.layer_scale)
            with naming(initial):
                self.model, self.decoder = build_language_model(before, generator)
            load_trained(initial, earlier, state, self.model)
            if self.parts.lora is None:
                merge_decoder_adapters(self.model.decoder)
            if self.parts.layer_scale is not None and self.model.vision.config.layer_scale is None:
                self.model.vision.add_layer_scale(self.parts.layer_scale)
        else:
            self.model, self.decoder = build_language_model(self.parts, generator)
        self.vision_trained = config.train_vision or any(name.startswith("vision.") for name in state)
        self.decoder_trained = config.train_decoder or any(name.startswith("decoder.") for name in state)
        if self.parts.lora is not None and not any("lora_" in name for name in state):
            add_decoder_adapters(self.model.decoder, self.parts.lora, generator)
        self._mark()
        size = self.parts.media.image_size
        self.aligned = Aligned(self.model, self.model.vision.grid_of(size, size))

    def _mark(self) -> None:
        """Let exactly what is trained have gradients."""
        config, model = self.config, self.model
        model.requires_grad_(False)
        model.projector.requires_grad_(True)
        model.vision.requires_grad_(config.train_vision)
        for name, parameter in model.decoder.named_parameters():
            parameter.requires_grad_(config.train_decoder and (self.parts.lora is None or "lora_" in name))
        if config.train_vision:
            model.vision.set_grad_checkpointing(config.parallel.checkpointing)
        if config.parallel.checkpointing:
            decoder: Any = model.decoder
            enable = getattr(decoder, "activation_checkpointing_enable", None)  # its name since transformers 5
            (enable or decoder.gradient_checkpointing_enable)({"use_reentrant": False})

    def write(self, path: Path) -> None:
        """Write what was trained."""
        write_language_model(path, self.parts, self.model, self.vision_trained, self.decoder_trained, self.config.half)


def _continued(config: LanguageConfig, own: Parts, earlier: Parts) -> Parts:
    """Return the parts of a run that continues an earlier one: what the configuration gives, else what that one had.

    `own`: the configuration's, with the defaults. Raises ConfigError for what cannot change.
    """
    if config.lora is not None and earlier.lora not in (None, config.lora):
        raise ConfigError(f"initial has adapters of {earlier.lora}; they cannot become {config.lora}")
    if config.linear not in (None, earlier.linear):
        kinds = {True: "is linear", False: "has two layers"}
        raise ConfigError(
            f"linear is {str(config.linear).lower()}, but the projector of {config.initial} {kinds[earlier.linear]}; "
            "leave `linear` out, or take another `initial`"
        )
    size = config.image_size or earlier.media.image_size
    return dataclasses.replace(
        earlier,
        layer_scale=own.layer_scale if earlier.layer_scale is None else earlier.layer_scale,
        context=own.context,
        chat_template=config.chat_template or earlier.chat_template,
        pool=config.pool or earlier.pool,
        lora=config.lora if config.train_decoder else earlier.lora,
        media=dataclasses.replace(own.media, image_size=size),
    )


class Examples:
    """Turns conversations into examples: prompts with labels, and pixels or cached features."""

    def __init__(self, config: LanguageConfig, trainee: LanguageTrainee, features: FeatureFile | None) -> None:
        self.config, self.model = config, trainee.model
        prompts = trainee.decoder.prompts
        self.prompts = dataclasses.replace(prompts, context=config.training_context or prompts.context)
        self.media, self.features = trainee.parts.media, features
        self._tokens = trainee.model.projector.tokens_of(trainee.aligned.grid)

    def example(self, sample: ConversationSample) -> Example:
        """One conversation; InputError, named by the sample, for a damaged image, ConfigError if it does not fit."""
        messages = sample.messages(self.config.frames)
        media = [item for message in messages for item in message.media]
        alone, features = len(media) == 1, self.features
        if features is None:
            images = [media_pixels(item, self.media, alone) for item in media]
        else:
            images = [self._encoded(item, alone, features) for item in media]
        try:
            make = self.prompts.apart if self.config.apart else self.prompts.training_prompt
            prompt = make(messages, [len(each) * self._tokens for each in images])
        except ConfigError as error:
            raise ConfigError(f"{sample.key}: {error}") from None
        size = self.media.image_size
        none = torch.zeros(0, 3, size, size) if features is None else torch.zeros(0, features.tokens, features.width)
        return Example(prompt, torch.cat(images or [none]))

    @torch.no_grad()
    def _encoded(self, item: MediaPart, alone: bool, features: FeatureFile) -> Tensor:
        """The features of an image or a video, from the file if an item of the same pixels was encoded before."""
        images = [item] if isinstance(item, Image.Image) else item.images
        key = content_key(images, self.media, alone)
        cached = features.get(key)
        if cached is None:
            device = next(self.model.vision.parameters()).device
            with fast_autocast(device):
                pixels = media_pixels(item, self.media, alone).to(device)
                cached = self.model.image_features(pixels).to("cpu", torch.float16)
            features.put(key, cached)
        return cached.float()


class ConversationBatches:
    """A rank's part of the batch of each step; a pure function of the step."""

    def __init__(
        self, config: LanguageConfig, sources: Sequence[Conversations], examples: Examples, rank: Rank
    ) -> None:
        weights = [len(source) for source in sources]
        self.sampler = WeightedSampler([source.sizes for source in sources], weights, config.batch_size, config.seed)
        self.sources, self.examples, self.rank, self.exchange = sources, examples, rank, Exchange()

    def __call__(self, step: int) -> LanguageBatch:
        drawn = self.sampler.batch(step)
        own = drawn[self.rank.share(len(drawn))]
        made = [self.examples.example(self.sources[source][index]) for source, index in own]
        return collate(made, step, lambda count: sum(self.exchange(count)))


def _spread(source: Conversations, most: int) -> list[ConversationSample]:
    """At most so many samples, at even intervals."""
    return [source[int(row)] for row in spread_indices(len(source), min(len(source), most))]


def _held_out_batches(
    examples: Examples, samples: Sequence[ConversationSample], size: int, track: Track
) -> list[LanguageBatch]:
    made = [examples.example(each) for each in track(samples, "reading the validation conversations", len(samples))]
    return [collate(made[start : start + size], 0) for start in range(0, len(made), size)]
