"""Let things of a scene move by pybullet's physics: what falls, rolls, is pushed or tips over; and orbit the camera.

Each event has its own thing. Events begin one after another. What happened is read off the poses, not off the plan:
a video in which something did not happen, or something else moved, is refused. Gravity is such that a fall takes the
same time in scenes of any size, as if small ones were filmed slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from perception_encoder.scenes.layout.camera import Camera
from perception_encoder.scenes.layout.scene import Scene, Thing, rotation_of, triple
from perception_encoder.scenes.objects.models import About
from perception_encoder.scenes.rendering.renderer import connect, silence

Action = Literal["falls", "rolls", "is pushed", "tips over", "orbits"]
RATE = 240  # steps of the simulation a second
FALL = 0.7  # seconds that a fall takes
AWAY = 1000.0  # metres above the floor, where things wait that are yet to fall
FRICTION, BOUNCE = 0.6, 0.15
ROLL = 1.3  # seconds that a ball rolls
SLENDER = 1.2  # times as high as wide: what is tipped over
TIPPED = 1.6  # times the energy that lifts a thing onto its edge
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
    """The direction on the floor that a thing is sent or tipped to, of length 1."""
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
        action = _choose(abouts[number], generator)
        start = (turn + float(generator.uniform(0.05, 0.3))) * (seconds - 0.9) / count
        out = np.array(scene.things[number].position[:2]) + generator.normal(0, 0.4, 2) * scene.radius
        if action == "tips over":  # over the nearer of its edges, away from the others
            edge = scene.things[number].rotation[:2, int(np.argmin(abouts[number].size[:2]))]
            out = edge if edge @ out > 0 else -edge
        way = out / max(float(np.linalg.norm(out)), 1e-9)
        longest = max(abouts[number].size)
        reach = 1.3 * scene.radius if action == "falls" else float(generator.uniform(0.8, 1.4)) * longest
        if action == "rolls":
            reach = max(reach, 0.7 * scene.radius)
        plans.append(Plan(action=action, thing=number, start=start, way=(float(way[0]), float(way[1])), reach=reach))
    return plans


def _choose(about: About, generator: np.random.Generator) -> Action:
    if about.shape == "sphere":
        return "rolls"
    if about.size[2] > SLENDER * min(about.size[:2]) and generator.random() < 0.5:
        return "tips over"
    return "falls" if generator.random() < 0.5 else "is pushed"


def simulate(scene: Scene, abouts: Sequence[About], plans: Sequence[Plan], frames: int, rate: float) -> np.ndarray:
    """The poses of all things in each frame, (frames, n, 7): where the middle of the bottom is, and the turn."""
    client = connect()
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
    bodies = [_add_body(client, thing, about) for thing, about in zip(scene.things, abouts, strict=True)]
    waiting = sorted(plans, key=lambda each: each.start)
    for each in waiting:
        if each.action == "falls":
            _put(client, bodies[each.thing], _raised(scene.things[each.thing], AWAY), abouts[each.thing])
            client.changeDynamics(bodies[each.thing], -1, mass=0)
    poses, step = np.empty((frames, len(bodies), 7)), 0
    for frame in range(frames):
        while step < round(frame / rate * RATE):
            while waiting and waiting[0].start * RATE <= step:
                each = waiting.pop(0)
                _begin(client, bodies[each.thing], scene.things[each.thing], abouts[each.thing], each, gravity)
            client.stepSimulation()
            step += 1
        for number, (body, about) in enumerate(zip(bodies, abouts, strict=True)):
            position, turn = client.getBasePositionAndOrientation(body)
            poses[frame, number] = *(position - _lift(turn, about)), *turn
    return poses


def _add_body(client: Any, thing: Thing, about: About) -> int:
    if about.shape == "sphere":
        shape = client.createCollisionShape(client.GEOM_SPHERE, radius=about.size[2] / 2)
    else:
        shape = client.createCollisionShape(client.GEOM_BOX, halfExtents=[side / 2 for side in about.size])
    body: int = client.createMultiBody(1.0, shape)
    client.changeDynamics(body, -1, lateralFriction=FRICTION, restitution=BOUNCE)
    _steady(client, body, about)
    _put(client, body, thing, about)
    return body


def _steady(client: Any, body: int, about: About) -> None:
    """Let a box slide and fall without tumbling."""
    if about.shape == "box":
        client.changeDynamics(body, -1, localInertiaDiagonal=[1e3 * max(about.size) ** 2] * 3)


def _raised(thing: Thing, height: float) -> Thing:
    return replace(thing, position=(*thing.position[:2], height))


def _lift(turn: Sequence[float], about: About) -> np.ndarray:
    """From the middle of a thing's bottom to its own middle, (3,)."""
    return rotation_of(turn)[:, 2] * (about.size[2] / 2)


