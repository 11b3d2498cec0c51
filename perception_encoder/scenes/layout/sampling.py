"""Invent a scene: which things, where they stand, what is on what, the room, the light and the camera.

Things of one scene are of like size, and no two of easily confused kinds. They stand apart on the floor, and small ones
on what has a level top. The camera is moved back until all are in the picture; what would hide too much is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from perception_encoder.errors import DataError
from perception_encoder.scenes.language.graph import LEAST_SEEN
from perception_encoder.scenes.layout.camera import Camera
from perception_encoder.scenes.layout.scene import Light, Plane, Scene, Thing, corners_of, triple, yaw
from perception_encoder.scenes.layout.surfaces import FLOOR_TINTS, FLOORS, OTHER_TINTS, SKIES, WALLS
from perception_encoder.scenes.objects.models import About, Library, Model
from perception_encoder.scenes.objects.names import NEVER_TINTED, SUPPORTS, family_of

TRIES = 60
LIKE_SIZE = 2.2  # how many times longer one thing on the floor may be than another
SMALLEST = 0.14  # of the longest thing's side: smaller ones cannot be seen on it
HIDDEN = 0.55  # of a thing's frame that another in front of it may cover
MARGIN = 0.05  # of the picture, that is kept free around the things
STACKED, WALLED, TINTED = 0.6, 0.75, 0.4  # how often things stand on things, there are walls, pale things are coloured
TINTS: tuple[tuple[float, float, float], ...] = (
    *((0.9, 0.15, 0.12), (0.2, 0.65, 0.25), (0.15, 0.3, 0.85), (0.98, 0.85, 0.1), (1.0, 0.52, 0.05)),
    *((0.5, 0.2, 0.7), (1.0, 0.5, 0.72), (0.5, 0.3, 0.15), (0.6, 0.8, 1.0)),
)
PALE = ("white", "gray", "beige")


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """How scenes are made."""

    least: int = 2
    """Things on the floor, at least; fewer where no others of like size are found."""
    most: int = 5
    """Things on the floor, at most."""
    again: float = 0.35
    """How often another thing is of a kind that is there already."""


@dataclass
class Placing:
    """A scene in the making."""

    models: list[Model] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    footprints: list[np.ndarray] = field(default_factory=list)

    def families(self) -> dict[str, str]:
        """The kind that is there of each family."""
        return {family_of(model.about.kind): model.about.kind for model in self.models}

    def corners(self) -> np.ndarray:
        """The corners of the box around each thing, (n, 8, 3), in the world."""
        positions, turns = ([getattr(thing, name) for thing in self.things] for name in ("position", "turn"))
        return corners_of(np.array(positions), np.array(turns), np.array([model.size for model in self.models]))


class Layouts:
    """Invents scenes of some of a library's models."""

    def __init__(self, library: Library, keys: Sequence[str], config: LayoutConfig) -> None:
        self.library, self.config = library, config
        self.kinds: dict[str, list[str]] = {}
        for key in keys:
            self.kinds.setdefault(library.about[key].kind, []).append(key)
        if len({family_of(kind) for kind in self.kinds}) < 2:
            raise DataError("scenes need models of two different kinds at least; is the library's split this small?")

    def invent(self, generator: np.random.Generator, first: str | None = None) -> Scene:
        """Invent a scene; DataError where the models leave none to invent.

        `first`: the model of its first thing; then nothing stands on anything.
        """
        for attempt in range(TRIES):
            placing = self._place(generator, first)
            if len(placing.models) < self.config.least and attempt < TRIES // 2:
                continue
            if first is None:
                self._stack(placing, generator)
            scene = compose(placing, generator)
            if scene is not None:
                return scene
        raise DataError(f"no scene could be made in {TRIES} tries; are there models of like size and different kinds?")

    def _place(self, generator: np.random.Generator, key: str | None) -> Placing:
        placing = Placing()
        wanted = int(generator.integers(self.config.least, self.config.most + 1))
        first = self.library.about[key] if key else self.choose(generator, list(self.kinds))
        _stand(placing, self.library[first.key], generator)
        while len(placing.models) < wanted:
            about = self._another(placing, generator, max(first.size))
            if about is None or not _stand(placing, self.library[about.key], generator):
                break
        return placing

    def _another(self, placing: Placing, generator: np.random.Generator, length: float) -> About | None:
        """A model that goes with those that are there, if one is found."""
        there = placing.families()
        again = generator.random() < self.config.again
        kinds = sorted(set(there.values())) if again else list(self.kinds)
        for _ in range(TRIES):
            about = self.choose(generator, kinds)
            alike = 1 / LIKE_SIZE <= max(about.size) / length <= LIKE_SIZE
            if alike and (again or family_of(about.kind) not in there):
                return about
        return None

    def choose(self, generator: np.random.Generator, kinds: Sequence[str]) -> About:
        """Draw a kind, and a model of it."""
        keys = self.kinds[kinds[int(generator.integers(len(kinds)))]]
        return self.library.about[keys[int(generator.integers(len(keys)))]]

    def _stack(self, placing: Placing, generator: np.random.Generator) -> None:
        """Stand something on things with a level top."""
        smallest = SMALLEST * max(float(model.size.max()) for model in placing.models)
        for number, (model, thing) in enumerate(zip(list(placing.models), list(placing.things), strict=True)):
            top = model.about.top
            if top is None or model.about.kind not in SUPPORTS or generator.random() >= STACKED:
                continue
            room = np.array([top.x[1] - top.x[0], top.y[1] - top.y[0]])
            there = placing.families()
            for _ in range(TRIES):
                small = self.choose(generator, list(self.kinds))
                kind, across = small.kind, float(np.hypot(*small.size[:2]))
                fits = across < 0.9 * room.min() and small.size[2] < 1.2 * model.size.max()
                if fits and max(small.size) >= smallest and there.get(family_of(kind), kind) == kind:
                    free = (room - across) / 2
                    middle = np.array([sum(top.x) / 2, sum(top.y) / 2]) + generator.uniform(-1, 1, 2) * free
                    place = thing.rotation @ np.array([*middle, top.height]) + np.array(thing.position)
                    turn = float(generator.uniform(0, 2 * np.pi))
                    _add(placing, self.library[small.key], place, turn, generator, number)
                    break


