"""Write docs/api from the docstrings: a page for each family, below what is written by hand at the top of the page.

    python docs/api_reference.py [DIRECTORY]

The package is read, not imported.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import griffe

PAGES = Path(__file__).parent / "api"
MARKER = "<!-- Below this line, docs/api_reference.py writes what the docstrings say. -->"
FIRST_PAGE = """\
# Python API

Every public name is `pe.NAME` after `import perception_encoder as pe`; each name is imported when
it is first used. A class without `pe.` is returned or taken by these calls, and not imported by name.
"""
WIDTH = 100
"""Maximum width of a signature on one line."""
OVERLOADS = 3
"""Maximum number of overloads that are shown one by one."""
PUBLIC = {
    "loading": "load ModelSpec create_model from_state_dict published_state_dict list_models use_model",
    "encoder": "Encoder",
    "assistant": "load_assistant Assistant Answer Caption Message Reply Sampling",
    "models": "convert export_onnx export_immich export_openvino export_lang export_perception_lm",
    "dense": "track segment depth detect load_head Head DepthEstimate Detections Segmentation TrackedFrame Region",
    "transforms": "image_transform pad_images tokenizer",
    "search": (
        "open_index Index search_files SearchResult Hit UpdateReport classify Classification embed EmbedReport"
        " read_words TextLine serve_search serve_api serve_immich ApiConfig"
    ),
    "evaluation": "evaluate compare",
    "video": (
        "run_engine EngineReport refine_captioner open_video_dataset VideoDataset VideoSelection serve_annotations"
    ),
    "layers": "analyze_layers load_layers LayerFeatures",
    "training": "train plan list_recipes TrainingResult",
    "errors": "",
}
"""The public names of each page, in order."""
RESULTS = {
    "loading": {"models.defaults": "DefaultModel"},
    "models": {
        "models.clip": "CLIP",
        "models.vision_transformer": "VisionTransformer",
        "exports.layouts": "Conversion",
        "exports.card": "ExportedFile",
        "language_models.perception_lm": "PerceptionLmDirectory",
    },
    "search": {"api": "RunningServer"},
    "transforms": {"preprocess.image": "ImageTransform", "preprocess.tokenizer": "Tokenizer"},
    "evaluation": {"evaluation.results": "Result Difference", "evaluation.statistics.scores": "Score"},
    "video": {"datasets.pe_video": "VideoRecord"},
    "layers": {
        "layer_analysis.report": "LayerReport",
        "layer_analysis.sweep": "Sweep LayerCurve LayerScore Recommendation",
    },
}
"""Classes without a public name that public calls return or take, by module; they follow the public names."""
ERRORS = (
    "PerceptionEncoderError ModelError UnknownModelError CheckpointError WeightsUnavailableError ShapeError"
    " ConfigError ContextLengthError DataError OutputError SearchIndexError ClusterError EndpointError"
    " MissingExtraError InputError MediaNotFoundError MediaDecodeError MediaTooLargeError UrlRefusedError"
)
KEYWORDS = "ModelKeywords"
"""The fields of a `ModelSpec` that calls take as `**keywords`: they are shown one by one."""
MEMBERS = {
    "Encoder": (
        "encode encode_images encode_videos encode_texts feature describe similarity as_sentence_transformer visual"
        " dimension weight_hash batch_size text_batch_size embed_pixels embed_texts encode_query encode_document"
    ),
    "ModelSpec": "name device runtime precision dimensions layer pool decoding trust_remote_code dtype",
    "Assistant": "ask caption chat stream open generate generate_stream",
}
"""The members that are shown, where not all public ones are. Of evaluators: `run`."""


class Reference:
    """The package's names, parsed, with the page and anchor of each."""

    def __init__(self) -> None:
        self.here, self.owner = "", ""  # the page that is written, and the path of the name
        self.package: Any = griffe.load(
            "perception_encoder",
            search_paths=[str(PAGES.parent.parent)],
            docstring_parser="google",
            docstring_options=griffe.GoogleOptions(
                returns_multiple_items=False,
                warn_missing_types=False,
                warn_unknown_params=False,  # `a, b: …` describes two
            ),
            allow_inspection=False,
        )

    def names(self, page: str) -> Iterator[tuple[str, Any]]:
        """Yield the names of a page as they are written in Python, with their definitions."""
        for name in PUBLIC[page].split():
            definition = self.package[name].final_target
            if name != "evaluate":
                yield f"pe.{name}", definition
                continue
            yield "pe.evaluate", self.package["evaluations.Evaluate.__call__"]
            for task, attribute in self.package["evaluations.Evaluate"].attributes.items():
                if call := re.fullmatch(r"staticmethod\((\w+)\)", str(attribute.value)):
                    yield f"pe.evaluate.{task}", self.package[f"evaluations.{call[1]}"]
        for name in ERRORS.split() if page == "errors" else ():
            yield f"pe.errors.{name}", self.package[f"errors.{name}"]
        for module, names in RESULTS.get(page, {}).items():
            for name in names.split():
                yield name, self.package[f"{module}.{name}"]

    @cached_property
    def anchors(self) -> dict[str, str]:
        """The page and anchor of each name and method, as a code host makes them, by its path as it is written."""
        result: dict[str, str] = {}
        for page in PUBLIC:
            used = Counter(slug(title) for title in re.findall(r"^#+ (.*)", self.head(page), flags=re.MULTILINE))
            for name, definition in self.names(page):
                methods = [member.name for member in members(definition) if member.is_function]
                for path in (name, *(f"{name}.{method}" for method in methods if definition.is_class)):
                    anchor = slug(title_of(name) + path.removeprefix(name))
                    result[path] = f"{page}.md#{anchor}" + (f"-{used[anchor]}" if used[anchor] else "")
                    used[anchor] += 1
        return result

    def target(self, word: str) -> str | None:
        """Return the place of what a word in backticks names: a method of the class, a name of the module, or public.

        A single word in lower case is a method of the class or nothing: it may as well be an argument or a split.
        """
        module = self.owner.rpartition(".")[0]
        paths = [word, f"{self.owner}.{word}"]
        if not re.fullmatch(r"[a-z]+", word):
            paths += [f"{module}.{word}", f"pe.{word}", f"pe.errors.{word}"]
            paths += [path for path in self.anchors if word[0].isupper() and path.endswith(f".{word}")]
        return next((self.anchors[path] for path in paths if path in self.anchors), None)

    def link(self, text: str, skip: set[str]) -> str:
        """Return the text of a docstring with links from names in backticks to their descriptions."""

        def replace(match: re.Match[str]) -> str:
            place = None if match[1] in skip else self.target(match[1])
            return match[0] if place is None else f"[`{match[1]}`]({place.removeprefix(f'{self.here}.md')})"

        return re.sub(r"(?<!\[)`([\w.]+)`", replace, text)

    def head(self, page: str) -> str:
        """Return what is written by hand at the top of a page."""
        return (PAGES / f"{page}.md").read_text(encoding="utf-8").partition(MARKER)[0].rstrip()

    def page(self, page: str) -> str:
        """Return the content of a page."""
        self.here = page
        parts = [part for name, definition in self.names(page) for part in self.describe(name, definition)]
        return "\n\n".join([self.head(page), MARKER, *parts]) + "\n"

    def describe(self, name: str, definition: Any, heading: str = "") -> Iterator[str]:
        """Yield the paragraphs of a class, function or method."""
        if not heading:
            self.owner = name
        yield heading or f"## `{title_of(name)}`"
        if not heading and "." not in name:
            yield "*Returned or taken by public calls.*"
        if definition.docstring:  # those of commands have an empty line; a colon in a result ends no name
            text = definition.docstring.value.replace("Examples:\n\n", "Examples:\n")
            definition.docstring.value = re.sub(r"^((?:Returns|Yields):\n +)", r"\1: ", text, flags=re.MULTILINE)
        sections = definition.docstring.parsed if definition.docstring else []
        if definition.is_function:
            yield from self.signatures(name, definition)
            sections = sections if heading else self.with_result(sections, definition.returns)
            tracks = [parameter.name for parameter in definition.parameters if str(parameter.annotation) == "Track"]
            section_of(sections, "parameters").extend(
                griffe.DocstringParameter(track, description="Shows the progress.") for track in tracks
            )
            for part in section_of(sections, "parameters"):
                if part.name == "**keywords":
                    part.name = ", ".join(field.name for field in self.keywords)
            yield from self.sections(sections, {parameter.name for parameter in definition.parameters})
            return
        constructor = definition.members.get("__init__")
        if section_of(sections, "parameters") and constructor is not None:
            yield from self.signatures(name, constructor)
        if name.startswith("pe.errors."):
            bases = " and ".join(f"`{base}`" for base in definition.bases)
            yield f"A subclass of {self.link(bases, set())}."
        shown = members(definition)
        described = {part.name: part.description for part in section_of(sections, "attributes")}
        fields = [member for member in shown if member.is_attribute and member.name not in described]
        names = {member.name for member in fields} | described.keys()
        yield from self.sections(sections, names)
        lines = [f"- `{field}`: {joined(text)}" for field, text in described.items()]
        if lines := [*lines, *map(field_line, fields)]:
            yield "**Attributes**\n\n" + "\n".join(self.link(line, names) for line in lines)
        for member in shown:
            if member.is_function:
                title = f"{definition.name}.{member.name}"
                yield from self.describe(title, member, f"### `{title}`")

    def with_result(self, sections: list[Any], returns: Any) -> list[Any]:
        """Return a function's sections with one for its result: if none is written, the summary of its class."""
        if section_of(sections, "returns") or not isinstance(returns, griffe.Expr):
            return sections
        parts = (part.name for part in returns.iterate(flat=True) if isinstance(part, griffe.ExprName))
        for name in parts:
            if summary := self.summaries.get(name):
                container = "" if str(returns) == name else f"`{quoted(returns)}`. "
                text = griffe.DocstringSectionText(f"**Returns:** {container}`{name}`: {summary}")
                last = [section for section in sections if section.kind.value in ("raises", "examples")]
                return [*(section for section in sections if section not in last), text, *last]
        return sections

    @cached_property
    def summaries(self) -> dict[str, str]:
        """The first sentence about each class."""
        found = (definition for page in PUBLIC for _, definition in self.names(page) if definition.is_class)
        return {definition.name: summary(definition) for definition in found}

    def signatures(self, name: str, function: Any) -> Iterator[str]:
        """Yield a code block with a function's signature, or those of its overloads, and the aliases in them."""
        overloads = function.overloads or ()
        shown = overloads if 0 < len(overloads) <= OVERLOADS else [function]
        parameters = [self.parameters(part) for part in shown]
        calls = (signature(name, given, part.returns) for part, given in zip(shown, parameters, strict=True))
        yield "```py\n" + "\n".join(calls) + "\n```"
        aliases: dict[str, str] = {}
        for part, given in zip(shown, parameters, strict=True):
            for parameter in given:
                self.expand(parameter.annotation, aliases)
                self.expand(parameter.default, aliases)
            self.expand(part.returns, aliases)
        if aliases:
            yield "; ".join(f"`{alias}` is `{value}`" for alias, value in aliases.items()) + "."

    def parameters(self, function: Any) -> list[Any]:
        """Return a function's parameters, with shared keywords one by one."""
        shared = f"Unpack[{KEYWORDS}]"
        each = [self.keywords if str(part.annotation) == shared else [part] for part in function.parameters]
        return [part for parts in each for part in parts]

    @cached_property
    def keywords(self) -> list[Any]:
        """The shared keywords, with their defaults."""
        module = self.package["inference.model_spec"]
        return [
            griffe.Parameter(
                field.name,
                annotation=field.annotation,
                kind=griffe.ParameterKind.keyword_only,
                default=module[f"ModelSpec.{field.name}"].value,
            )
            for field in module[KEYWORDS].attributes.values()
        ]

    def expand(self, expression: Any, aliases: dict[str, str]) -> None:
        """Add the aliases and constants of the package that an expression names, and those in their values."""
        parts = expression.iterate(flat=True) if isinstance(expression, griffe.Expr) else ()
        for part in parts:
            if isinstance(part, griffe.ExprName) and part.name not in aliases:
                value = self.values.get(part.canonical_path)
                if value is not None and not str(value).startswith("TypeVar"):
                    aliases[part.name] = str(value).strip("'") if str(value).count("'") == 2 else quoted(value)
                    self.expand(value, aliases)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The variables of all modules, by path."""
        modules, found = [self.package], dict[str, Any]()
        for module in modules:
            modules += module.modules.values()
            found |= {attribute.path: attribute.value for attribute in module.attributes.values()}
        return found

    def sections(self, sections: list[Any], skip: set[str]) -> Iterator[str]:
        """Yield the sections of a docstring."""
        for section in sections:
            kind, value = section.kind.value, section.value
            if kind == "text":
                yield self.link(value, skip)
            elif kind == "examples":
                text = without_prompts("\n".join(part for _, part in value))
                yield f"**Example**\n\n```{'' if re.match('pe |curl ', text) else 'python'}\n{text}\n```"
            elif kind in ("parameters", "other parameters"):
                lines = [f"- {spans(part.name)}: {joined(part.description)}" for part in value]
                yield "**Arguments**\n\n" + "\n".join(self.link(line, skip) for line in lines)
            elif kind in ("returns", "yields"):
                yield f"**{kind.capitalize()}:** " + self.link(joined(value[0].description), skip)
            elif kind == "raises":
                lines = [f"- {spans(str(part.annotation))}: {joined(part.description)}" for part in value]
                yield "**Raises**\n\n" + "\n".join(self.link(line, skip) for line in lines)
            elif kind != "attributes":
                raise SystemExit(f"{self.here}: no form for a section {kind!r} of a docstring")


def title_of(name: str) -> str:
    """Return the heading of a name, which tells a function of `pe.evaluate` from a public one of its name."""
    return name.removeprefix("pe.") if name.startswith("pe.evaluate.") else name.rpartition(".")[2]


def slug(title: str) -> str:
    """Return the anchor that a code host gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def members(definition: Any) -> list[Any]:
    """Return the public members of a class in the order of its source; those of its parents come last."""
    if definition.name.endswith("Error"):
        return []
    chosen = MEMBERS.get(definition.name, "run" if definition.name.endswith("Evaluator") else "").split()
    found = {**definition.members, **definition.inherited_members}
    public = {name: member for name, member in found.items() if not name.startswith("_")}
    shown = [public[name] for name in chosen] if chosen else list(public.values())
    return [member.final_target if member.is_alias else member for member in shown]


