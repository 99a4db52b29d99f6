"""Owns the pictures of an episode: what the robot sees, where it is, what it commands, what it was told.

In: a frame, a pose, a path, an action, a task. Out: RGB arrays that a video or a contact sheet is made of. The camera
image is stretched back from the square that the policy sees to the shape of the lens, without adding detail.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from src.sim import Task
from src.sim.renderer import HORIZONTAL_FOV, VERTICAL_FOV
from src.sim.scene import REACH_RADIUS, ROBOT_RADIUS, ROOM_LENGTH, ROOM_WIDTH, Box

ASPECT = math.tan(HORIZONTAL_FOV / 2) / math.tan(VERTICAL_FOV / 2)  # width / height of what the lens sees
PAPER, INK, GREY, GOOD, BAD = (255, 255, 255), (25, 25, 25), (120, 120, 120), (20, 120, 40), (185, 30, 30)
PATH, ARROW = (200, 60, 160), (255, 120, 0)
HEADER, FOOTER, GAP = 46, 30, 8  # px
# Pillow's own font has no Hangul; these come with common systems.
_KOREAN_FONTS = ("NanumGothic.ttf", "NotoSansCJK-Regular.ttc", "malgun.ttf", "AppleGothic.ttf")


@cache
def _latin(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@cache
def _korean(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _KOREAN_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return _latin(size)


def font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of `size` px that can write `text`, as far as the machine has one."""
    return _latin(size) if all(ord(letter) < 0x1100 for letter in text) else _korean(size)


def fitted(
    draw: ImageDraw.ImageDraw, text: str, width: int, size: int, smallest: int = 11
) -> tuple[str, int]:
    """`text` and the largest font size (px) up to `size` at which it fits `width` px; cut with … if none does."""
    while size > smallest and draw.textlength(text, font=font(text, size)) > width:
        size -= 1
    while len(text) > 1 and draw.textlength(text, font=font(text, size)) > width:
        text = text[:-2].rstrip() + "…"
    return text, size


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    width: int,
    size: int,
    colour: tuple[int, int, int] = INK,
) -> None:
    """One line of text, shrunk to fit `width` px."""
    text, size = fitted(draw, text, width, size)
    draw.text(place, text, fill=colour, font=font(text, size))


def camera_view(frame: np.ndarray, height: int) -> Image.Image:
    """What the policy saw, (S, S, 3) uint8, in the lens's shape and `height` px tall."""
    size = (2 * round(height * ASPECT / 2), height)
    return Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)


def draw_command(image: Image.Image, action: np.ndarray, limits: np.ndarray) -> None:
    """Draw the command (linear_x, linear_y, angular_z) into the camera view: an arrow and an arc for the turn."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    unit = 0.34 * height
    x0, y0 = width / 2, height - 0.10 * height
    forward, left, turn = (float(value) for value in np.asarray(action)[:3] / limits[:3])
    thick = max(2, height // 70)
    draw.ellipse(_circle(x0, y0, thick * 1.6), fill=ARROW)
    x1, y1 = x0 - left * unit, y0 - forward * unit
    length = math.hypot(x1 - x0, y1 - y0)
    if length > thick:
        draw.line([(x0, y0), (x1, y1)], fill=ARROW, width=thick)
        angle = math.atan2(y1 - y0, x1 - x0)
        head = max(8, height // 24)
        tips = [(x1 - head * math.cos(angle + s), y1 - head * math.sin(angle + s)) for s in (0.45, -0.45)]
        draw.polygon([(x1 + math.cos(angle) * thick, y1 + math.sin(angle) * thick), *tips], fill=ARROW)
    sweep = 80 * turn
    if abs(sweep) > 8:
        start, end = sorted((-90.0, -90.0 - sweep))
        draw.arc(_circle(x0, y0, 0.15 * height), start, end, fill=(255, 225, 60), width=thick)


def draw_map(task: Task, path: np.ndarray, height: int) -> Image.Image:
    """The room from above, forward is up: boxes, objects (the demanded one ringed), path (T, 3) and robot."""
    scale = 2 * height / ROOM_LENGTH  # drawn at twice the size, then halved: smooth edges
    image = Image.new("RGB", (round(ROOM_WIDTH * scale), 2 * height), (244, 242, 236))
    draw = ImageDraw.Draw(image)

    def place(x: float, y: float) -> tuple[float, float]:
        return (ROOM_WIDTH - y) * scale, (ROOM_LENGTH - x) * scale

    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=GREY, width=4)
    for box in task.scene.boxes:
        draw.polygon(
            [place(*corner) for corner in _corners(box)], fill=(190, 150, 105), outline=(110, 80, 45), width=3
        )
    for index, thing in enumerate(task.scene.things):
        colour = tuple(round(255 * channel) for channel in thing.rgb)
        x, y = place(thing.x, thing.y)
        if index == task.target:
            draw.ellipse(_circle(x, y, REACH_RADIUS * scale), outline=INK, width=3)
        _draw_thing(draw, thing.shape, x, y, 0.26 * scale, colour)
    if len(path) > 1:
        draw.line([place(*pose[:2]) for pose in path], fill=PATH, width=6, joint="curve")
    for pose in path:
        draw.ellipse(_circle(*place(*pose[:2]), 5), fill=PATH)
    x, y, yaw = path[-1]
    draw.ellipse(_circle(*place(x, y), ROBOT_RADIUS * scale), fill=(70, 90, 120), outline=INK, width=3)
    nose = place(x + 1.6 * ROBOT_RADIUS * math.cos(yaw), y + 1.6 * ROBOT_RADIUS * math.sin(yaw))
    draw.line([place(x, y), nose], fill=INK, width=5)
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def _draw_thing(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, half: float, colour: tuple[int, ...]
) -> None:
    """Seen from above a can and a ball are both round: the can is drawn as its tall silhouette."""
    if shape == "ball":
        draw.ellipse(_circle(x, y, half), fill=colour, outline=INK, width=2)
    else:
        wide = half if shape == "cube" else 0.6 * half
        draw.rectangle((x - wide, y - half, x + wide, y + half), fill=colour, outline=INK, width=2)


def _circle(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return (x - radius, y - radius, x + radius, y + radius)


def _corners(box: Box) -> list[tuple[float, float]]:
    cos, sin = math.cos(box.yaw), math.sin(box.yaw)
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    halves = [(a * box.depth / 2, b * box.width / 2) for a, b in signs]
    return [(box.x + cos * a - sin * b, box.y + sin * a + cos * b) for a, b in halves]


def scene_frame(
    task: Task,
    frame: np.ndarray,
    path: np.ndarray,
    action: np.ndarray | None,
    limits: np.ndarray,
    height: int,
    title: str,
    footer: str,
    footer_colour: tuple[int, int, int] = INK,
) -> np.ndarray:
    """One video frame (h, w, 3) uint8: instruction above, camera with the command beside the map, status below."""
    view = camera_view(frame, height)
    if action is not None:
        draw_command(view, action, limits)
    room = draw_map(task, path, height)
    width = view.width + GAP + room.width
    width += width % 2  # video encoders want even sides
    total = HEADER + height + FOOTER
    canvas = Image.new("RGB", (width, total + total % 2), PAPER)
    canvas.paste(view, (0, HEADER))
    canvas.paste(room, (view.width + GAP, HEADER))
    draw = ImageDraw.Draw(canvas)
    write(draw, (8, 4), title, width - 16, 13, GREY)
    write(draw, (8, 20), f"“{task.instruction}”", width - 16, 20)
    write(draw, (8, HEADER + height + 7), footer, width - 16, 15, footer_colour)
    return np.asarray(canvas)
