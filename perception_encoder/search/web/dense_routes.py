"""The page's routes for dense results: features, regions, tracked videos and depth."""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import ConfigError
from perception_encoder.search.web.dense_images import DepthMap, DepthMaps, FeatureImages
from perception_encoder.search.web.library import MediaLibrary
from perception_encoder.search.web.responses import Get, SignedIds, stream_lines
from perception_encoder.search.web.tracked_videos import SECONDS, TrackedVideo, TrackPiece, VideoTracker
from perception_encoder.serving.http import ApiError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

NO_HEAD = "this page has no depth head; start it with: pe serve DIR --depth-head FILE"
MAXIMUM_POINTS = 6
"""Regions of an image; their colours differ clearly."""
_STORED = 4  # tracked videos that a browser has not fetched yet
_CACHED = {"Cache-Control": "private, max-age=300"}
_LAYER = re.compile(r"-?\d{1,4}", re.ASCII)
_POINT = re.compile(r"(0(?:\.\d{1,6})?|1),(0(?:\.\d{1,6})?|1)", re.ASCII)


def add_dense_routes(
    app: FastAPI, get: Get, library: MediaLibrary, ids: SignedIds, features_model: str, depth_head: Path | None
) -> None:
    """Add all routes of this module; arguments as those of `create_page`."""
    features = FeatureImages(library, baseline=features_model)
    add_feature_routes(get, features)
    add_track_routes(app, get, ids, VideoTracker(library, features))
    add_depth_routes(get, DepthMaps(library, depth_head) if depth_head else None)


def add_feature_routes(get: Get, features: FeatureImages) -> None:
    """Add `/api/inside/ID`: the model's input; with `layer=N` the layer's features as colours; with `at=X,Y` too, a
    shade over patches unlike the one at that point (0–1 from the left and from the top). `baseline=1` and the layer -1:
    of the second model. `/api/regions/ID?layer=N&at=X,Y&at=…`: what looks like each of the points, in colours."""
    from fastapi.responses import Response

    def picture(content: bytes, media_type: str = "image/png") -> Response:
        return Response(content, media_type=media_type, headers=_CACHED)

    def look(request: Request) -> Response:
        row_id, params = request.path_params["id"], request.query_params
        if "layer" not in params:
            return picture(features.image(row_id), "image/jpeg")
        layer = read_layer(params)
        baseline = params.get("baseline") == "1"
        if baseline and layer != -1:
            raise ConfigError(f"layer is {layer}; the second model only has the last layer, -1")
        if "at" not in params:
            return picture(features.colours(row_id, layer, baseline))
        ((x, y),) = read_points([params["at"]])
        return picture(features.shade(row_id, layer, x, y, baseline))

    def regions(request: Request) -> Response:
        layer, points = read_layer(request.query_params), read_points(request.query_params.getlist("at"))
        return picture(features.regions(request.path_params["id"], layer, points))

    get("/api/inside/{id}", look)
    get("/api/regions/{id}", regions)


def add_track_routes(app: FastAPI, get: Get, ids: SignedIds, tracker: VideoTracker) -> None:
    """Add `POST /api/track/ID?layer=N&at=X,Y&at=…`, answered by lines of JSON: `{"waiting": true}` every ten seconds
    while other videos are tracked, `{"done", "total"}` for each frame,
    then `{"video", "limit"}`: its address, which answers once, and the seconds after which it ends too early."""
    from fastapi.responses import Response

    videos: OrderedDict[str, bytes] = OrderedDict()

    async def track(request: Request) -> Response:
        async def begin() -> AsyncGenerator[TrackPiece, None]:
            row_id, params = ids.check(request.path_params["id"]), request.query_params
            return tracker.track(row_id, read_layer(params), read_points(params.getlist("at")))

        return await stream_lines(request, begin, describe)

    def describe(piece: TrackPiece) -> Mapping[str, Any]:
        if not isinstance(piece, TrackedVideo):
            return vars(piece)
        video_id = secrets.token_hex(8)
        videos[video_id] = piece.content
        while len(videos) > _STORED:
            videos.popitem(last=False)
        address = f"/api/tracked/{ids.signed(video_id)}"
        return {"video": address, "limit": None if piece.complete else SECONDS}

    def tracked(request: Request) -> Response:
        content = videos.pop(request.path_params["id"], None)
        if content is None:
            raise ConfigError("this video has been deleted; track the regions again")
        return Response(content, media_type="video/mp4", headers={"Cache-Control": "no-store"})

    app.router.add_route("/api/track/{id}", track, methods=["POST"])
    get("/api/tracked/{id}", tracked)


def add_depth_routes(get: Get, depth: DepthMaps | None) -> None:
    """Add `/api/depth/ID`, `{"nearest", "farthest", "unit"}`, and with `at=X,Y` also the `depth` there;
    `/api/depth/ID/image`, and `/api/depth/ID/colours`, the depth map. Without a head they answer 404.

    The unit is "m"; of the built-in head, which learnt no scale, "relative": the farthest point has 1.
    """
    from fastapi.responses import JSONResponse, Response

    def depth_range(request: Request) -> Response:
        params = request.query_params
        points = read_points([params["at"]]) if "at" in params else []
        depth_map = map_of(request)
        values = {"nearest": float(depth_map.metres.min()), "farthest": float(depth_map.metres.max())}
        if points:
            values["depth"] = depth_map.at(*points[0])
        if depth_map.relative:
            values = {name: value / values["farthest"] for name, value in values.items()}
        return JSONResponse({**values, "unit": "relative" if depth_map.relative else "m"})

    def map_of(request: Request) -> DepthMap:
        if depth is None:
            raise ApiError(404, NO_HEAD)
        return depth.map(request.path_params["id"])

    def image(request: Request) -> Response:
        return Response(map_of(request).image, media_type="image/jpeg", headers=_CACHED)

    def colours(request: Request) -> Response:
        return Response(map_of(request).colours, media_type="image/png", headers=_CACHED)

    get("/api/depth/{id}", depth_range)
    get("/api/depth/{id}/image", image)
    get("/api/depth/{id}/colours", colours)


def read_layer(params: Mapping[str, str]) -> int:
    """Read the parameter `layer`; ConfigError unless it is a number."""
    return int(_checked(params.get("layer", ""), _LAYER, "layer", "a number such as 5")[0])


def read_points(values: Sequence[str]) -> list[tuple[float, float]]:
    """Read parameters `at`; ConfigError unless they are 1 to `MAXIMUM_POINTS` points of the image."""
    if not 1 <= len(values) <= MAXIMUM_POINTS:
        raise ConfigError(f"{len(values)} points were given; give 1 to {MAXIMUM_POINTS}, such as at=0.25,0.5")
    matches = [_checked(value, _POINT, "at", "two numbers from 0 to 1 such as 0.25,0.5") for value in values]
    return [(float(match[1]), float(match[2])) for match in matches]


def _checked(value: str, pattern: re.Pattern[str], name: str, allowed: str) -> re.Match[str]:
    match = pattern.fullmatch(value)
    if match is None:
        raise ConfigError(f"{name} is {value!r}; it must be {allowed}")
    return match
