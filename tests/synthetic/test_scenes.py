"""Rendered scenes: their models, images, questions, and datasets of them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import write_members
from perception_encoder.preprocess.image import image_file
from synthetic.scenes.language.graph import Node, SceneGraph, build_graph
from synthetic.scenes.language.questions import SceneQuestion, image_questions
from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.sampling import LayoutConfig, SceneSampler
from synthetic.scenes.layout.scene import CORNERS, Light, PlacedObject, Plane, Scene, triple, yaw
from synthetic.scenes.objects.bundled import revolved_models
from synthetic.scenes.objects.furniture import CATALOGUE, build_library
from synthetic.scenes.objects.meshes import bake
from synthetic.scenes.objects.models import ObjectInfo, ObjectLibrary, ObjectModel, find_flat_top, write_library
from synthetic.scenes.objects.wavefront import Material, Triangles
from synthetic.scenes.rendering.renderer import RenderedImage, Renderer
from synthetic.scenes.samples.images import ImageMaker
from synthetic.scenes.samples.production import make_samples, make_scenes
from synthetic.scenes.samples.sample import SceneSample, ScenesConfig
from synthetic.scenes.samples.videos import VideoMaker

QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def box_model(
    label: str, size: tuple[float, float, float], colour: tuple[float, float, float] = (0.9, 0.9, 0.9)
) -> ObjectModel:
    """A box that stands on the floor."""
    faces = [face for quad in QUADS for face in ((quad[0], quad[1], quad[2]), (quad[0], quad[2], quad[3]))]
    corners = (CORNERS * size)[faces]
    triangles = Triangles(
        corners=corners,
        uv=np.zeros((len(faces), 3, 2)),
        normals=corners.mean(axis=1) - (0, 0, size[2] / 2),
        material_ids=np.zeros(len(faces), dtype=np.int64),
        materials=(Material(colour=colour),),
    )
    mesh = bake(triangles, 100)
    info = ObjectInfo(key=f"test-{label}", label=label, class_name=label, source="test", licence="CC0-1.0", size=size)
    return ObjectModel(replace(info, top=find_flat_top(mesh, (size[2],)) if label == "table" else None), mesh)


@pytest.fixture(scope="session")
def library() -> ObjectLibrary:
    """Surfaces of revolution, a crate, a table, a sign and a cushion."""
    models = revolved_models()
    for model in (
        box_model("crate", (0.2, 0.3, 0.25), (0.5, 0.3, 0.15)),
        box_model("table", (0.6, 0.5, 0.2)),
        box_model("sign", (0.2, 0.05, 0.3)),
        box_model("cushion", (0.3, 0.3, 0.1)),
    ):
        models[model.info.key] = model
    return ObjectLibrary(models)


@pytest.fixture(scope="session")
def renderer(library: ObjectLibrary) -> Iterator[Renderer]:
    """A renderer of the library."""
    with Renderer(library) as opened:
        yield opened


FLOOR = Plane(
    corner=(-4.0, -4.0, 0.0),
    right=(8.0, 0.0, 0.0),
    up=(0.0, 8.0, 0.0),
    surface="floor",
    texture=5,
    tint=(0.8, 0.8, 0.8),
    repeat=1.0,
)


def scene_of(*objects: PlacedObject, camera: Camera | None = None, planes: tuple[Plane, ...] = (FLOOR,)) -> Scene:
    """A scene with a light from above and behind the camera, which looks north."""
    towards = np.array([0.3, -0.5, 0.8])
    return Scene(
        objects=objects,
        planes=planes,
        light=Light(
            towards=triple(towards / np.linalg.norm(towards)),
            colour=(1.0, 1.0, 1.0),
            ambient=0.5,
            diffuse=0.5,
            shade=0.4,
        ),
        camera=camera or Camera((0.0, -2.0, 1.0), (0.0, 0.0, 0.1), 45, near=0.1, far=20),
        sky=((100, 150, 200), (200, 220, 240)),
        floor="carpet",
        radius=1.0,
    )


def draw(renderer: Renderer, scene: Scene, side: int) -> RenderedImage:
    """An image of a scene, by its own camera."""
    with renderer.stage(scene) as stage:
        return stage.draw(scene.camera, side)


OBJ = """mtllib a.mtl
v 0 0 0
v 2 0 0
v 2 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vn 0 0 1
usemtl plain
f 1/1/1 2/2/1 3/3/1
usemtl textured
f -4/-4/1 -2/-2/1 -1/-1/1
"""
MTL = "newmtl plain\nKd 1 0 0\nnewmtl textured\nKd 0 0 0\nmap_Kd -s 1 1 1 a.png\n"


def png(colour: tuple[int, ...], mode: str = "RGB") -> bytes:
    return image_file(Image.new(mode, (8, 8), colour), "PNG")


def test_a_damaged_mesh_is_an_error_that_names_the_model(library: ObjectLibrary, tmp_path: Path) -> None:
    path = tmp_path / "models.tar"
    write_library(path, [library["test-table"]])
    with tarfile.open(path) as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}
    write_members(path, {**members, "test-table.npz": b"no array"}.items())
    again = ObjectLibrary()
    again.add(path)
    with pytest.raises(DataError, match="test-table is damaged"):
        again["test-table"]


def archive(path: Path, entries: list[dict[str, str]], contents: dict[str, bytes]) -> None:
    text = "".join(
        f"{key}#{number}={value}\n" for number, entry in enumerate(entries, 1) for key, value in entry.items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as built:
        built.writestr(CATALOGUE, text)
        for name, content in contents.items():
            built.writestr(name, content)


def test_furniture_is_built_into_a_library(tmp_path: Path) -> None:
    common = {"category": "Living room", "doorOrWindow": "false", "width": "200", "depth": "50", "height": "100"}
    entries = [
        {"id": "Scopia#a", "name": "Oak table", "tags": "Desk, Wood", "model": "/a/a.obj", "creator": "Eva", **common},
        {"id": "Scopia#b", "name": "Broken chair", "model": "/b/b.obj", **common},
        {"id": "Scopia#c", "name": "Window", "model": "/a/a.obj", **common, "doorOrWindow": "true"},
        {"id": "Scopia#d", "name": "Clock", "model": "/a/a.obj", **common, "elevation": "150"},
        {"id": "Scopia#e", "name": "Parking slot", "model": "/a/a.obj", **common},
        {"id": "Scopia#f", "name": "Palace", "model": "/a/a.obj", **common, "width": "9000"},
    ]
    contents = {"a/a.obj": OBJ.encode(), "a/a.mtl": MTL.encode(), "a/a.png": png((9, 9, 9)), "b/b.obj": b"v"}
    directory = tmp_path / "usr" / "share" / "sweethome3d" / "furniture"
    archive(directory / "KatorLegaz.sh3f", entries, contents)
    built = build_library(tmp_path, tmp_path / "out.tar", jobs=1)
    assert built.models == 1 and [failure.source for failure in built.failures] == ["b/b.obj"]
    library = ObjectLibrary()
    library.add(built.path)
    (info,) = library.info.values()
    assert (info.key, info.label, info.class_name) == ("sh3d-Scopia-a", "oak table", "table")
    assert (info.creator, info.licence, info.tags) == ("Eva", "CC-BY-3.0-US", ("desk", "wood"))
    assert info.size == pytest.approx((2.0, 0.0, 1.0))


SIDE = 48


def cast(
    camera: Camera, objects: tuple[PlacedObject, ...], sizes: list[tuple[float, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and mask (SIDE, SIDE) of boxes on the plane z = 0, without the renderer: rays against slabs."""
    focal = SIDE / 2 / np.tan(np.radians(camera.angle) / 2)
    forward = np.subtract(camera.target, camera.eye)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    middles = (np.arange(SIDE) + 0.5 - SIDE / 2) / focal
    rays = forward + middles[:, None] * right + middles[:, None, None] * down  # (SIDE, SIDE, 3)
    eye = np.array(camera.eye)
    with np.errstate(divide="ignore"):
        floor = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], np.inf)
    on_it = (np.abs(eye[:2] + floor[..., None] * rays[..., :2]) <= 4).all(axis=-1)
    depth, mask = np.where(on_it, floor, np.inf), np.zeros((SIDE, SIDE), int)
    for number, (item, size) in enumerate(zip(objects, sizes, strict=True), start=1):
        start, along = item.rotation.T @ (eye - item.position), rays @ item.rotation
        low, high = np.array([-size[0] / 2, -size[1] / 2, 0]), np.array([size[0] / 2, size[1] / 2, size[2]])
        ends = np.sort([(low - start) / along, (high - start) / along], axis=0)
        near, far = ends[0].max(axis=-1), ends[1].min(axis=-1)
        met = (near > 0) & (near < far) & (near < depth)
        depth[met], mask[met] = near[met], number
    return np.where(np.isfinite(depth), depth, 0), mask


