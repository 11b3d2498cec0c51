"""Move objects of a scene by pybullet's physics: they fall, roll, are pushed or tip over; and orbit the camera.

Each event has its own object. Events begin one after another. They are read off the simulated poses: if a planned event
did not happen, or another object moved, there is no video. Gravity is such that a fall takes the same time in scenes of
any size, as if small ones were filmed in slow motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.scene import PlacedObject, Scene, rotation_matrix, triple
from synthetic.scenes.objects.models import ObjectInfo
from synthetic.scenes.rendering.client import connect_pybullet, silence_output

Action = Literal["falls", "rolls", "is pushed", "tips over", "orbits"]
FRAME_RATE = 8  # frames of a video a second
STEP_RATE = 240  # steps of the simulation a second
FALL = 0.7  # seconds that a fall takes
AWAY = 1000.0  # metres above the floor, where objects wait before they fall
FRICTION, BOUNCE = 0.6, 0.15
ROLL = 1.3  # seconds that a ball rolls
SLENDER = 1.2  # times as high as wide: an object that can tip over
TIPPED = 1.6  # times the energy that lifts an object onto its edge
STILL = 0.03  # of the scene's radius: an object that moves less stands still
SLOW = 0.08  # of the scene's radius a second: slower objects have come to rest


@dataclass(frozen=True, kw_only=True)
class PlannedEvent:
    """An event that the simulation starts."""

    action: Action
    index: int
    """Index of its object in the scene."""
    start: float
    """Seconds after the video begins."""
    way: tuple[float, float] = (1.0, 0.0)
    """Unit vector on the floor along which the object is pushed or tipped."""
    reach: float = 0.0
    """Metres: how far the object is pushed, or from how high it falls."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event of a video."""

    action: Action
    object: int | None
    """Id of its object (its index + 1); None is the camera."""
    start: float
    end: float
    """Seconds after the video begins."""


def plan_events(
    scene: Scene, infos: Sequence[ObjectInfo], seconds: float, generator: np.random.Generator
) -> list[PlannedEvent]:
    """Plan one to three events of different objects, away from the middle of the scene."""
    count = int(generator.integers(1, min(3, len(infos)) + 1))
    balls = [index for index, info in enumerate(infos) if info.shape == "sphere"]
    others = [index for index in range(len(infos)) if index not in balls]
    moving = [*balls[:1], *(int(index) for index in generator.permutation(others))][:count]
    plans: list[PlannedEvent] = []
    for order, index in enumerate(moving):
        info, item = infos[index], scene.objects[index]
        action = _choose_action(info, generator)
        start = (order + float(generator.uniform(0.05, 0.3))) * (seconds - 0.9) / count
        out = np.array(item.position[:2]) + generator.normal(0, 0.4, 2) * scene.radius
        if action == "tips over":  # over the nearer of its edges, away from the others
            edge = item.rotation[:2, int(np.argmin(info.size[:2]))]
            out = edge if edge @ out > 0 else -edge
        x, y = (out / max(float(np.linalg.norm(out)), 1e-9)).tolist()
        reach = 1.3 * scene.radius if action == "falls" else float(generator.uniform(0.8, 1.4)) * max(info.size)
        if action == "rolls":
            reach = max(reach, 0.7 * scene.radius)
        plans.append(PlannedEvent(action=action, index=index, start=start, way=(x, y), reach=reach))
    return plans


def _choose_action(info: ObjectInfo, generator: np.random.Generator) -> Action:
    if info.shape == "sphere":
        return "rolls"
    if info.size[2] > SLENDER * min(info.size[:2]) and generator.random() < 0.5:
        return "tips over"
    return "falls" if generator.random() < 0.5 else "is pushed"


def simulate_events(
    scene: Scene, infos: Sequence[ObjectInfo], plans: Sequence[PlannedEvent], frames: int
) -> np.ndarray:
    """Return the poses of all objects in each frame, (frames, n, 7): the middle of the bottom, and the turn."""
    client = connect_pybullet()
    try:
        return _run(client, scene, infos, plans, frames)
    finally:
        with silence_output():
            client.disconnect()


