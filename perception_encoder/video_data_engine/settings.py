"""What an output was made with: configuration, models with their hashes, prompts, versions and the runs."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from perception_encoder import __version__
from perception_encoder.errors import DataError, OutputError
from perception_encoder.files import write_json
from perception_encoder.formats.entries import quoted, read_json
from perception_encoder.video_data_engine.config import EngineConfig
from perception_encoder.video_data_engine.prompts import EnginePrompt

SETTINGS = "settings.json"
_LIBRARIES = ("av", "torch", "transformers", "openai", "ray")


class EngineSettings:
    """The file `OUT/settings.json`; results of two configurations are never mixed in one output.

    Attributes: `values`. Raises OutputError if the output was made with another configuration or prompt, and
    DataError if the file is damaged.
    """

    def __init__(self, out: Path, config: EngineConfig, prompts: list[EnginePrompt]) -> None:
        self._path = out / SETTINGS
        own = {"config": config.to_json(), "prompts": {prompt.name: prompt.text for prompt in prompts}}
        self.values: dict[str, Any] = {**own, "models": {}, "runs": []}
        if self._path.exists():
            self.values = read_engine_settings(out)
            for name in own:
                _compare(out, self.values[name], own[name])
        self.values["runs"].append({"started": datetime.now(UTC).isoformat(timespec="seconds"), **_versions()})
        self._write()

    def add_model(self, stage: str, facts: Mapping[str, Any]) -> None:
        """Store what is known of a stage's model once it is loaded; OutputError if earlier results are of another."""
        if not facts or self.values["models"].get(stage) == facts:
            return
        if stage in self.values["models"]:
            _compare(self._path.parent, self.values["models"][stage], facts)
        self.values["models"][stage] = dict(facts)
        self._write()

    def _write(self) -> None:
        write_json(self._path, self.values)


def read_engine_settings(out: Path) -> dict[str, Any]:
    """Return what an output was made with; DataError if `out` is not one, or its settings are damaged."""
    path = out / SETTINGS
    if not path.is_file():
        raise DataError(f"{out} is not an output of `pe engine run`: it has no {SETTINGS}")
    values = read_json(path)
    for name in ("config", "prompts", "models", "runs"):
        value = values.get(name) if isinstance(values, dict) else None
        facts = [*value.values()] if isinstance(value, dict) and name == "models" else []
        if not isinstance(value, list if name == "runs" else dict) or not all(isinstance(each, dict) for each in facts):
            raise DataError(f"{path}: `{name}` is {quoted(value)}; restore a copy, or choose another output")
    return values


def _compare(out: Path, stored: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    for name in own:
        if stored.get(name) != own[name]:
            old, new = (quoted(values.get(name)) for values in (stored, own))
            raise OutputError(
                f"{out} was made with another {name}, {old} and not {new}; give the same, or choose another output"
            )


def _versions() -> dict[str, str]:
    versions = {"perception_encoder": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions
