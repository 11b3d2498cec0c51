"""Public calls that span several packages; they import what needs torch when they are called."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from perception_encoder.errors import ConfigError, MissingExtraError
from perception_encoder.inference.load import as_encoder
from perception_encoder.inference.model_spec import ModelKeywords, ModelSpec
from perception_encoder.models.checkpoints.find import find_weights
from perception_encoder.models.defaults import config_directory, default_model
from perception_encoder.models.registry import RANDOM, demo_line
from perception_encoder.progress import Track, untracked
from perception_encoder.serving.api import create_app
from perception_encoder.serving.immich import Immich
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.serving.requests import ApiConfig
from perception_encoder.web_server.server import listening, run_server

if TYPE_CHECKING:
    from perception_encoder.evaluation.results import Difference, Result
    from perception_encoder.layer_analysis.report import LayerReport


def compare(first: Result | str | Path, second: Result | str | Path) -> list[Difference]:
    """Compare two results: the first's value less the second's for each shared score, with interval and p-value.

    Args:
        first, second: Results of `pe.evaluate` on the same items, or their JSON files.

    Raises:
        DataError: They share no score, or were evaluated on different items.

    Examples:
        >>> for difference in pe.compare("ours.json", "theirs.json"):
        ...     print(difference.ours.name, difference.difference.value, difference.p_value)
    """
    from perception_encoder.evaluation.results import compare_results, read_result

    ours, theirs = (read_result(Path(part)) if isinstance(part, str | Path) else part for part in (first, second))
    return compare_results(ours, theirs)


def analyze_layers(
    model: str | Path | ModelSpec,
    data: str | Path | Mapping[str, str | Path],
    *,
    tasks: str | Sequence[str] = ("classification", "retrieval"),
    layer: Sequence[int] | None = None,
    baseline: str | Path | Sequence[str | Path] | None = None,
    items: int = 1000,
    size: int | tuple[int, int] | None = None,
    short_side: int = 240,
    per_metre: float = 1000.0,
    final_norm: bool = False,
    similarity: bool = False,
    trust_remote_code: bool = False,
    out: str | Path = "layers",
    store: str | Path | None = None,
    progress: Track = untracked,
) -> LayerReport:
    """Evaluate the layers of a model on tasks, recommend one per task, and write the report, like `pe layers`.

    Args:
        model: A name or path.
        data: The dataset of all tasks, or one for each by the task's name.
        tasks: "classification", "retrieval", "segmentation", "depth", "tracking", "detection" or a set of questions.
        layer: The layers to evaluate, 0-based, and the last; by default all.
        baseline: Further models to plot; by default the same with random weights.
        items: Maximum number of test images of a task.
        size: Height and width that images are squashed to; by default the model's.
        short_side: Short side of the frames of tracking, in pixels.
        per_metre: Units of depth images in a metre.
        final_norm: Apply the model's final norm to the last layer.
        similarity: Also report how alike the layers are, within and between the models, by CKA and RSA.
        trust_remote_code: See `ModelSpec`.
        out: Directory of the report.
        store: Directory of the features, from which an interrupted call resumes; by default OUT/features.

    Raises:
        ConfigError: A task, layer or size is invalid.
        DataError: A dataset cannot be used.
        ModelError: A model cannot be loaded.
        OutputError: The report cannot be written.

    Examples:
        >>> report = pe.analyze_layers("builtin", "flowers/", tasks="classification", layer=[5, 8])
        >>> print([(best.curve.task, best.layer) for best in report.recommendations])
    """
    from perception_encoder.evaluation.feature_cache import FeatureCache
    from perception_encoder.layer_analysis.report import analyse, write_report
    from perception_encoder.layer_analysis.tasks import TaskOptions, make_tasks

    paths = {name: Path(path) for name, path in data.items() if name} if isinstance(data, Mapping) else {}
    shared = data.get("") if isinstance(data, Mapping) else data
    options = TaskOptions(
        items=items,
        image_size=(size, size) if isinstance(size, int) else size,
        short_side=short_side,
        per_metre=per_metre,
    )
    names = [tasks] if isinstance(tasks, str) else tasks
    layer_tasks = make_tasks(names, paths, None if shared is None else Path(shared), options)
    spec = ModelSpec.of(model, trust_remote_code=trust_remote_code)
    name = str(spec.name)
    if baseline is None:
        baseline = [] if name.startswith(RANDOM) else [RANDOM + name]
    baselines = [baseline] if isinstance(baseline, str | Path) else baseline
    models = [replace(spec, name=listed) for listed in (name, *baselines)]
    cache = FeatureCache(directory=Path(store) if store else Path(out) / "features")
    report = analyse(models, layer_tasks, cache, layer, progress, final_norm, similarity, options.image_size)
    return replace(report, files=write_report(report, Path(out)))


@dataclass(frozen=True)
class RunningServer:
    """A server that has started."""

    name: str
    """The encoder's name."""
    source: str
    """The model's name, as given or as stored in the index."""
    address: str
    """The address of the page, with its key, or of the embeddings."""
    new_key: str | None
    """A key generated for the API; clients send it as `Authorization: Bearer KEY`."""