def _run(
    client: Any, scene: Scene, infos: Sequence[ObjectInfo], plans: Sequence[PlannedEvent], frames: int
) -> np.ndarray:
    gravity = 2 * 1.3 * scene.radius / FALL**2
    client.setGravity(0, 0, -gravity)
    client.setPhysicsEngineParameter(fixedTimeStep=1 / STEP_RATE, deterministicOverlappingPairs=1)
    floor = client.createMultiBody(0, client.createCollisionShape(client.GEOM_PLANE))
    client.changeDynamics(floor, -1, lateralFriction=1.0, restitution=1.0)
    bodies = [_add_body(client, item, info) for item, info in zip(scene.objects, infos, strict=True)]
    waiting = sorted(plans, key=lambda event: event.start)
    for event in waiting:
        if event.action == "falls":
            _put(client, bodies[event.index], _raise(scene.objects[event.index], AWAY), infos[event.index])
            client.changeDynamics(bodies[event.index], -1, mass=0)
    poses, step = np.empty((frames, len(bodies), 7)), 0
    for frame in range(frames):
        while step < round(frame / FRAME_RATE * STEP_RATE):
            while waiting and waiting[0].start * STEP_RATE <= step:
                event = waiting.pop(0)
                _begin(client, bodies[event.index], scene.objects[event.index], infos[event.index], event, gravity)
            client.stepSimulation()
            step += 1
        for index, (body, info) in enumerate(zip(bodies, infos, strict=True)):
            position, turn = client.getBasePositionAndOrientation(body)
            poses[frame, index] = *(position - _bottom_to_centre(turn, info)), *turn
    return poses


def _add_body(client: Any, item: PlacedObject, info: ObjectInfo) -> int:
    if info.shape == "sphere":
        shape = client.createCollisionShape(client.GEOM_SPHERE, radius=info.size[2] / 2)
    else:
        shape = client.createCollisionShape(client.GEOM_BOX, halfExtents=[side / 2 for side in info.size])
    body: int = client.createMultiBody(1.0, shape)
    client.changeDynamics(body, -1, lateralFriction=FRICTION, restitution=BOUNCE)
    _prevent_tumbling(client, body, info)
    _put(client, body, item, info)
    return body


def _begin(client: Any, body: int, item: PlacedObject, info: ObjectInfo, event: PlannedEvent, gravity: float) -> None:
    """Let an object fall, tip it over an edge, or push it so that friction stops it after its reach."""
    (x, y), (width, depth, height) = event.way, info.size
    if event.action == "falls":
        client.changeDynamics(body, -1, mass=1.0)
        _prevent_tumbling(client, body, info)
        _put(client, body, _raise(item, event.reach), info)
    elif event.action == "rolls":
        speed, radius = 2 * event.reach / ROLL, height / 2
        slowing = 1.4 * speed / ROLL / gravity  # a solid ball has 1.4 times the inertia of its mass alone
        client.changeDynamics(body, -1, rollingFriction=slowing * radius)
        client.resetBaseVelocity(body, [x * speed, y * speed, 0], [-y * speed / radius, x * speed / radius, 0])
    elif event.action == "is pushed":
        speed = float(np.sqrt(2 * FRICTION * gravity * event.reach))
        client.resetBaseVelocity(body, [x * speed, y * speed, 0], [0, 0, 0])
    else:  # a solid box turns about its lower edge
        inertia = [(depth**2 + height**2) / 12, (width**2 + height**2) / 12, (width**2 + depth**2) / 12]
        client.changeDynamics(body, -1, localInertiaDiagonal=inertia)
        across = min(width, depth)
        rise = (np.hypot(across, height) - height) / 2
        turning = float(np.sqrt(TIPPED * 6 * gravity * rise / (across**2 + height**2)))
        forward, up = turning * height / 2, turning * across / 2
        client.resetBaseVelocity(body, [x * forward, y * forward, up], [-y * turning, x * turning, 0])


