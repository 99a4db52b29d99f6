"""Where the robot should drive: waypoints beside the boxes, clearances, side of passing, shortest allowed path.

Flows in: scene geometry and demanded sides ("left" / "right" as seen when driving along +x). Flows out: polylines (m).
A box is passed when the robot's centre crosses the box centre's x; the side is the sign of the lateral offset then.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence

from src.sim.scene import REACH_RADIUS, ROBOT_RADIUS, Box, Scene, Thing

Point = tuple[float, float]

LATERAL_MARGIN = 0.45  # m between the box's outermost corner and the robot's centre when passing
BEFORE_MARGIN = (
    0.34  # m from the box to the waypoint in front of it: room to move aside when pushed off course
)
BEHIND_MARGIN = 0.22  # m from the box to the waypoint behind it


def opposite(side: str) -> str:
    return {"left": "right", "right": "left"}[side]


def half_extents(box: Box) -> Point:
    """Half sizes (m) along x and y of the axis-aligned rectangle around a turned box."""
    cos, sin = abs(math.cos(box.yaw)), abs(math.sin(box.yaw))
    return (box.depth * cos + box.width * sin) / 2, (box.depth * sin + box.width * cos) / 2


def corners(box: Box, grow: float = 0.0) -> list[Point]:
    """The four corners (m), counter-clockwise, of a box grown by `grow` m on each face."""
    cos, sin = math.cos(box.yaw), math.sin(box.yaw)
    half_d, half_w = box.depth / 2 + grow, box.width / 2 + grow
    local = ((half_d, half_w), (-half_d, half_w), (-half_d, -half_w), (half_d, -half_w))
    return [(box.x + cos * a - sin * b, box.y + sin * a + cos * b) for a, b in local]


def beside(box: Box, side: str) -> tuple[Point, Point]:
    """The two waypoints (m) beside a box on a side: before it and behind it."""
    along, across = half_extents(box)
    sign = 1.0 if side == "left" else -1.0
    y = box.y + sign * (across + LATERAL_MARGIN)
    return (box.x - along - BEFORE_MARGIN, y), (box.x + along + BEHIND_MARGIN, y)


def distance_to_segment(p: Point, a: Point, b: Point) -> float:
    dx, dy = b[0] - a[0], b[1] - a[1]
    length2 = dx * dx + dy * dy
    t = 0.0 if length2 == 0 else max(0.0, min(1.0, ((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / length2))
    return math.hypot(p[0] - a[0] - t * dx, p[1] - a[1] - t * dy)


def is_drivable(scene: Scene, item_clearance: float = 0.85, box_clearance: float = 0.30) -> bool:
    """Whether every target can be reached on every combination of sides with room to spare.

    Checking all of them, not just the demanded one, keeps the layout free of hints about the instruction and makes
    every counterfactual twin drivable.
    """
    box_corners = [corner for box in scene.boxes for corner in corners(box)]
    places = [(thing.x, thing.y) for thing in scene.things]
    start = (scene.start[0], scene.start[1])

    def clear(a: Point, b: Point, others: list[Point]) -> bool:
        return all(distance_to_segment(p, a, b) >= box_clearance for p in box_corners) and all(
            distance_to_segment(p, a, b) >= item_clearance for p in others
        )

    for sides in itertools.product(("left", "right"), repeat=len(scene.boxes)):
        points = [
            start,
            *(p for box, side in zip(scene.boxes, sides, strict=True) for p in beside(box, side)),
        ]
        # On the way past the boxes every object may be a distractor; on the last leg all but its own.
        if not all(clear(a, b, places) for a, b in itertools.pairwise(points)):
            return False
        for i, place in enumerate(places):
            if not clear(points[-1], place, places[:i] + places[i + 1 :]):
                return False
    return True


def _barrier(box: Box, side: str) -> list[Point]:
    """Convex region (m, counter-clockwise) the robot's centre may not enter when passing on `side`.

    The grown box, swept to infinity towards the forbidden side: passing there is as closed as the box itself.
    """
    reach = 50.0
    forbidden = -reach if side == "left" else reach
    points = corners(box, ROBOT_RADIUS * 0.999)
    points += [(x, y + forbidden) for x, y in points]
    return _convex_hull(points)


def _convex_hull(points: list[Point]) -> list[Point]:
    """Convex hull, counter-clockwise (Andrew's monotone chain)."""

    def chain(ordered: list[Point]) -> list[Point]:
        hull: list[Point] = []
        for p in ordered:
            while len(hull) >= 2 and _turn(hull[-2], hull[-1], p) <= 0:
                hull.pop()
            hull.append(p)
        return hull[:-1]

    ordered = sorted(points)
    return chain(ordered) + chain(ordered[::-1])


def _turn(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _crosses(a: Point, b: Point, hull: list[Point]) -> bool:
    """Whether the open segment a-b passes through the inside of a convex, counter-clockwise hull."""
    enter, leave = 0.0, 1.0
    for p, q in zip(hull, [*hull[1:], hull[0]], strict=True):
        at_a, at_b = _turn(p, q, a), _turn(p, q, b)  # positive = inside this edge
        if at_a <= 1e-9 and at_b <= 1e-9:
            return False
        if at_a * at_b < 0:
            t = at_a / (at_a - at_b)
            if at_a < 0:
                enter = max(enter, t)
            else:
                leave = min(leave, t)
    return leave - enter > 1e-9


def shortest_path(scene: Scene, sides: Sequence[str], target: Thing) -> float:
    """Length (m) of the shortest path of the robot's centre from the start to within REACH_RADIUS of the target that
    passes each box on its demanded side; distractors are not obstacles. Boxes are grown with square corners."""
    barriers = [_barrier(box, side) for box, side in zip(scene.boxes, sides, strict=True)]
    start, goal = (scene.start[0], scene.start[1]), (target.x, target.y)
    nodes = [start, goal, *(p for hull in barriers for p in hull if abs(p[1]) < 40)]
    best = {0: 0.0}
    queue = [(0.0, 0)]
    while queue:
        length, i = heapq.heappop(queue)
        if i == 1:
            return max(0.0, length - REACH_RADIUS)
        if length > best[i]:
            continue
        for j, node in enumerate(nodes):
            longer = length + math.dist(nodes[i], node)
            if longer < best.get(j, math.inf) and not any(
                _crosses(nodes[i], node, hull) for hull in barriers
            ):
                best[j] = longer
                heapq.heappush(queue, (longer, j))
    return math.inf