def inside(mask: np.ndarray) -> np.ndarray:
    """Pixels whose neighbours all show the same object."""
    padded = np.pad(mask, 1, mode="edge")
    shifted = [padded[1 + y : 1 + y + SIDE, 1 + x : 1 + x + SIDE] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return np.all([item == mask for item in shifted], axis=0)


def test_depth_and_masks_are_those_of_cast_rays(renderer: Renderer, library: ObjectLibrary) -> None:
    objects = (
        PlacedObject(model="test-crate", position=(-0.3, 0.1, 0.0), turn=yaw(0.5)),
        PlacedObject(model="test-table", position=(0.35, -0.1, 0.0), turn=yaw(-0.3)),
        PlacedObject(model="test-cushion", position=(0.35, -0.1, 0.2), turn=yaw(1.0), on=1),
    )
    scene = scene_of(*objects)
    image = draw(renderer, scene, SIDE)
    depth, mask = cast(scene.camera, objects, [library.info[item.model].size for item in objects])
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    assert (image.mask == mask).mean() > 0.995  # a ray through an edge may go either way
    sure = inside(mask)
    assert (image.mask == mask)[sure].all()
    assert np.abs(image.depth - depth)[sure].max() < 1e-4
    assert image.rgb.shape == (SIDE, SIDE, 3)


def recount(question: SceneQuestion, graph: SceneGraph) -> tuple[str, tuple[float, ...] | None]:
    """The answer and its box by rules written anew, from the words of the question and the objects alone."""
    text = question.question.rstrip("?")
    plural = {f"{node.class_name}s": node.class_name for node in graph.nodes}
    if question.type == "count":
        name = text.removeprefix("How many ").removesuffix(" are there")
        nodes = [node for node in graph.nodes if name in ("things", f"{node.class_name}s")]
        alone = len(nodes) == 1 and name != "things"
        return str(len(nodes)), nodes[0].box if alone else None
    if question.type == "exists":
        name = text.split(maxsplit=3)[3]
        nodes = [node for node in graph.nodes if node.class_name == name]
        return ("yes" if nodes else "no"), (nodes[0].box if len(nodes) == 1 else None)
    if text.startswith("Are there more "):
        first, second = text.removeprefix("Are there more ").split(" than ")
        classes = [node.class_name for node in graph.nodes]
        return ("yes" if classes.count(plural[first]) > classes.count(plural[second]) else "no"), None
    named = [node for node in graph.nodes if refers(text, node, graph)]
    if question.type == "colour":
        return named[0].colour, named[0].box
    if question.type == "where":
        node = named[0]
        if text.startswith("Where"):
            below = next(other for other in graph.nodes if other.id == node.on)
            return f"on the {name_of(below, graph)}", node.box
        middle = (node.box[0] + node.box[2]) / 2 / graph.side
        return ("on the left", "in the middle", "on the right")[int(middle * 3)], node.box
    if question.type == "compare":
        best = max(named, key=lambda n: n.size[2]) if "taller" in text else min(named, key=lambda n: n.depth)
        return f"the {name_of(best, graph)}", best.box
    words = {"to the left of": -1, "to the right of": 1, "behind": "far", "in front of": "near", "on": "on"}
    word = next(item for item in words if f" {item} the " in text)
    if question.type == "which":
        second = named[-1]
        nodes = [node for node in graph.nodes if node.id != second.id and holds(node, words[word], second)]
        clear = [node for node in nodes if node.id in question.objects]
        return f"the {name_of(clear[0], graph)}", clear[0].box
    ordered = sorted(named, key=lambda node: text.index(f"the {name_of(node, graph)}"))
    return ("yes" if holds(ordered[0], words[word], ordered[1]) else "no"), ordered[0].box


def name_of(node: Node, graph: SceneGraph) -> str:
    same_class = [other for other in graph.nodes if other.class_name == node.class_name]
    return node.label if len(same_class) == 1 else f"{node.colour} {node.class_name}"


def refers(text: str, node: Node, graph: SceneGraph) -> bool:
    return f"the {name_of(node, graph)} " in f"{text} " or f"the {name_of(node, graph)}," in text


def holds(first: Node, relation: object, second: Node) -> bool:
    if relation == "on":
        return first.on == second.id
    if relation in ("far", "near"):
        return first.depth > second.depth if relation == "far" else first.depth < second.depth
    middles = [(node.box[0] + node.box[2]) / 2 for node in (first, second)]
    return middles[0] < middles[1] if relation == -1 else middles[0] > middles[1]


def test_every_answer_is_what_a_recount_says(renderer: Renderer) -> None:
    sampler = SceneSampler(renderer.library, renderer.library.select(), LayoutConfig(least=3, again=0.5))
    classes = sorted(sampler.keys)
    types: dict[str, int] = {}
    for number in range(12):
        generator = np.random.default_rng(number)
        scene = sampler.sample(generator)
        graph = build_graph(scene, draw(renderer, scene, 48).mask, renderer.library)
        for question in image_questions(graph, classes, generator, most=40) if graph else []:
            types[question.type] = types.get(question.type, 0) + 1
            assert recount(question, graph) == (question.answer, question.box), question
            assert set(question.objects) <= {node.id for node in graph.nodes}
    assert types.keys() == {"count", "exists", "colour", "where", "which", "relation", "compare"}


def read_all(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.usefixtures("warm_pools")
def test_bytes_do_not_depend_on_processes(library: ObjectLibrary, tmp_path: Path) -> None:
    config = ScenesConfig(count=10, side=32, shard=6)
    written = make_scenes(library, tmp_path / "one", config, jobs=1)
    make_scenes(library, tmp_path / "two", config, jobs=2)
    files = read_all(tmp_path / "one" / "train")
    assert files == read_all(tmp_path / "two" / "train")
    assert list(files) == ["00000.tar", "00001.tar", "ATTRIBUTION.txt", "instances.json"]
    assert (written.samples, written.tars) == (10, 2) and written.models > 2
    with ImageMaker(library, config) as maker:  # and not on what was written before
        assert maker.sample(7).metadata == [*make_samples(library, config, jobs=1)][7].metadata


@pytest.mark.usefixtures("warm_pools")
def test_videos_do_not_depend_on_processes_either(library: ObjectLibrary, tmp_path: Path) -> None:
    config = ScenesConfig(count=4, side=48, frames=16, videos=True)
    for name, jobs in (("one", 1), ("two", 2)):
        make_scenes(library, tmp_path / name, config, jobs=jobs)
    files = read_all(tmp_path / "one" / "train")
    assert list(files) == ["00000.tar", "ATTRIBUTION.txt", "videos.json"]
    assert files == read_all(tmp_path / "two" / "train")


@pytest.fixture(scope="module")
def directory(library: ObjectLibrary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    return make_scenes(library, out, ScenesConfig(count=5, side=48, seed=3), jobs=1).directory


def test_samples_have_their_files_and_fields(directory: Path) -> None:
    with tarfile.open(directory / "00000.tar") as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}
    keys = sorted({name.partition(".")[0] for name in members})
    assert keys == [f"train-{number:07}" for number in range(5)]
    for key in keys:
        depth = np.asarray(Image.open(io.BytesIO(members[f"{key}.depth.png"])))
        mask = np.asarray(Image.open(io.BytesIO(members[f"{key}.mask.png"])))
        metadata = json.loads(members[f"{key}.json"])
        assert Image.open(io.BytesIO(members[f"{key}.jpg"])).size == (48, 48)
        assert depth.dtype == np.uint16 and depth.shape == mask.shape == (48, 48)
        assert set(np.unique(mask)) - {0} == {item["id"] for item in metadata["objects"]}
        assert len(metadata["attribution"]) == len({item["model"] for item in metadata["objects"]})
        assert {"caption", "questions", "camera", "relations", "floor"} <= metadata.keys()
        for item in metadata["objects"]:
            near = depth[mask == item["id"]].mean() / 1000
            assert abs(near - item["depth"]) < np.linalg.norm(item["size"])  # at its position


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_coco_reads_the_instances(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(directory / "instances.json"))
    with tarfile.open(directory / "00000.tar") as tar:
        for image in coco.loadImgs(coco.getImgIds()):
            stem = image["file_name"].removesuffix(".jpg")
            mask = np.asarray(Image.open(tar.extractfile(f"{stem}.mask.png")))
            metadata = json.load(tar.extractfile(f"{stem}.json"))
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            assert len(annotations) == len(metadata["objects"])
            for annotation, item in zip(annotations, metadata["objects"], strict=True):
                assert np.array_equal(coco.annToMask(annotation), mask == item["id"])
                assert annotation["area"] == item["pixels"]
                assert coco.loadCats(annotation["category_id"])[0]["name"] == item["kind"]
    capsys.readouterr()


def test_splits_share_no_model(library: ObjectLibrary) -> None:
    models = {}
    for split in ("train", "test"):
        config = ScenesConfig(count=4, side=32, split=split)
        samples = make_samples(library, config, jobs=1)
        models[split] = {item["model"] for sample in samples for item in sample.metadata["objects"]}
    assert models["train"] and models["test"] and not models["train"] & models["test"]


CONFIG = ScenesConfig(side=32, videos=True)


@pytest.fixture(scope="module")
def sample(library: ObjectLibrary) -> SceneSample:
    with VideoMaker(library, CONFIG) as maker:
        return maker.sample(1)


def test_tracks_and_events_agree_with_the_frames(sample: SceneSample) -> None:
    files = dict(sample.files)
    metadata = json.loads(files["json"])
    fields = {"category", "duration", "human_caption", "keywords", "model_caption", "video_id", "size_in_bytes"}
    assert fields <= metadata.keys()
    assert metadata["duration"] == 3 and metadata["size_in_bytes"] == len(files["mp4"])
    assert metadata["number_of_events"] == len(metadata["events"]) > 0
    with av.open(io.BytesIO(files["mp4"])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == CONFIG.frames == len(metadata["cameras"]) and frames[0].shape == (32, 32, 3)
    masks = np.asarray(Image.open(io.BytesIO(files["mask.png"]))).reshape(CONFIG.frames, 32, 32)
    moving = set()
    for track in metadata["tracks"]:
        for mask, box, pixels in zip(masks, track["boxes"], track["pixels"], strict=True):
            rows, columns = np.nonzero(mask == track["id"])
            assert len(rows) == pixels and (box is None) == (pixels == 0)
            if box:
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        places = [place for place in track["positions"] if place]
        spans = [np.ptp(np.array(values), axis=0).max() for values in (places, track["turns"])]
        if len(places) < CONFIG.frames or max(spans) > 0.05:
            moving.add(track["id"])
    assert moving == {event["object"] for event in metadata["events"]} - {None}
    answers = {question["question"]: question["answer"] for question in metadata["questions"]}
    assert len(answers) == 8
    assert answers.get("How many things move?", str(len(moving))) == str(len(moving))
