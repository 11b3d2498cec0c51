"""Run a language alignment (section 4)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from perception_encoder.data.conversation_records import ConversationSample
from perception_encoder.data.conversations import ConversationFile, Conversations, ShardRecords, open_conversations
from perception_encoder.data.sampler import WeightedSampler
from perception_encoder.errors import ConfigError
from perception_encoder.files import digest
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.task import HeldOutAnswers, LanguageAlignmentTask
from perception_encoder.language_models.decoder import (
    FRESH,
    Decoder,
    add_decoder_adapters,
    is_fresh,
    merge_decoder_adapters,
    write_fresh_decoder,
)
from perception_encoder.language_models.model import LanguageBatch, PerceptionLanguageModel, collate
from perception_encoder.language_models.prompt import Prompt
from perception_encoder.language_models.weights import (
    WEIGHTS,
    Parts,
    build_language_model,
    load_trained,
    naming,
    read_trained,
    write_language_model,
)
from perception_encoder.models.checkpoints.weights import weight_hash
from perception_encoder.models.initialization import torch_generator
from perception_encoder.models.precision import fast_autocast
from perception_encoder.preprocess.conversation import MediaPart
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.preprocess.image import content_key
from perception_encoder.preprocess.tiling import media_pixels
from perception_encoder.progress import Track, untracked
from perception_encoder.store import Arrays, Store
from perception_encoder.training.distributed import Exchange, this_rank
from perception_encoder.training.loop import Section
from perception_encoder.training.metrics import Listener
from perception_encoder.training.run import RANDOM, StageRun, run_stage

FRESH_SAMPLES = 4000
"""Maximum number of conversations per source to build the vocabulary of a fresh language model from."""
PROCEDURE = 2
"""Increase when the same configuration and data give another result."""


def align_language(
    config: LanguageConfig,
    data: Sequence[Path],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
    read_shard: Callable[[Path], ConversationFile] = ShardRecords,
) -> Path:
    """Align an encoder with a language model, or resume; return the written file, OUT/language.safetensors.

    `data`, `read_shard`: as `open_conversations` reads them. Raises ConfigError, DataError and what `run_stage` does.
    """
    return run_stage(lambda: LanguageRun(config, data, out, track, read_shard), out, track, listener)


class LanguageRun(StageRun):
    """A run of language alignment: an encoder, a language model and conversations."""

    weights = WEIGHTS
    config: LanguageConfig
    trainee: LanguageTrainee
    cache: Store | None = None
    """Features of a frozen tower, open for the run."""

    def __init__(
        self,
        config: LanguageConfig,
        data: Sequence[Path],
        out: Path,
        track: Track,
        read_shard: Callable[[Path], ConversationFile],
    ) -> None:
        super().__init__(config, out, HeldOutAnswers.higher_is_better)
        config = self.config
        skip_bad = config.skip_bad
        sources = [open_conversations(path, skip_bad=skip_bad, read_shard=read_shard, track=track) for path in data]
        self.trainee = LanguageTrainee.of(self._with_decoder(sources))
        self.loaded = self.trainee.loaded
        share = config.validation.share if config.validation else 0.0
        parts = [source.split(share) for source in sources] if share else [(source, None) for source in sources]
        self.training = [part for part, _ in parts]
        self.held_out = [part for _, part in parts if part is not None]
        weights = f"{weight_hash(self.trainee.model.vision)} {config.decoder}"
        self.identity = [f"procedure {PROCEDURE}", weights, *(source.fingerprint for source in sources)]
        self.samples = {str(path): len(source) for path, source in zip(data, self.training, strict=True)}
        if not any(map(len, self.held_out)):
            self.config = dataclasses.replace(config, validation=None)

    def _with_decoder(self, sources: Sequence[Conversations]) -> LanguageConfig:
        """Return the configuration with the path of the fresh language model: the one of `initial`, or a new one."""
        if self.config.decoder != FRESH:
            return self.config
        if self.config.initial is not None:
            earlier, _ = read_trained(Path(self.config.initial))
            if is_fresh(earlier.decoder):
                return dataclasses.replace(self.config, decoder=earlier.decoder)
        samples = [
            source[int(row)]
            for source in sources
            for row in spread_indices(len(source), min(len(source), FRESH_SAMPLES))
        ]
        texts = [text for sample in samples for _, text in sample.turns]
        if this_rank().is_first:
            write_fresh_decoder(self.out / "decoder", texts, torch_generator(self.config.seed, 3))
        Exchange()(None)  # the others wait for it
        return dataclasses.replace(self.config, decoder=str(self.out / "decoder"))

    def sections(self, track: Track) -> Iterator[Section]:
        config, trainee, rank = self.config, self.trainee, this_rank()
        sharded = config.parallel.kind == "fsdp" and rank.world_size > 1
        if config.cached and not config.train_vision and not sharded:
            made_from = {"tower": weight_hash(trainee.model.vision), "size": trainee.parts.media.image_size}
            path = self.out / "features" / f"{digest(made_from)}-{rank.rank}"
            self.cache = Store(path, made_from, remedy="delete it to encode again")
        features = None if self.cache is None else self.cache.arrays("features")
        batches, validation = ConversationBatches(config, trainee, self.training, features), None
        if config.validation is not None:
            per_source = -(-config.validation.size // len(self.held_out))
            samples = [source[number] for source in self.held_out for number in range(min(per_source, len(source)))]
            tracked = track(samples, "reading the validation conversations", len(samples))
            made, size = [batches.example(sample) for sample in tracked], config.batch_size
            held_out = [collate(made[start : start + size], 0) for start in range(0, len(made), size)]
            validation = HeldOutAnswers(trainee.module, held_out)
        task = LanguageAlignmentTask(trainee.module, config.drop_path, config.seed, validation)
        yield Section(task, batches)

    def close(self) -> None:
        if self.cache is not None:
            self.cache.close()


class LanguageTrainee:
    """The model of a run, in which only the trained parts require gradients."""

    def __init__(
        self,
        config: LanguageConfig,
        parts: Parts,
        model: PerceptionLanguageModel,
        decoder: Decoder,
        loaded: dict[str, str],
        given: Collection[str] = (),
    ) -> None:
        """`loaded`: see `StageRun`. `given`: the parts whose weights an earlier run trained."""
        self.config, self.parts, self.model, self.decoder, self.loaded = config, parts, model, decoder, loaded
        self.vision_trained = config.train_vision or "vision" in given
        self.decoder_trained = config.train_decoder or "decoder" in given
        self._mark()
        self.module = model

    @classmethod
    def of(cls, config: LanguageConfig) -> LanguageTrainee:
        """Make the model of a run, a new one or that of `initial`."""
        return cls.new(config) if config.initial is None else cls.continued(config, Path(config.initial))

    @classmethod
    def new(cls, config: LanguageConfig) -> LanguageTrainee:
        """Make a model with a new projector."""
        parts, generator = config.parts, torch_generator(config.seed)
        model, decoder = build_language_model(parts, generator)
        if parts.lora is not None:
            add_decoder_adapters(model.decoder, parts.lora, generator)
        loaded = {"encoder": config.encoder, "projector": RANDOM, "language model": config.decoder}
        return cls(config, parts, model, decoder, loaded)

    @classmethod
    def continued(cls, config: LanguageConfig, initial: Path) -> LanguageTrainee:
        """Make the model of an earlier run, or with another language model, its tower with a new projector."""
        generator, (earlier, state), projector = torch_generator(config.seed), read_trained(initial), str(initial)
        if earlier.decoder != config.decoder:
            projector = f"{RANDOM}, as {initial} has another language model, {earlier.decoder}"
            tower = {name: getattr(earlier, name) for name in ("encoder", "layer", "layer_scale")}
            earlier = dataclasses.replace(config.parts, lora=None, **tower)
            state = {name: value for name, value in state.items() if name.startswith("vision.")}
        parts, given = _continued(config, config.parts, earlier), {name.partition(".")[0] for name in state}
        with naming(initial):
            before = dataclasses.replace(parts, layer_scale=earlier.layer_scale)
            model, decoder = build_language_model(before, generator)
        load_trained(initial, earlier, state, model)
        if parts.lora is None:
            merge_decoder_adapters(model.decoder)
        elif not any("lora_" in name for name in state):
            add_decoder_adapters(model.decoder, parts.lora, generator)
        if parts.layer_scale is not None and model.vision.config.layer_scale is None:
            model.vision.add_layer_scale(parts.layer_scale)
        adapters = f"{config.decoder} with the adapters of " if earlier.lora else ""
        loaded = {
            "encoder": str(initial) if "vision" in given else earlier.encoder,
            "projector": projector,
            "language model": f"{adapters}{initial}" if "decoder" in given else config.decoder,
        }
        return cls(config, parts, model, decoder, loaded, given)

    def _mark(self) -> None:
        """Make exactly the trained parts require gradients."""
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
        write_language_model(path, self.parts, self.model, self.vision_trained, self.decoder_trained, self.config.half)


def _continued(config: LanguageConfig, parts: Parts, earlier: Parts) -> Parts:
    """Return the configured parts, or else the earlier run's; ConfigError for what cannot change."""
    if config.lora is not None and earlier.lora not in (None, config.lora):
        raise ConfigError(f"initial has adapters of {earlier.lora}; they cannot become {config.lora}")
    if config.linear not in (None, earlier.linear):
        kinds = {True: "is linear", False: "has two layers"}
        raise ConfigError(
            f"linear is {str(config.linear).lower()}, but the projector of {config.initial} {kinds[earlier.linear]}; "
            "drop `linear`, or choose another `initial`"
        )
    size = config.image_size or earlier.media.image_size
    return dataclasses.replace(
        earlier,
        layer_scale=parts.layer_scale if earlier.layer_scale is None else earlier.layer_scale,
        context=parts.context,
        chat_template=config.chat_template or earlier.chat_template,
        pool=config.pool or earlier.pool,
        lora=config.lora if config.train_decoder else earlier.lora,
        media=dataclasses.replace(parts.media, image_size=size),
    )