OnStart = Callable[[RunningServer], object]
"""Called once a server listens."""


def serve_search(
    directory: str | Path | None = None,
    *,
    index: str | Path | None = None,
    model: str | Path | ModelSpec | None = None,
    exclude: Sequence[str] | None = None,
    ask_model: str | None = None,
    features_model: str | None = None,
    api: ApiConfig | None = None,
    lan: bool = False,
    host: str | None = None,
    port: int = 8000,
    key: str | None = None,
    on_start: OnStart = lambda server: None,
    **keywords: Unpack[ModelKeywords],
) -> None:
    """Serve a search page over a directory until the process is stopped, like `pe serve DIR`.

    Args:
        directory: Images and videos to search; by default those of `index`.
        index: Directory of the index.
        model: By default that of the index, or the default model.
        exclude: See `Index.update`.
        ask_model: Model of questions on the page: a name that `load_assistant` takes, loaded at the first request.
        features_model: Model of the page's features.
        api: Also serve the API, like `pe serve DIR --api`.
        lan: Let devices on the network connect, with a key; by default only this machine can.
        host, port: Address and port to listen on; port 0 is any free one.
        key: The key that clients send; with `lan`, by default a new one.
        on_start: Called once the server listens.
        **keywords: Fields of a `ModelSpec`; `precision` also applies to the language models.

    Raises:
        ConfigError: The port is taken, or neither a directory nor an index is given.
        ModelError: A model cannot be loaded.
        MissingExtraError: The extra `search` is not installed.

    Examples:
        >>> pe.serve_search("photos", on_start=lambda server: print(server.address))
    """
    from perception_encoder.search_page.library import open_library, stored_secret

    if directory is None and index is None:
        raise ConfigError("no directory to search is given; name it, or an index")
    if features_model:
        find_weights(features_model)
    spec = ModelSpec.of(model, **keywords)
    with listening(host, port, lan, key) as place:  # before the models are loaded
        chat, ask = language_queues(api.chat_model if api else None, ask_model, precision=spec.precision)
        from perception_encoder.search_page.server import create_page  # here, since the API alone needs no torch

        library = open_library(Path(directory or index or ""), spec, None if index is None else Path(index), exclude)
        source, encoder = library.index.settings["source"], library.encoder
        secret = stored_secret(config_directory() / "page-secret")
        app = create_page(library, place.hosts, demo_line(source), place.key, ask, features_model or "", secret)
        library.watch()
        if api is not None:
            page, config = app, replace(api, source=source, key=place.key)
            app = create_app(encoder, config, place.hosts, library.model_thread, chat)
            app.mount("/", page)
        on_start(RunningServer(encoder.name, source, place.address(with_key=True), None))
        run_server(app, place.listener)


def serve_api(
    model: str | Path | ModelSpec | None = None,
    *,
    api: ApiConfig | None = None,
    lan: bool = False,
    host: str | None = None,
    port: int = 8000,
    key: str | None = None,
    on_start: OnStart = lambda server: None,
    **keywords: Unpack[ModelKeywords],
) -> None:
    """Serve the API to embed, rank and chat until the process is stopped, like `pe serve --api`.

    Args:
        model: By default the default model.
        api: Its limits, the origins that may use it, and its language model.
        lan, host, port, key, on_start: See `serve_search`.
        **keywords: Fields of a `ModelSpec`; `precision` also applies to the language model.

    Raises:
        ConfigError: The port is taken.
        ModelError: A model cannot be loaded.
        MissingExtraError: The extra `search` is not installed.

    Examples:
        >>> pe.serve_api("builtin", api=pe.ApiConfig(chat_model="builtin-lang"))
    """
    spec, config = ModelSpec.of(model, **keywords), api or ApiConfig()
    with listening(host, port, lan, key) as place:
        (chat,) = language_queues(config.chat_model, precision=spec.precision)
        source = str(spec.name or default_model())
        encoder = as_encoder(spec)
        app = create_app(encoder, replace(config, source=source, key=place.key), place.hosts, chat=chat)
        address = f"{place.address(with_key=False)}/v1/embeddings"
        on_start(RunningServer(encoder.name, source, address, None if key else place.key))
        run_server(app, place.listener)


def serve_immich(
    model: str | Path | ModelSpec | None = None,
    *,
    upstream: str | None = None,
    clip_only: bool = False,
    waiting: int = 4096,
    host: str | None = None,
    port: int = 8000,
    on_start: OnStart = lambda server: None,
    **keywords: Unpack[ModelKeywords],
) -> None:
    """Answer immich, or a photo server that asks as it does, until the process is stopped, like `pe serve --immich`.

    Args:
        model: By default the default model.
        upstream: Pass requests for faces (without the extra `words`, also for text in images) on to this address.
        clip_only: Refuse them instead.
        waiting: Maximum number of waiting inputs.
        host, port, on_start: See `serve_search`.
        **keywords: Fields of a `ModelSpec`.

    Raises:
        ConfigError: The port is taken, immich has no name for such a model, or not one of `upstream` and `clip_only` is
            given.
        ModelError: The model cannot be loaded.
        MissingExtraError: The extra `search` is not installed.

    Examples:
        >>> pe.serve_immich("PE-Core-S16-384", upstream="http://localhost:3004", port=3003)
    """
    spec = ModelSpec.of(model, **keywords)
    with listening(host, port, lan=False, key=None, public=True) as place:
        source = str(spec.name or default_model())
        encoder = as_encoder(spec)
        config = ApiConfig(waiting=waiting, source=source, key=place.key)
        app = create_app(encoder, config, place.hosts, immich=Immich.of(encoder, upstream, clip_only))
        on_start(RunningServer(encoder.name, source, place.address(with_key=False), None))
        run_server(app, place.listener)


def language_queues(*names: str | None, precision: str) -> list[GenerationQueue | None]:
    """Return the queues of language models, each loaded once on first use; None without a name.

    `precision`: of those that this package runs.
    """
    if not any(names):
        return [None for _ in names]  # without importing torch
    from perception_encoder.language_models.load import check_assistant_name, load_assistant, runs_elsewhere

    queues: dict[str | None, GenerationQueue] = {}
    for name in {name for name in names if name}:
        check_assistant_name(name, find=True)
        if not name.startswith(("http", "python:")) and importlib.util.find_spec("transformers") is None:
            raise MissingExtraError("transformers", "lang")
        label = Path(name).name if Path(name).exists() else name
        load = partial(load_assistant, name if runs_elsewhere(name) else ModelSpec(name, precision=precision))
        queues[name] = GenerationQueue(label, load, source=name)
    return [queues.get(name) for name in names]