def _prevent_tumbling(client: Any, body: int, info: ObjectInfo) -> None:
    if info.shape == "box":
        client.changeDynamics(body, -1, localInertiaDiagonal=[1e3 * max(info.size) ** 2] * 3)


def _put(client: Any, body: int, item: PlacedObject, info: ObjectInfo) -> None:
    centre = item.position + _bottom_to_centre(item.turn, info)
    client.resetBasePositionAndOrientation(body, centre.tolist(), item.turn)
    client.resetBaseVelocity(body, [0, 0, 0], [0, 0, 0])


def _raise(item: PlacedObject, height: float) -> PlacedObject:
    return replace(item, position=(*item.position[:2], height))


def _bottom_to_centre(turn: Sequence[float], info: ObjectInfo) -> np.ndarray:
    """From the middle of an object's bottom to its centre, (3,)."""
    return rotation_matrix(turn)[:, 2] * (info.size[2] / 2)


def observe_events(
    poses: np.ndarray, plans: Sequence[PlannedEvent], infos: Sequence[ObjectInfo], radius: float
) -> list[Event] | None:
    """Return the events in order; None if a planned one did not happen, or another object moved."""
    events, centres = [], object_centres(poses, infos)
    for index, info in enumerate(infos):
        path = centres[:, index]
        plan = next((item for item in plans if item.index == index), None)
        if plan is None:
            if np.linalg.norm(path - path[0], axis=1).max() > STILL * radius:
                return None
            continue
        present = path[:, 2] < AWAY / 2
        if present.sum() < 2 or not _happened(path[present], poses[-1, index], plan, info):
            return None
        speeds = np.linalg.norm(np.diff(path, axis=0), axis=1) * FRAME_RATE
        moving = np.flatnonzero((speeds > SLOW * radius) & present[1:] & present[:-1])
        if len(moving) == 0:
            return None
        end = max(float(moving[-1] + 1) / FRAME_RATE, plan.start)
        events.append(Event(action=plan.action, object=index + 1, start=plan.start, end=end))
    return sorted(events, key=lambda event: event.start)


def object_centres(poses: np.ndarray, infos: Sequence[ObjectInfo]) -> np.ndarray:
    """Return the centres of the objects' boxes, (F, n, 3), for poses (F, n, 7)."""
    heights = np.array([info.size[2] for info in infos])
    return poses[..., :3] + rotation_matrix(poses[..., 3:])[..., 2] * heights[:, None] / 2


def _happened(path: np.ndarray, last: np.ndarray, plan: PlannedEvent, info: ObjectInfo) -> bool:
    """Whether an object's centre (F, 3) moved as planned, and the object lies on the floor in the end."""
    tips = plan.action == "tips over"
    upright = float(rotation_matrix(last[3:])[2, 2])  # 1 as it stood, 0 on its side
    resting = (min(info.size[:2]) if tips else info.size[2]) / 2
    if abs(path[-1, 2] - resting) > 0.05 * max(info.size):
        return False
    moved = float(np.linalg.norm(path[-1, :2] - path[0, :2]))
    if tips:
        return abs(upright) < 0.1
    if plan.action == "falls":
        return bool(path[0, 2] - path[-1, 2] > 0.3 * plan.reach)
    if plan.action == "rolls":
        return moved > 1.2 * info.size[2]
    return upright > 0.98 and moved > 0.4 * max(info.size)


def orbit_camera(camera: Camera, total: float, frames: int) -> list[Camera]:
    """Return the camera in each frame as it orbits its target, by `total` radians from first to last."""
    target = np.array(camera.target)
    x, y, z = np.array(camera.eye) - target
    angles = np.linspace(-total / 2, total / 2, frames)
    cosines, sines = np.cos(angles), np.sin(angles)
    eyes = target + np.stack([x * cosines - y * sines, x * sines + y * cosines, np.full(frames, z)], axis=1)
    return [replace(camera, eye=triple(eye)) for eye in eyes]
