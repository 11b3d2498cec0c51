"""Both runtimes give the same features of the same model, whatever the batch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder import load
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.models.checkpoints import files
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.precision import TOLERANCE
from perception_encoder.models.registry import find_model
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.runtime.convert import to_openvino, tower_of
from perception_encoder.runtime.program import Program
from perception_encoder.runtime.runtime import Precision

openvino = pytest.importorskip("openvino")
TEXTS = ["a dog", "a photo of a red mug on a wooden table, seen from above", "snow"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "PE-Core-N16-128.safetensors"
    write_checkpoint(create_model("PE-Core-N16-128"), path)
    return path


@pytest.fixture(autouse=True)
def hashes_are_cached_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 0)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Encoder:
    return load(checkpoint, "cpu", runtime="torch", precision="float32")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def fast(request: pytest.FixtureRequest, checkpoint: Path) -> Encoder:
    return load(checkpoint, runtime="openvino", precision=request.param)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 3, 128, 128), dtype=np.uint8)


@pytest.mark.parametrize(
    ("layer", "pool"), [(None, None), (-1, "mean"), (-1, "tokens"), (0, "cls"), (2, "mean"), (3, "tokens")]
)
def test_images_have_torchs_features(reference: Encoder, fast: Encoder, layer: int | None, pool: str | None) -> None:
    feature = reference.feature(layer, pool)
    expected, found = (encoder.embed_pixels(pixels(3), feature) for encoder in (reference, fast))
    assert found.shape == expected.shape and found.dtype == np.float32
    loosened = 10 if pool in ("tokens", "cls") else 1  # single tokens vary more than their mean
    assert np.abs(found - expected).max() <= loosened * tolerance(fast)


def tolerance(encoder: Encoder) -> float:
    return TOLERANCE[encoder.runtime.precision]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other CPUs have other kernels")
@pytest.mark.parametrize("layer", [None, 1])
def test_every_block_rotates_with_openvinos_own_kernel(tmp_path: Path, layer: int | None) -> None:
    source = tower_of(create_model("PE-Core-N16-128").eval(), "image", layer)
    openvino.save_model(to_openvino(source), tmp_path / "model.xml")
    compiled = openvino.Core().compile_model(tmp_path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()]
    blocks = find_model("PE-Core-N16-128").vision.depth if layer is None else layer + 1
    assert kinds.count("RoPE") == 2 * blocks  # queries and keys


def test_texts_have_torchs_embeddings(reference: Encoder, fast: Encoder) -> None:
    expected, found = reference.encode_texts(TEXTS), fast.encode_texts(TEXTS)
    assert np.abs(found - expected).max() <= tolerance(fast)


def test_texts_have_few_shapes_and_the_same_embeddings_whatever_the_shape(
    reference: Encoder, fast: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO keeps memory for each shape that it has seen."""
    fast.encode_texts(TEXTS)  # converts and checks the tower
    shapes, run = set(), Program.__call__

    def seen(self: Program, inputs: np.ndarray) -> np.ndarray:
        shapes.add(inputs.shape)
        return run(self, inputs)

    monkeypatch.setattr(Program, "__call__", seen)
    for count in range(1, 21):
        texts = [" ".join(["dog"] * (1 + number % count)) for number in range(count)]
        expected, found = reference.encode_texts(texts), fast.encode_texts(texts)
        assert found.shape == expected.shape and np.abs(found - expected).max() <= tolerance(fast)
    assert {count for count, _ in shapes} == {1, 2, 3, 4, 6, 8, 12, 16, 24}
    assert not [length for _, length in shapes if length % 4]


def test_an_image_has_the_same_embedding_in_every_batch(fast: Encoder) -> None:
    batch, feature = pixels(13), fast.feature()
    together = fast.embed_pixels(batch, feature)
    alone = np.concatenate([fast.embed_pixels(batch[row : row + 1], feature) for row in range(13)])
    np.testing.assert_array_equal(together, alone)


