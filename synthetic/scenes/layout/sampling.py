"""Sample a scene: its objects, their positions, what stands on what, the room, the light and the camera.

The objects of one scene are of similar size, and no two of them of easily confused classes. They stand apart on the
floor, and small ones on objects with a level top. The camera is moved back until all are in the image; a scene in which
one object would hide too much of another is sampled again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from perception_encoder.errors import DataError
from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.scene import (
    LEAST_VISIBLE,
    Light,
    PlacedObject,
    Plane,
    Scene,
    box_corners,
    triple,
    yaw,
)
from synthetic.scenes.layout.surfaces import FLOOR_TINTS, FLOORS, OTHER_TINTS, SKIES, WALLS
from synthetic.scenes.objects.models import ObjectInfo, ObjectLibrary, ObjectModel
from synthetic.scenes.objects.names import NEVER_TINTED, SUPPORTS, family_of

TRIES = 60
LIKE_SIZE = 2.2  # how many times longer one object on the floor may be than another
SMALLEST = 0.14  # of the longest object's side: smaller ones cannot be seen on it
HIDDEN = 0.55  # of an object's box that another in front of it may cover
MARGIN = 0.05  # of the image, free of objects
STACKED, WALLED, TINTED = 0.6, 0.75, 0.4  # how often an object carries another, walls exist, pale objects are tinted
TINTS: tuple[tuple[float, float, float], ...] = (
    *((0.9, 0.15, 0.12), (0.2, 0.65, 0.25), (0.15, 0.3, 0.85), (0.98, 0.85, 0.1), (1.0, 0.52, 0.05)),
    *((0.5, 0.2, 0.7), (1.0, 0.5, 0.72), (0.5, 0.3, 0.15), (0.6, 0.8, 1.0)),
)
PALE = ("white", "gray", "beige")


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """How many objects a scene has."""

    least: int = 2
    """Objects on the floor, at least; fewer if no others of similar size exist."""
    most: int = 5
    """Objects on the floor, at most."""
    again: float = 0.35
    """How often another object is of a class that the scene already has."""


@dataclass
class _Draft:
    """The objects of a scene that is being sampled."""

    models: list[ObjectModel] = field(default_factory=list)
    objects: list[PlacedObject] = field(default_factory=list)
    footprints: list[np.ndarray] = field(default_factory=list)

    def families(self) -> dict[str, str]:
        """Return the class that represents each family."""
        return {family_of(model.info.class_name): model.info.class_name for model in self.models}

    def corners(self) -> np.ndarray:
        """Return the corners of the box around each object, (n, 8, 3), in the world."""
        positions, turns = ([getattr(item, name) for item in self.objects] for name in ("position", "turn"))
        return box_corners(np.array(positions), np.array(turns), np.array([model.info.size for model in self.models]))


class SceneSampler:
    """Samples scenes of some of a library's models."""

    def __init__(self, library: ObjectLibrary, keys: Sequence[str], config: LayoutConfig) -> None:
        self.library, self.config = library, config
        self.keys: dict[str, list[str]] = {}
        """Of each class, the keys of its models."""
        for key in keys:
            self.keys.setdefault(library.info[key].class_name, []).append(key)
        if len({family_of(name) for name in self.keys}) < 2:
            raise DataError("scenes need models of two different classes at least; is the library's split this small?")

    def sample(self, generator: np.random.Generator, first: str | None = None) -> Scene:
        """Sample a scene; DataError if the models do not allow one.

        `first`: the key of its first model; then no object stands on another.
        """
        for attempt in range(TRIES):
            draft = self._fill_floor(generator, first)
            if len(draft.models) < self.config.least and attempt < TRIES // 2:
                continue
            if first is None:
                self._stack(draft, generator)
            scene = _compose(draft, generator)
            if scene is not None:
                return scene
        raise DataError(f"no scene in {TRIES} tries; the library needs models of similar size and different classes")

    def _fill_floor(self, generator: np.random.Generator, key: str | None) -> _Draft:
        draft = _Draft()
        count = int(generator.integers(self.config.least, self.config.most + 1))
        first = self.library.info[key] if key else self.choose(generator, list(self.keys))
        _put_on_floor(draft, self.library[first.key], generator)
        while len(draft.models) < count:
            info = self._choose_another(draft, generator, max(first.size))
            if info is None or not _put_on_floor(draft, self.library[info.key], generator):
                break
        return draft

    def _choose_another(self, draft: _Draft, generator: np.random.Generator, length: float) -> ObjectInfo | None:
        """Choose a model that fits those of the draft; None if no try fits."""
        families = draft.families()
        again = generator.random() < self.config.again
        classes = sorted(set(families.values())) if again else list(self.keys)
        for _ in range(TRIES):
            info = self.choose(generator, classes)
            similar = 1 / LIKE_SIZE <= max(info.size) / length <= LIKE_SIZE
            if similar and (again or family_of(info.class_name) not in families):
                return info
        return None

    def choose(self, generator: np.random.Generator, classes: Sequence[str]) -> ObjectInfo:
        """Choose one of these classes at random, then one of its models."""
        keys = self.keys[classes[int(generator.integers(len(classes)))]]
        return self.library.info[keys[int(generator.integers(len(keys)))]]

    def _stack(self, draft: _Draft, generator: np.random.Generator) -> None:
        """Put smaller objects on some of those with a level top."""
        smallest = SMALLEST * max(max(model.info.size) for model in draft.models)
        for index, (model, below) in enumerate(zip(list(draft.models), list(draft.objects), strict=True)):
            top = model.info.top
            if top is None or model.info.class_name not in SUPPORTS or generator.random() >= STACKED:
                continue
            room = np.array([top.x[1] - top.x[0], top.y[1] - top.y[0]])
            families = draft.families()
            for _ in range(TRIES):
                small = self.choose(generator, list(self.keys))
                name, across = small.class_name, float(np.hypot(*small.size[:2]))
                fits = across < 0.9 * room.min() and small.size[2] < 1.2 * max(model.info.size)
                if fits and max(small.size) >= smallest and families.get(family_of(name), name) == name:
                    free = (room - across) / 2
                    middle = np.array([sum(top.x) / 2, sum(top.y) / 2]) + generator.uniform(-1, 1, 2) * free
                    position = below.rotation @ np.array([*middle, top.height]) + np.array(below.position)
                    angle = float(generator.uniform(0, 2 * np.pi))
                    _add(draft, self.library[small.key], position, angle, generator, index)
                    break


