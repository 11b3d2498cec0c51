"""Let things of a scene move by pybullet's physics: what falls, rolls or is pushed, and when; and orbit the camera.

Each event has its own thing. Events begin one after another. What happened is read off the poses, not off the plan:
a video in which something did not happen, or something else moved, is refused. Gravity is such that a fall takes the
same time in scenes of any size, as if small ones were filmed slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from perception_encoder.errors import MissingExtraError
from perception_encoder.scenes.camera import Camera
from perception_encoder.scenes.models import About
from perception_encoder.scenes.renderer import silence
from perception_encoder.scenes.scene import Scene, rotation_of

Action = Literal["falls", "rolls", "is pushed", "orbits"]
RATE = 240  # steps of the simulation a second
FALL = 0.7  # seconds that a fall takes
AWAY = 1000.0  # metres above the floor, where things wait that are yet to fall
FRICTION, BOUNCE = 0.6, 0.15
ROLL = 1.3  # seconds that a ball rolls
STIRRED = 0.03  # of the scene's radius: what moves less stands still
SLOW = 0.08  # of the scene's radius a second: slower things have come to rest


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Something that is to happen."""

    action: Action
    thing: int
    """The number of the thing that it happens to."""
    start: float
    """Seconds after the video begins."""
    way: tuple[float, float] = (1.0, 0.0)
    """The direction on the floor that a thing is sent to, of length 1."""
    reach: float = 0.0
    """Metres: how far a thing is sent, or from how high it falls."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened."""

    action: Action
    object: int | None
    """The id of the thing that it happened to (its number plus 1); None is the camera."""
    start: float
    end: float
    """Seconds after the video begins."""


def plan(scene: Scene, abouts: Sequence[About], seconds: float, generator: np.random.Generator) -> list[Plan]:
    """Plan one to three events for different things of a scene; none falls first that others would have to miss."""
    count = int(generator.integers(1, min(3, len(abouts)) + 1))
    rolls = [number for number, about in enumerate(abouts) if about.shape == "sphere"]
    others = [number for number in range(len(abouts)) if number not in rolls]
    chosen = [*rolls[:1], *(int(number) for number in generator.permutation(others))][:count]
    plans: list[Plan] = []
    for turn, number in enumerate(chosen):
        action: Action = "rolls" if number in rolls else "falls" if generator.random() < 0.5 else "is pushed"
        start = (turn + float(generator.uniform(0.05, 0.3))) * (seconds - 0.9) / count
        out = np.array(scene.things[number].position[:2]) + generator.normal(0, 0.4, 2) * scene.radius
        way = out / max(float(np.linalg.norm(out)), 1e-9)
        longest = max(abouts[number].size)
        reach = 1.3 * scene.radius if action == "falls" else float(generator.uniform(0.8, 1.4)) * longest
        if action == "rolls":
            reach = max(reach, 0.7 * scene.radius)
        plans.append(Plan(action=action, thing=number, start=start, way=(float(way[0]), float(way[1])), reach=reach))
    return plans


def simulate(scene: Scene, abouts: Sequence[About], plans: Sequence[Plan], frames: int, rate: float) -> np.ndarray:
    """The poses of all things in each frame, (frames, n, 7): where the middle of the bottom is, and the turn."""
    try:
        with silence():
            import pybullet
            from pybullet_utils.bullet_client import BulletClient

            client: Any = BulletClient(pybullet.DIRECT)
    except ImportError as error:
        raise MissingExtraError("pybullet", "scenes") from error
    try:
        return _run(client, scene, abouts, plans, frames, rate)
    finally:
        with silence():
            client.disconnect()


def _run(
    client: Any, scene: Scene, abouts: Sequence[About], plans: Sequence[Plan], frames: int, rate: float
) -> np.ndarray:
    gravity = 2 * 1.3 * scene.radius / FALL**2
    client.setGravity(0, 0, -gravity)
    client.setPhysicsEngineParameter(fixedTimeStep=1 / RATE, deterministicOverlappingPairs=1)
    floor = client.createMultiBody(0, client.createCollisionShape(client.GEOM_PLANE))
    client.changeDynamics(floor, -1, lateralFriction=1.0, restitution=1.0)
    bodies = [
        _add_body(client, thing.position, thing.turn, about) for thing, about in zip(scene.things, abouts, strict=True)
    ]
    waiting = sorted(plans, key=lambda each: each.start)
    for each in waiting:
        if each.action == "falls":
            place = scene.things[each.thing].position
            _put(
                client,
                bodies[each.thing],
                (place[0], place[1], AWAY),
                scene.things[each.thing].turn,
                abouts[each.thing],
            )
            client.changeDynamics(bodies[each.thing], -1, mass=0)
    poses, step = np.empty((frames, len(bodies), 7)), 0
    for frame in range(frames):
        while step < round(frame / rate * RATE):
            while waiting and waiting[0].start * RATE <= step:
                each = waiting.pop(0)
                _begin(client, bodies[each.thing], scene, abouts[each.thing], each, gravity)
            client.stepSimulation()
            step += 1
        poses[frame] = [_pose(client, body, about) for body, about in zip(bodies, abouts, strict=True)]
    return poses