def test_an_encoder_says_what_computes_it(reference: Encoder, fast: Encoder) -> None:
    precision = fast.runtime.precision
    assert f"runtime='openvino', precision={precision!r}" in repr(fast)
    assert fast.about["runtime"] == "openvino" and fast.about["dtype"] == precision
    described = fast.describe(fast.feature())
    assert (described["runtime"], described["precision"]) == ("openvino", precision)
    assert fast.weight_hash == reference.weight_hash
    assert fast.logit_scale == pytest.approx(reference.logit_scale)
    assert fast.dtype == torch.float32 and isinstance(fast.model, torch.nn.Module)


def test_the_layers_of_a_fast_encoder_leave_its_module_alone(fast: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PE_DTYPE", "bfloat16")
    assert LayerFeatures.of(fast).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in fast.model.parameters()} == {torch.float32}


def test_a_file_that_changes_before_a_tower_is_converted_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    first, second = (create_model("PE-Core-N16-128", generator=torch.Generator().manual_seed(n)) for n in range(2))
    write_checkpoint(first, tmp_path / "model.safetensors")
    encoder = load(tmp_path / "model.safetensors", runtime="openvino", precision="float32")
    write_checkpoint(second, tmp_path / "model.safetensors")
    for use in (encoder.encode_texts, lambda texts: encoder.model):
        with pytest.raises(CheckpointError, match=r"model.safetensors has changed"):
            use(TEXTS)
    write_checkpoint(first, tmp_path / "again.safetensors")
    again = load(tmp_path / "again.safetensors", runtime="openvino", precision="float32")
    expected = load(tmp_path / "again.safetensors", "cpu", runtime="torch", precision="float32").encode_texts(TEXTS)
    assert np.abs(again.encode_texts(TEXTS) - expected).max() <= TOLERANCE["float32"]


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_weights_that_are_replaced_in_place_are_told_apart(
    runtime: Literal["torch", "openvino"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file has the size, the time and the inode of the old one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    path, other = tmp_path / "model.safetensors", tmp_path / "other.safetensors"
    for number, place in enumerate((path, other)):
        write_checkpoint(create_model("PE-Core-N16-128", generator=torch.Generator().manual_seed(number)), place)
    old = load(path, "cpu", runtime=runtime, precision="float32").weight_hash
    times = path.stat()
    with path.open("r+b") as file:
        file.write(other.read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_ino == times.st_ino and path.stat().st_size == times.st_size
    found, expected = (load(place, "cpu", runtime=runtime, precision="float32") for place in (path, other))
    assert found.weight_hash == expected.weight_hash != old
    assert np.abs(found.encode_texts(TEXTS) - expected.encode_texts(TEXTS)).max() <= TOLERANCE["float32"]


def test_files_of_the_same_weights_may_have_other_configurations(tmp_path: Path) -> None:
    model = create_model("PE-Core-N16-128").visual
    changed = VisionTransformer(replace(model.config, heads=2 * model.config.heads), model.name).eval()
    changed.load_state_dict(model.state_dict())
    for name, tower in (("one", model), ("two", changed)):
        write_checkpoint(tower, tmp_path / f"{name}.safetensors")
    for _ in range(2):  # read, and from the cache
        for name, tower in (("one", model), ("two", changed)):
            encoder = load(tmp_path / f"{name}.safetensors", runtime="openvino", precision="float32")
            assert encoder.towers.vision == tower.config
    tokens = encoder.embed_pixels(pixels(1), encoder.feature(0, "mean"))
    reference = load(tmp_path / "two.safetensors", "cpu", runtime="torch", precision="float32")
    assert np.abs(tokens - reference.embed_pixels(pixels(1), reference.feature(0, "mean"))).max() <= 1e-5


def test_types_and_precisions_must_agree(checkpoint: Path) -> None:
    assert load(checkpoint, dtype=torch.bfloat16, runtime="openvino").runtime.precision == "bfloat16"
    with pytest.raises(ConfigError, match="dtype is bfloat16"):
        load(checkpoint, dtype=torch.bfloat16, precision="float32")
    with pytest.raises(ConfigError, match="runs in torch only"):
        load("random:PE-Core-N16-128", runtime="openvino")


def test_other_sizes_and_poolings_convert() -> None:
    """A tower without class token, attention pooling and output: tokens only."""
    from perception_encoder.runtime.convert import to_openvino, tower_of

    model = create_model("PE-Spatial-T16-512")
    source = tower_of(model, "image", 1, (64, 96))
    import openvino

    compiled = openvino.Core().compile_model(to_openvino(source), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found, expected = compiled([source.example])[0], source.run(source.example)
    assert found.shape == (2, 24 + model.num_prefix_tokens, model.config.width)
    np.testing.assert_allclose(found, expected, atol=1e-4)


COMMANDS = {
    "search": ["search", "a red thing", "{images}"],
    "classify": ["classify", "{images}/0.png", "--labels", "cat,dog"],
    "embed": ["embed", "{images}", "-o", "{out}/e.parquet", "--overwrite"],
    "index": ["index", "{images}", "--rebuild"],
}
RUN = """
import sys
from perception_encoder.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("torch" in sys.modules, "openvino" in sys.modules)
"""
UNCOMPILED = """
from perception_encoder.runtime.machine import check_openvino
check_openvino()
import openvino
openvino.Core.compile_model = None
"""
NEEDLESS = {
    *("torch", "pyarrow", "jaxtyping", "pandas", "lancedb", "av", "turbovec", "ftfy", "httpx", "multiprocessing"),
    *("unittest", "asyncio", "urllib.request"),
}
"""Modules that a search of an index by a text does without; together they take longer than it."""
SERVE = """
import sys, threading, urllib.request, json
import perception_encoder as pe
def ask(server):
    def run():
        try:
            body = json.dumps({"input": ["a dog"], "model": "builtin"}).encode()
            request = urllib.request.Request(server.address, body, {"Content-Type": "application/json"})
            answer = json.load(urllib.request.urlopen(request))
            print(len(answer["data"]), answer["runtime"], answer["precision"], "torch" in sys.modules, flush=True)
        finally:
            import os
            os._exit(0)
    threading.Thread(target=run).start()
pe.serve_api(port=0, precision="float32", on_start=ask)
"""


def test_commands_with_converted_models_import_no_torch(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        Image.fromarray(pixels(3)[number].transpose(1, 2, 0)).save(images / f"{number}.png")
    precision: Precision = "float32"
    environment = {**os.environ, "PE_RUNTIME": "openvino", "PE_DTYPE": precision}

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    encode = "import perception_encoder as pe, numpy as np; e = pe.load('builtin')\n"
    run(encode + "e.encode(['text', np.zeros((8, 8, 3), np.uint8)]); print()")  # convert both towers
    for name in ("index", "search", "classify", "embed"):
        arguments = [part.format(images=images, out=tmp_path) for part in COMMANDS[name]]
        assert run(RUN, *arguments) == "False True", name
    arguments = [part.format(images=images) for part in COMMANDS["search"]]
    loaded = run(UNCOMPILED + RUN + "print(*sorted(sys.modules))", *arguments).split()
    assert set(loaded) & NEEDLESS == set()
    assert "openvino" in loaded and "tokenizers" in loaded, "the search has computed"
    assert run(SERVE) == "1 openvino float32 False"


OLDER = """
import warnings, numpy as np, perception_encoder as pe
warnings.simplefilter("error")
images = [np.full((8, 8, 3), 40 * number, np.uint8) for number in range(3)]
exact, found = (
    np.concatenate([one.encode_images(images), one.encode_texts(["a dog"])])
    for one in (pe.load("builtin", runtime=runtime, precision=precision)
                for runtime, precision in (("torch", "float32"), ("openvino", "bfloat16")))
)
print(np.abs(exact - found).max())
"""


def test_a_cpu_whose_features_are_hidden_computes_what_an_older_one_does() -> None:
    """OpenVINO asks the CPU itself, and does not find the kernels that a variable or a virtual machine forbids."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
    command = [sys.executable, "-c", OLDER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= TOLERANCE["bfloat16"]
