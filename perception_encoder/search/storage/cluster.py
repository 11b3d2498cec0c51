"""Read and encode a directory's files on a Ray cluster; only this machine writes the index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

from perception_encoder.inference.cluster import WorkerModel, ended_worker, placed, stream_batches
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.pipeline import map_in_order
from perception_encoder.ray_cluster import Work, on_cluster
from perception_encoder.search.storage.reader import File, FileReader, FileResult, batches
from perception_encoder.search.storage.store import IndexStore

Read = Callable[[IndexStore, Encoder, set[str], Sequence[File]], Iterator[list[FileResult]]]


@contextmanager
def reading_on_cluster(address: str) -> Iterator[Read]:
    """Connect to a Ray cluster; yields the `read` of `update_store`.

    Its machines must see the directory, and a model file, under the same path. Raises what `on_cluster` does.
    """
    with on_cluster(address) as stream:

        def read(
            index: IndexStore, encoder: Encoder, digests: set[str], files: Sequence[File]
        ) -> Iterator[list[FileResult]]:
            model = WorkerModel.of(encoder, encoder.feature())  # not the index's, which may be a stranger's
            work = FileWork(model, index.settings["every"], frozenset(digests))

            def cut(device: str) -> Iterator[list[File]]:
                return batches(files, model.batch_size(device))

            yield from stream_batches(stream, work, cut, model.memory)

        yield read


@dataclass(frozen=True)
class FileWork(Work[File, FileResult]):
    """Reads files into rows of an index."""

    model: WorkerModel
    every: float
    digests: frozenset[str]

    def open(self, device: str) -> Callable[[list[File]], list[FileResult]]:
        """Load the model; return the function that reads files, in batches of its runtime."""
        encoder = self.model.load(device)
        runtime, reader = encoder.runtime, FileReader(encoder, self.every, self.digests)

        def read(files: list[File]) -> list[FileResult]:
            cut = batches(files, encoder.batch_size)  # of fewer, if images wait at their full size
            results = chain(*map_in_order(reader.read, cut, runtime.workers, runtime))
            return [replace(result, error=result.error and placed(result.error)) for result in results]

        return read

    def lost(self, file: File) -> FileResult:
        """Return the error of a file that ends the worker that reads it."""
        return FileResult(file, error=ended_worker(file.item.name))
