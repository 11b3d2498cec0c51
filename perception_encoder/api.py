"""Public calls that span several packages; each imports what it needs when it is called."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from perception_encoder import evaluations
from perception_encoder.errors import ConfigError, MissingExtraError
from perception_encoder.progress import Track, untracked

if TYPE_CHECKING:
    from perception_encoder.conversation.assistant import Assistant
    from perception_encoder.evaluation.results import Difference, Result
    from perception_encoder.inference.encoder import Encoder
    from perception_encoder.inference.layer_features import LayerFeatures
    from perception_encoder.inference.model_spec import ModelKeywords, ModelSpec
    from perception_encoder.layer_analysis.report import LayerReport
    from perception_encoder.serving.queues import GenerationQueue


class Evaluate:
    """The evaluations, each a function: `pe.evaluate.knn(…)` does what `pe eval knn` does.

    Items that cannot be decoded are listed in the result's failures.
    """

    classification = staticmethod(evaluations.classification)
    retrieval = staticmethod(evaluations.retrieval)
    knn = staticmethod(evaluations.knn)
    linear = staticmethod(evaluations.linear)
    attentive = staticmethod(evaluations.attentive)
    segmentation = staticmethod(evaluations.segmentation)
    detection = staticmethod(evaluations.detection)
    tracking = staticmethod(evaluations.tracking)
    depth = staticmethod(evaluations.depth)
    questions = staticmethod(evaluations.questions)

    def __call__(
        self,
        task: str,
        model: str | Path | ModelSpec | Encoder | LayerFeatures | Assistant,
        data: str | Path,
        *,
        progress: Track = untracked,
        **arguments: Any,
    ) -> Result:
        """Evaluate a model by the name of a task: `pe.evaluate("knn", …)` is `pe.evaluate.knn(…)`.

        Args:
            task: "classification", "retrieval", "knn" or "linear", for an `Encoder`; "attentive", "segmentation",
                "detection", "tracking" or "depth", for `LayerFeatures`; "questions", for an `Assistant`.
            model: The model, or its name.
            data: A path, or the name of a published dataset, such as "food101" (docs/datasets.md), which is downloaded
                once and sets the arguments that are not given.
            **arguments: Those of the task's function.

        Raises:
            ConfigError: The task or an argument is unknown, or the model lacks a layer or a tower.
            DataError: The dataset cannot be used.
            ModelError: The model cannot be loaded.

        Examples:
            >>> result = pe.evaluate("knn", "builtin", "flowers/", k=[10, 20])
            >>> print({score.name: score.value for score in result.scores})
        """
        if task not in self.tasks:
            raise evaluations.unknown("task", task, self.tasks)
        known = [name for name in inspect.signature(self.tasks[task]).parameters if name not in ("model", "data")]
        for name in arguments:
            if name not in known:
                raise evaluations.unknown(f"argument of {task}", name, known)
        return self.tasks[task](model, data, progress=progress, **arguments)

    @property
    def tasks(self) -> dict[str, Callable[..., Result]]:
        """The functions by name."""
        return {name: getattr(self, name) for name, value in vars(Evaluate).items() if isinstance(value, staticmethod)}


evaluate = Evaluate()


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
    from perception_encoder.inference.model_spec import ModelSpec
    from perception_encoder.language_alignment.question_task import QUESTION_TASKS, read_question_task
    from perception_encoder.layer_analysis.report import analyse, write_report
    from perception_encoder.layer_analysis.tasks import TaskOptions, make_tasks
    from perception_encoder.models.registry import RANDOM

    paths = {name: Path(path) for name, path in data.items() if name} if isinstance(data, Mapping) else {}
    shared = data.get("") if isinstance(data, Mapping) else data
    options = TaskOptions(
        items=items,
        image_size=(size, size) if isinstance(size, int) else size,
        short_side=short_side,
        per_metre=per_metre,
    )
    readers = {name: partial(read_question_task, name) for name in QUESTION_TASKS}
    names = [tasks] if isinstance(tasks, str) else tasks
    layer_tasks = make_tasks(names, paths, None if shared is None else Path(shared), options, readers)
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
    """A server started by `pe.serve`."""

    name: str
    """The encoder's name."""
    source: str
    """The model's name, as given or as stored in the index."""
    address: str
    """The address of the page, with its key, or of the embeddings."""
    new_key: str | None
    """A key generated for the API; clients send it as `Authorization: Bearer KEY`."""