def _stand(placing: Placing, model: Model, generator: np.random.Generator) -> bool:
    """Stand a model on the floor where nothing is; false where no place was found."""
    spread = sum(float(np.hypot(*other.size[:2])) for other in (*placing.models, model))
    reach = 0.26 * spread * (1 + 2 * np.arange(TRIES) / TRIES) * (len(placing.models) > 0)
    places = generator.uniform(-1, 1, (TRIES, 2)) * reach[:, None]
    angles = generator.normal(0, 0.7, TRIES)  # most show their front
    frames, free = _footprints(model, places, angles), np.ones(TRIES, dtype=bool)
    for other in placing.footprints:
        free &= _apart(frames, other)
    if not free.any():
        return False
    first = int(free.argmax())
    _add(placing, model, np.array([*places[first], 0.0]), float(angles[first]), generator, None)
    return True


def _add(
    placing: Placing, model: Model, place: np.ndarray, angle: float, generator: np.random.Generator, on: int | None
) -> None:
    about, tint = model.about, (1.0, 1.0, 1.0)
    may = about.tinted or (about.category not in NEVER_TINTED and model.colour() in PALE)
    if may and (about.tinted or generator.random() < TINTED):
        tint = TINTS[int(generator.integers(len(TINTS)))]
    placing.models.append(model)
    placing.footprints.append(_footprints(model, place[None, :2], np.array([angle]))[0])
    placing.things.append(Thing(model=about.key, position=triple(place), turn=yaw(angle), tint=tint, on=on))