class ConversationBatches:
    """Makes a rank's share of the batch of each step, a pure function of the step.

    `features`: caches those of a frozen tower; by default batches hold pixels.
    """

    def __init__(
        self,
        config: LanguageConfig,
        trainee: LanguageTrainee,
        sources: Sequence[Conversations],
        features: Arrays | None = None,
    ) -> None:
        self.config, self.model, self.sources, self.features = config, trainee.model, sources, features
        weights = [len(source) for source in sources]
        self.sampler = WeightedSampler([source.sizes for source in sources], weights, config.batch_size, config.seed)
        self.rank, self.exchange = this_rank(), Exchange()
        prompts, self.media = trainee.decoder.prompts, trainee.parts.media
        self.prompts = dataclasses.replace(prompts, context=config.training_context or prompts.context)
        self._grid = self.model.vision.grid_of(self.media.image_size, self.media.image_size)
        self._tokens = self.model.projector.tokens_of(self._grid)

    def __call__(self, step: int) -> LanguageBatch:
        drawn = self.sampler.batch(step)
        share = drawn[self.rank.share(len(drawn))]
        batch = collate([self.example(self.sources[source][index]) for source, index in share], step)
        return dataclasses.replace(batch, answer_tokens=sum(self.exchange(batch.answer_tokens)), rows=len(drawn))

    def example(self, sample: ConversationSample) -> tuple[Prompt, Tensor]:
        """Return one conversation; InputError for a damaged image, ConfigError if it is too long."""
        messages = sample.messages(self.config.frames)
        media = [item for message in messages for item in message.media]
        images = [self._encoded(item, len(media) == 1) for item in media]
        try:
            make = self.prompts.independent_questions if self.config.apart else self.prompts.training_prompt
            prompt = make(messages, [len(tiles) * self._tokens for tiles in images])
        except ConfigError as error:
            raise ConfigError(f"{sample.key}: {error}") from None
        side, width = self.media.image_size, self.model.vision.config.width
        shape = (3, side, side) if self.features is None else (math.prod(self._grid), width)
        return prompt, torch.cat([torch.zeros(0, *shape), *images])

    @torch.no_grad()
    def _encoded(self, item: MediaPart, alone: bool) -> Tensor:
        """Return pixels, or with a cache the features: from there if the same pixels were encoded before."""
        if self.features is None:
            return media_pixels(item, self.media, alone)
        key = content_key([item] if isinstance(item, Image.Image) else item.images, self.media, alone)
        if (cached := self.features.get(key)) is not None:
            return torch.from_numpy(cached).float()
        device = next(self.model.vision.parameters()).device
        with fast_autocast(device):
            pixels = media_pixels(item, self.media, alone).to(device)
            encoded = self.model.image_features(pixels).to("cpu", torch.float16)  # (N, P, width)
        self.features.put(key, encoded.numpy())
        return encoded.float()
