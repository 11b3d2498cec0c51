"""The error of a package that only the repository's dependency group installs."""

from __future__ import annotations

from perception_encoder.errors import PerceptionEncoderError


class MissingGroupError(PerceptionEncoderError):
    """A package of the dependency group `synthetic` that is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package
        super().__init__(f"{package} is not installed; run in the repository: pip install --group synthetic")

    def __reduce__(self) -> tuple[type[MissingGroupError], tuple[str]]:
        return type(self), (self.package,)