def serve(
    directory: str | Path | None = None,
    *,
    api: bool = False,
    model: str | Path | ModelSpec | None = None,
    index: str | Path | None = None,
    lan: bool = False,
    host: str | None = None,
    port: int = 8000,
    key: str | None = None,
    origins: Sequence[str] = (),
    allow_urls: bool = False,
    waiting: int = 4096,
    chat_model: str | None = None,
    ask_model: str | None = None,
    features_model: str | None = None,
    immich: bool = False,
    immich_upstream: str | None = None,
    immich_clip_only: bool = False,
    exclude: Sequence[str] | None = None,
    on_start: Callable[[RunningServer], object] = lambda server: None,
    **keywords: Unpack[ModelKeywords],
) -> None:
    """Serve a search page over a directory, the API, or both, until the process is stopped, like `pe serve`.

    Args:
        directory: Images and videos to search; by default those of `index`.
        api: Serve the API.
        model: By default that of the index, or the default model.
        index: Directory of the index.
        lan: Let devices on the network connect, with a key; by default only this machine can.
        host, port: Address and port to listen on; port 0 is any free one.
        key: The key that clients send; with `lan`, by default a new one.
        origins: Web pages that may use the API (CORS).
        allow_urls: Let clients of the API send images and videos by address.
        waiting: Maximum length of the API's queue.
        chat_model, ask_model: Models of /v1/chat/completions and of questions on the page: names that `load_assistant`
            takes, loaded at the first request.
        features_model: Model of the page's features.
        immich: Answer a photo server instead.
        immich_upstream, immich_clip_only: Pass its other requests on to this address, or refuse them.
        exclude: See `Index.update`.
        on_start: Called once the server listens.
        **keywords: Fields of a `ModelSpec`; `precision` also applies to the language models.

    Raises:
        ConfigError: The port is taken, or options do not fit together.
        ModelError: A model cannot be loaded.
        MissingExtraError: The extra `search` is not installed.

    Examples:
        >>> pe.serve("photos", api=True, on_start=lambda server: print(server.address))
    """
    from perception_encoder.inference.load import as_encoder
    from perception_encoder.inference.model_spec import ModelSpec
    from perception_encoder.models.defaults import config_directory, default_model
    from perception_encoder.models.registry import demo_line
    from perception_encoder.search_page.library import open_library
    from perception_encoder.search_page.responses import stored_secret
    from perception_encoder.serving.api import create_app
    from perception_encoder.serving.immich import Immich
    from perception_encoder.serving.requests import ApiConfig, check_origins
    from perception_encoder.web_server.server import listening, run_server

    directory = None if directory is None and index is None else Path(directory or index or "")
    spec = ModelSpec.of(model, **keywords)
    api_only = {"--chat-model": chat_model, "--origins": origins, "--allow-urls": allow_urls}
    if immich:
        _check_alone({"DIR": directory, "--api": api, "--key": key, "--lan": lan, **api_only})
    elif immich_upstream or immich_clip_only:
        raise ConfigError("--immich-upstream and --immich-clip-only need --immich")
    check_served(directory, api or immich, api_only, {"--ask-model": ask_model, "--features-model": features_model})
    config = ApiConfig(waiting=waiting, origins=check_origins(origins), allow_urls=allow_urls)
    if importlib.util.find_spec("uvicorn") is None:
        raise MissingExtraError("uvicorn", "search")
    with listening(host, port, lan, key, public=immich) as place:  # before the models are loaded
        config = replace(config, key=place.key)
        chat, ask = language_queues(chat_model, ask_model, like=ModelSpec(precision=spec.precision))
        if directory is None:
            source = str(spec.name or default_model())
            encoder = as_encoder(spec)
            photos = Immich.of(encoder, immich_upstream, immich_clip_only) if immich else None
            app = create_app(encoder, replace(config, source=source), place.hosts, chat=chat, immich=photos)
        else:
            from perception_encoder.search_page.server import create_page  # here, since the API alone needs no torch

            home = None if index is None else Path(index)
            library = open_library(directory, spec, home, exclude)
            source, encoder = library.index.settings["source"], library.encoder
            secret = stored_secret(config_directory() / "page-secret")
            app = create_page(library, place.hosts, demo_line(source), place.key, ask, features_model or "", secret)
            library.watch()
            if api:
                page = app
                app = create_app(encoder, replace(config, source=source), place.hosts, library.model_thread, chat)
                app.mount("/", page)
        address = place.address(with_key=directory is not None)
        new_key = place.key if directory is None and not key else None
        path = "" if directory or immich else "/v1/embeddings"
        on_start(RunningServer(encoder.name, source, f"{address}{path}", new_key))
        run_server(app, place.listener)


def _check_alone(others: Mapping[str, object]) -> None:
    if given := [name for name, value in others.items() if value]:
        raise ConfigError(f"--immich serves photo servers alone, which send no key; omit {', '.join(given)}")


def check_served(
    directory: Path | None, api: bool, api_only: Mapping[str, object], page_only: Mapping[str, str | None]
) -> None:
    """Raise ConfigError if nothing is served or nothing uses an option, UnknownModelError for the features' model."""
    if directory is None and not api:
        raise ConfigError("nothing to serve: name a directory, or add --api")
    for served, missing, options in ((api, "--api", api_only), (directory is not None, "a directory", page_only)):
        for name, value in options.items():
            if value and not served:
                raise ConfigError(f"{name} needs {missing}")
    if features_model := page_only["--features-model"]:
        from perception_encoder.models.checkpoints.find import find_weights

        find_weights(features_model)


def language_queues(*names: str | None, like: ModelSpec) -> list[GenerationQueue | None]:
    """Return the queues of language models, each loaded once on first use; None without a name.

    `like`: how this package runs those that it runs.
    """
    if not any(names):
        return [None for _ in names]  # without importing torch
    from perception_encoder.language_alignment.load import check_assistant_name, load_assistant, runs_elsewhere
    from perception_encoder.serving.queues import GenerationQueue

    queues: dict[str | None, GenerationQueue] = {}
    for name in {name for name in names if name}:
        check_assistant_name(name, find=True)
        if not name.startswith(("http", "python:")) and importlib.util.find_spec("transformers") is None:
            raise MissingExtraError("transformers", "lang")
        label = Path(name).name if Path(name).exists() else name
        load = partial(load_assistant, name if runs_elsewhere(name) else replace(like, name=name))
        queues[name] = GenerationQueue(label, load, source=name)
    return [queues.get(name) for name in names]