def _put_on_floor(draft: _Draft, model: ObjectModel, generator: np.random.Generator) -> bool:
    """Put a model on a free part of the floor; false if no try finds one."""
    spread = sum(float(np.hypot(*other.info.size[:2])) for other in (*draft.models, model))
    reach = 0.26 * spread * (1 + 2 * np.arange(TRIES) / TRIES) * (len(draft.models) > 0)
    positions = generator.uniform(-1, 1, (TRIES, 2)) * reach[:, None]
    angles = generator.normal(0, 0.7, TRIES)  # most show their front
    footprints, free = _footprints(model, positions, angles), np.ones(TRIES, dtype=bool)
    for other in draft.footprints:
        free &= _are_apart(footprints, other)
    if not free.any():
        return False
    first = int(free.argmax())
    _add(draft, model, np.array([*positions[first], 0.0]), float(angles[first]), generator, None)
    return True


def _add(
    draft: _Draft, model: ObjectModel, at: np.ndarray, angle: float, generator: np.random.Generator, on: int | None
) -> None:
    info, tint = model.info, (1.0, 1.0, 1.0)
    tintable = info.tinted or (info.category not in NEVER_TINTED and model.colour() in PALE)
    if tintable and (info.tinted or generator.random() < TINTED):
        tint = TINTS[int(generator.integers(len(TINTS)))]
    draft.models.append(model)
    draft.footprints.append(_footprints(model, at[None, :2], np.array([angle]))[0])
    draft.objects.append(PlacedObject(model=info.key, position=triple(at), turn=yaw(angle), tint=tint, on=on))