def _add_body(client: Any, position: Sequence[float], turn: Sequence[float], about: About) -> int:
    if about.shape == "sphere":
        shape = client.createCollisionShape(client.GEOM_SPHERE, radius=about.size[2] / 2)
    else:
        shape = client.createCollisionShape(client.GEOM_BOX, halfExtents=[side / 2 for side in about.size])
    body: int = client.createMultiBody(1.0, shape)
    client.changeDynamics(body, -1, lateralFriction=FRICTION, restitution=BOUNCE)
    if about.shape == "box":  # it slides and falls without tumbling
        client.changeDynamics(body, -1, localInertiaDiagonal=[1e3 * max(about.size) ** 2] * 3)
    _put(client, body, position, turn, about)
    return body


def _put(client: Any, body: int, position: Sequence[float], turn: Sequence[float], about: About) -> None:
    middle = np.array(position) + rotation_of((turn[0], turn[1], turn[2], turn[3])) @ np.array(
        [0, 0, about.size[2] / 2]
    )
    client.resetBasePositionAndOrientation(body, middle.tolist(), list(turn))
    client.resetBaseVelocity(body, [0, 0, 0], [0, 0, 0])


def _pose(client: Any, body: int, about: About) -> np.ndarray:
    position, turn = client.getBasePositionAndOrientation(body)
    return np.array([*(np.array(position) - rotation_of(turn) @ np.array([0, 0, about.size[2] / 2])), *turn])


def _begin(client: Any, body: int, scene: Scene, about: About, each: Plan, gravity: float) -> None:
    """Let a thing go, or send it off so that friction stops it after its reach."""
    thing = scene.things[each.thing]
    if each.action == "falls":
        client.changeDynamics(body, -1, mass=1.0)
        if about.shape == "box":
            client.changeDynamics(body, -1, localInertiaDiagonal=[1e3 * max(about.size) ** 2] * 3)
        _put(client, body, (*thing.position[:2], each.reach), thing.turn, about)
        return
    way, radius = np.array(each.way), about.size[2] / 2
    if each.action == "rolls":
        speed = 2 * each.reach / ROLL
        slowing = 1.4 * speed / ROLL / gravity  # a solid ball has 1.4 times the inertia of its mass alone
        client.changeDynamics(body, -1, rollingFriction=slowing * radius)
        client.resetBaseVelocity(body, [*(way * speed), 0], [-way[1] * speed / radius, way[0] * speed / radius, 0])
    else:
        speed = float(np.sqrt(2 * FRICTION * gravity * each.reach))
        client.resetBaseVelocity(body, [*(way * speed), 0], [0, 0, 0])


def middles(poses: np.ndarray, abouts: Sequence[About]) -> np.ndarray:
    """The middles of the things' boxes, (F, n, 3), for poses (F, n, 7)."""
    found = poses[..., :3].copy()
    for frame, row in enumerate(poses):
        for number, (pose, about) in enumerate(zip(row, abouts, strict=True)):
            found[frame, number] += rotation_of(tuple(pose[3:])) @ np.array([0, 0, about.size[2] / 2])
    return found


def observe(
    poses: np.ndarray, plans: Sequence[Plan], abouts: Sequence[About], radius: float, rate: float
) -> list[Event] | None:
    """What happened, in order; None where a plan did not come true, or anything else moved."""
    events, places = [], middles(poses, abouts)
    for number, about in enumerate(abouts):
        path = places[:, number]
        planned = next((each for each in plans if each.thing == number), None)
        if planned is None:
            if np.linalg.norm(path - path[0], axis=1).max() > STIRRED * radius:
                return None
            continue
        there = path[:, 2] < AWAY / 2
        if there.sum() < 2 or not _came_true(path[there], poses[-1, number], planned, about):
            return None
        speeds = np.linalg.norm(np.diff(path, axis=0), axis=1) * rate
        moving = np.flatnonzero((speeds > SLOW * radius) & there[1:] & there[:-1])
        if len(moving) == 0:
            return None
        end = max(float(moving[-1] + 1) / rate, planned.start)
        events.append(Event(action=planned.action, object=number + 1, start=planned.start, end=end))
    return sorted(events, key=lambda event: event.start)


def _came_true(path: np.ndarray, last: np.ndarray, planned: Plan, about: About) -> bool:
    """Whether a thing's middle (F, 3) went as planned, and the thing lies on the floor in the end."""
    on_floor = abs(path[-1, 2] - about.size[2] / 2) < 0.05 * max(about.size)
    moved = float(np.linalg.norm(path[-1, :2] - path[0, :2]))
    if planned.action == "falls":
        return bool(on_floor and path[0, 2] - path[-1, 2] > 0.3 * planned.reach)
    if planned.action == "rolls":
        return bool(on_floor and moved > 1.2 * about.size[2])
    upright = rotation_of(tuple(last[3:]))[2, 2] > 0.98
    return bool(on_floor and upright and moved > 0.4 * max(about.size))


def orbit(camera: Camera, total: float, frames: int) -> list[Camera]:
    """The camera in each frame as it goes around what it looks at, by `total` radians from first to last."""
    target = np.array(camera.target)
    away = np.array(camera.eye) - target
    found = []
    for angle in np.linspace(-total / 2, total / 2, frames):
        x = away[0] * np.cos(angle) - away[1] * np.sin(angle)
        y = away[0] * np.sin(angle) + away[1] * np.cos(angle)
        eye = (float(target[0] + x), float(target[1] + y), camera.eye[2])
        found.append(Camera(eye, camera.target, camera.angle, camera.near, camera.far))
    return found