def summary(definition: Any) -> str:
    """Return the first sentence of a docstring."""
    return joined(re.split(r"(?<=[.])\s", definition.docstring.value)[0]) if definition.docstring else ""


def section_of(sections: list[Any], kind: str) -> list[Any]:
    """Return the entries of a docstring's section; none if it lacks the section."""
    return next((section.value for section in sections if section.kind.value == kind), [])


def signature(name: str, parameters: list[Any], returns: Any) -> str:
    """Return a call with its types, one parameter a line if it is long."""
    parts: list[str] = []
    starred = False
    for parameter in parameters:
        kind = parameter.kind.value if parameter.kind else ""
        if parameter.name in ("self", "cls") and not parts:
            continue
        if kind == "keyword-only" and not starred:
            parts, starred = [*parts, "*"], True
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        starred = starred or stars == "*"
        default = "" if parameter.default is None or stars else f" = {quoted(parameter.default)}"
        type_ = "" if parameter.annotation is None else f": {quoted(parameter.annotation)}"
        parts.append(f"{stars}{parameter.name}{type_}{default}")
    end = f") -> {quoted(returns)}" if returns is not None else ")"
    line = f"{name}({', '.join(parts)}{end}"
    return line if len(line) <= WIDTH else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + end


def field_line(member: Any) -> str:
    """Return the line of a field or property: its type, its default and its description."""
    set_later = member.value is None or "class-attribute" not in member.labels
    value = "" if set_later else quoted(member.value)
    if value.startswith("field("):
        given = {part.name: quoted(part.value) for part in member.value.arguments}
        value = given.get("default") or (f"{given['default_factory']}()" if "default_factory" in given else "")
    type_ = "" if member.annotation is None else f": {quoted(member.annotation)}"
    text = joined(member.docstring.value.removeprefix("Return ")) if member.docstring else ""
    text = text[:1].upper() + text[1:]
    return f"- `{member.name}{type_}{' = ' + value if value else ''}`" + (f": {text}" if text else "")