def _footprints(model: ObjectModel, positions: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The corners (n, 4, 2) of a rectangle a little larger than the model, at positions (n, 2), in order around it."""
    half = np.array(model.info.size[:2]) * 0.54 + 0.01 * max(model.info.size)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    cosines, sines = np.cos(angles), np.sin(angles)
    return corners @ np.array([[cosines, -sines], [sines, cosines]]).T + positions[:, None]


def _are_apart(footprints: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether a side of each rectangle (n, 4, 2), or of the other one (4, 2), separates the two: (n,) bool."""
    sizes, others = np.diff(footprints[:, :3], axis=1), np.tile(np.diff(other[:3], axis=0), (len(footprints), 1, 1))
    directions = np.concatenate([sizes, others], axis=1).swapaxes(1, 2)  # (n, 2, 4)
    one, two = footprints @ directions, other @ directions  # (n, 4 corners, 4 directions)
    return ((one.max(axis=1) < two.min(axis=1)) | (two.max(axis=1) < one.min(axis=1))).any(axis=1)


def _compose(draft: _Draft, generator: np.random.Generator) -> Scene | None:
    """Add the room, the light and the camera; None if an object would be hidden or too small."""
    corners = draft.corners()
    flat = corners.reshape(-1, 3)
    middle = (flat.min(axis=0) + flat.max(axis=0)) / 2 * (1, 1, 0)
    objects = tuple(replace(item, position=triple(item.position - middle)) for item in draft.objects)
    corners = corners - middle
    radius = float(np.linalg.norm(corners.reshape(-1, 3), axis=1).max())
    camera = aim_camera(corners, *_point_of_view(generator))
    if not _shows_all(camera, corners, objects):
        return None
    number = int(generator.integers(len(FLOORS)))
    name, reach = FLOORS[number][0], 12 * radius
    floor = Plane(
        corner=(-reach, -reach, 0.0),
        right=(2 * reach, 0.0, 0.0),
        up=(0.0, 2 * reach, 0.0),
        texture=number,
        tint=_tint(FLOOR_TINTS.get(name, OTHER_TINTS), generator),
        repeat=float(radius * generator.uniform(0.5, 1.0)),
        surface="floor",
    )
    walls = _walls(radius, np.array(camera.eye), generator) if generator.random() < WALLED else []
    return Scene(
        objects=objects,
        planes=(floor, *walls),
        light=_light(camera, generator),
        camera=camera,
        sky=SKIES[int(generator.integers(len(SKIES)))],
        floor=name,
        radius=radius,
    )


def _point_of_view(generator: np.random.Generator) -> tuple[np.ndarray, float]:
    """Sample a unit vector to a camera in the south and above, and its field of view in degrees."""
    side, rise = generator.uniform(-0.9, 0.9), np.radians(generator.uniform(10, 42))
    away = np.array([np.sin(side) * np.cos(rise), -np.cos(side) * np.cos(rise), np.sin(rise)])
    return away, float(generator.uniform(35, 55))


def aim_camera(corners: np.ndarray, away: np.ndarray, angle: float) -> Camera:
    """Return the nearest camera in a direction (unit vector `away`) that has the boxes (n, 8, 3) in its image."""
    points = corners.reshape(-1, 3)
    target = (points.min(axis=0) + points.max(axis=0)) / 2
    size = float(np.linalg.norm(np.ptp(points, axis=0)))
    across, down, deep = _camera(target, away, size, angle).rotation @ (points - target).T
    # a point is inside if its depth is at least its distance from the axis, scaled by the image without its margin
    least = np.maximum(np.abs(across), np.abs(down)) / np.tan(np.radians(angle) / 2) / (1 - 2 * MARGIN)
    return _camera(target, away, float((np.maximum(least, 0.1 * size) - deep).max()), angle, size)


def _camera(target: np.ndarray, away: np.ndarray, distance: float, angle: float, size: float = 1.0) -> Camera:
    return Camera(triple(target + distance * away), triple(target), angle, near=0.02 * size, far=12 * size)


def _shows_all(camera: Camera, corners: np.ndarray, objects: Sequence[PlacedObject]) -> bool:
    """Whether each object's box in the image is large enough, and no nearer one's box covers too much of it."""
    projected = camera.project(corners, 1)
    low, high, depth = projected[..., :2].min(axis=1), projected[..., :2].max(axis=1), projected[..., 2].mean(axis=1)
    areas = (high - low).prod(axis=1)
    overlaps = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    covered = np.clip(overlaps, 0, None).prod(axis=2) * (depth < depth[:, None])  # row by column
    for index, item in enumerate(objects):
        if item.on is not None:
            covered[index, item.on] = covered[item.on, index] = 0
    return bool((areas > LEAST_VISIBLE).all() and (covered <= HIDDEN * areas[:, None]).all())


def _walls(radius: float, eye: np.ndarray, generator: np.random.Generator) -> list[Plane]:
    """Two walls that meet in a corner behind the objects."""
    forward = -eye[:2] / np.linalg.norm(eye[:2])
    angle = float(generator.uniform(-0.8, 0.8))
    first = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ forward
    second = np.array([first[1], -first[0]]) * (1 if angle > 0 else -1)
    number, repeat = int(generator.integers(len(WALLS))), float(radius * generator.uniform(0.5, 1.2))
    tint, length, walls = _tint(OTHER_TINTS, generator), 24 * radius, []
    for normal in (first, second):
        along = np.array([normal[1], -normal[0], 0.0])
        corner = np.array([*normal, 0.0]) * radius * generator.uniform(1.1, 2.5) - along * length / 2
        walls.append(
            Plane(
                corner=triple(corner),
                right=triple(along * length),
                up=(0.0, 0.0, 6 * radius),
                texture=number,
                tint=tint,
                repeat=repeat,
                surface="wall",
            )
        )
    return walls


def _light(camera: Camera, generator: np.random.Generator) -> Light:
    behind = np.arctan2(camera.eye[1], camera.eye[0])
    azimuth, rise = behind + generator.uniform(-1.9, 1.9), np.radians(generator.uniform(35, 75))
    towards = np.array([np.cos(azimuth) * np.cos(rise), np.sin(azimuth) * np.cos(rise), np.sin(rise)])
    warmth = float(generator.uniform(-0.08, 0.08))
    return Light(
        towards=triple(towards),
        colour=(1 + warmth, 1.0, 1 - warmth),
        ambient=float(generator.uniform(0.45, 0.65)),
        diffuse=float(generator.uniform(0.4, 0.6)),
        shade=float(generator.uniform(0.2, 0.4)),
    )


def _tint(colours: Sequence[tuple[int, int, int]], generator: np.random.Generator) -> tuple[float, float, float]:
    colour = np.array(colours[int(generator.integers(len(colours)))]) / 255 * generator.uniform(0.85, 1.08)
    return triple(np.minimum(colour, 1))