def _put(client: Any, body: int, thing: Thing, about: About) -> None:
    client.resetBasePositionAndOrientation(body, (thing.position + _lift(thing.turn, about)).tolist(), thing.turn)
    client.resetBaseVelocity(body, [0, 0, 0], [0, 0, 0])


def _begin(client: Any, body: int, thing: Thing, about: About, each: Plan, gravity: float) -> None:
    """Let a thing go, tip it over an edge, or send it off so that friction stops it after its reach."""
    (x, y), (width, depth, height) = each.way, about.size
    if each.action == "falls":
        client.changeDynamics(body, -1, mass=1.0)
        _steady(client, body, about)
        _put(client, body, _raised(thing, each.reach), about)
    elif each.action == "rolls":
        speed, radius = 2 * each.reach / ROLL, height / 2
        slowing = 1.4 * speed / ROLL / gravity  # a solid ball has 1.4 times the inertia of its mass alone
        client.changeDynamics(body, -1, rollingFriction=slowing * radius)
        client.resetBaseVelocity(body, [x * speed, y * speed, 0], [-y * speed / radius, x * speed / radius, 0])
    elif each.action == "is pushed":
        speed = float(np.sqrt(2 * FRICTION * gravity * each.reach))
        client.resetBaseVelocity(body, [x * speed, y * speed, 0], [0, 0, 0])
    else:  # a solid box turns about its lower edge
        inertia = [(depth**2 + height**2) / 12, (width**2 + height**2) / 12, (width**2 + depth**2) / 12]
        client.changeDynamics(body, -1, localInertiaDiagonal=inertia)
        across = min(width, depth)
        rise = (np.hypot(across, height) - height) / 2
        turning = float(np.sqrt(TIPPED * 6 * gravity * rise / (across**2 + height**2)))
        forward, up = turning * height / 2, turning * across / 2
        client.resetBaseVelocity(body, [x * forward, y * forward, up], [-y * turning, x * turning, 0])


def middles(poses: np.ndarray, abouts: Sequence[About]) -> np.ndarray:
    """The middles of the things' boxes, (F, n, 3), for poses (F, n, 7)."""
    heights = np.array([about.size[2] for about in abouts])
    return poses[..., :3] + rotation_of(poses[..., 3:])[..., 2] * heights[:, None] / 2


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
    tips = planned.action == "tips over"
    upright = float(rotation_of(last[3:])[2, 2])  # 1 as it stood, 0 on its side
    resting = (min(about.size[:2]) if tips else about.size[2]) / 2
    if abs(path[-1, 2] - resting) > 0.05 * max(about.size):
        return False
    moved = float(np.linalg.norm(path[-1, :2] - path[0, :2]))
    if tips:
        return abs(upright) < 0.1
    if planned.action == "falls":
        return bool(path[0, 2] - path[-1, 2] > 0.3 * planned.reach)
    if planned.action == "rolls":
        return moved > 1.2 * about.size[2]
    return upright > 0.98 and moved > 0.4 * max(about.size)


def orbit(camera: Camera, total: float, frames: int) -> list[Camera]:
    """The camera in each frame as it goes around what it looks at, by `total` radians from first to last."""
    target = np.array(camera.target)
    x, y, z = np.array(camera.eye) - target
    angles = np.linspace(-total / 2, total / 2, frames)
    cosines, sines = np.cos(angles), np.sin(angles)
    eyes = target + np.stack([x * cosines - y * sines, x * sines + y * cosines, np.full(frames, z)], axis=1)
    return [replace(camera, eye=triple(eye)) for eye in eyes]