def without_prompts(text: str) -> str:
    """Return the code of an interpreter's session, with its output as comments; other text unchanged."""
    if not text.startswith(">>> "):
        return text
    lines = text.splitlines()
    return "\n".join(line[4:] if line.startswith((">>> ", "... ")) else f"# {line}" for line in lines)


def quoted(value: Any) -> str:
    """Return an expression with double quotes, as the source has them."""
    text = str(value)
    return text if '"' in text else text.replace("'", '"')


def spans(names: str) -> str:
    """Return names between commas as code spans."""
    return ", ".join(f"`{name}`" for name in names.strip("()").split(", "))


def joined(text: str) -> str:
    """Return text on one line."""
    return " ".join(text.split())


def pages() -> dict[str, str]:
    """Return the content of each page by file name."""
    reference = Reference()
    written, listed = {page: reference.page(page) for page in PUBLIC}, [FIRST_PAGE]
    reference.here = reference.owner = ""
    for page, text in written.items():
        title = re.match(r"# (.*)", text)
        listed.append(f"## [{title[1] if title else page}]({page}.md)\n")
        for name, definition in reference.names(page):
            about = reference.link(summary(definition), set())
            listed.append(f"- [`{name}`]({reference.anchors[name]}): {about}")
        listed.append("")
    covered = {name for names in PUBLIC.values() for name in names.split()} | {"errors", "__version__"}
    names = reference.package.members.items()
    public = {name for name, member in names if member.is_alias and "perception_encoder." in member.target_path}
    if missing := public - covered:
        raise SystemExit(f"add to a page in {__file__}: {', '.join(sorted(missing))}")
    return {"README.md": "\n".join(listed), **{f"{page}.md": text for page, text in written.items()}}


def main(directory: Path) -> None:
    """Write the pages."""
    directory.mkdir(exist_ok=True)
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGES)