def _footprints(model: Model, places: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The corners (n, 4, 2) of a thing's rectangle at places (n, 2), in order around it, a little larger than it is."""
    half = model.size[:2] * 0.54 + 0.01 * model.size.max()
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    cosines, sines = np.cos(angles), np.sin(angles)
    return corners @ np.array([[cosines, -sines], [sines, cosines]]).T + places[:, None]


def _apart(frames: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of which of the rectangles (n, 4, 2) a side, or one of the other's (4, 2), separates it from the other: (n,)."""
    both = np.concatenate([np.diff(frames[:, :3], axis=1), np.tile(np.diff(other[:3], axis=0), (len(frames), 1, 1))], 1)
    ways = both.swapaxes(1, 2)  # (n, 2, 4)
    one, two = frames @ ways, other @ ways  # (n, 4 corners, 4 ways)
    return ((one.max(axis=1) < two.min(axis=1)) | (two.max(axis=1) < one.min(axis=1))).any(axis=1)


def compose(placing: Placing, generator: np.random.Generator) -> Scene | None:
    """Put the room, the light and the camera around things; None where one would hide another or be too small."""
    corners = placing.corners()
    flat = corners.reshape(-1, 3)
    middle = (flat.min(axis=0) + flat.max(axis=0)) / 2 * (1, 1, 0)
    things = tuple(replace(thing, position=triple(thing.position - middle)) for thing in placing.things)
    corners = corners - middle
    radius = float(np.linalg.norm(corners.reshape(-1, 3), axis=1).max())
    camera = aim(corners, *_point_of_view(generator))
    if not _shows_all(camera, corners, things):
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
        kind="floor",
    )
    walls = _walls(radius, np.array(camera.eye), generator) if generator.random() < WALLED else []
    return Scene(
        things=things,
        planes=(floor, *walls),
        light=_light(camera, generator),
        camera=camera,
        sky=SKIES[int(generator.integers(len(SKIES)))],
        floor=name,
        radius=radius,
    )


def _point_of_view(generator: np.random.Generator) -> tuple[np.ndarray, float]:
    """A unit vector to a camera in the south, somewhere above, and its field of view in degrees."""
    side, rise = generator.uniform(-0.9, 0.9), np.radians(generator.uniform(10, 42))
    away = np.array([np.sin(side) * np.cos(rise), -np.cos(side) * np.cos(rise), np.sin(rise)])
    return away, float(generator.uniform(35, 55))


def aim(corners: np.ndarray, away: np.ndarray, angle: float) -> Camera:
    """The nearest camera in a direction (unit vector `away`) that has the boxes (n, 8, 3) in its picture."""
    points = corners.reshape(-1, 3)
    target = (points.min(axis=0) + points.max(axis=0)) / 2
    size = float(np.linalg.norm(np.ptp(points, axis=0)))
    across, down, deep = _camera(target, away, size, angle).rotation @ (points - target).T
    # a point is inside where it is as deep as it is far from the axis, by the angle of what is left of the picture
    least = np.maximum(np.abs(across), np.abs(down)) / np.tan(np.radians(angle) / 2) / (1 - 2 * MARGIN)
    return _camera(target, away, float((np.maximum(least, 0.1 * size) - deep).max()), angle, size)


def _camera(target: np.ndarray, away: np.ndarray, distance: float, angle: float, size: float = 1.0) -> Camera:
    return Camera(triple(target + distance * away), triple(target), angle, near=0.02 * size, far=12 * size)


def _shows_all(camera: Camera, corners: np.ndarray, things: Sequence[Thing]) -> bool:
    """Whether each thing's frame is large enough, and no frame of a nearer thing covers too much of it."""
    seen = camera.project(corners, 1)
    low, high, depth = seen[..., :2].min(axis=1), seen[..., :2].max(axis=1), seen[..., 2].mean(axis=1)
    areas = (high - low).prod(axis=1)
    overlaps = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    covered = np.clip(overlaps, 0, None).prod(axis=2) * (depth < depth[:, None])  # row by column
    for number, thing in enumerate(things):
        if thing.on is not None:
            covered[number, thing.on] = covered[thing.on, number] = 0
    return bool((areas > LEAST_SEEN).all() and (covered <= HIDDEN * areas[:, None]).all())


def _walls(radius: float, eye: np.ndarray, generator: np.random.Generator) -> list[Plane]:
    """Two walls that meet in a corner behind the things."""
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
                kind="wall",
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
