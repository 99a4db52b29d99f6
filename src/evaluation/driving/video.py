"""Owns films and contact sheets of closed-loop episodes.

In: rollouts (task, commands, poses). Out: MP4 where PyAV has an H.264 encoder that works, else GIF, of the best, the
median and the worst episode, and one PNG with the start, middle and end of several. Every build of FFmpeg can write the
older MPEG-4 Part 2, but no browser plays it, so the report would show a black box: a GIF plays everywhere. Frames are
not kept while driving: an episode is replayed from its recorded commands, which is exact because the simulator is
deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from src.core.errors import ProjectError
from src.core.files import atomic_path
from src.evaluation.driving import drawing
from src.evaluation.driving.closed_loop import Rollout
from src.sim import Renderer, World

RANKING = "success, then SPL, then how close to the named object it ended"
REPEATS = 4  # encoded frames per control step: players stumble over 3 frames per second
HOLD = 5  # control steps for which the last picture stays
CODECS = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libopenh264": {},
    "h264_videotoolbox": {},
    "h264_mf": {},
}
"""Encoders of H.264, best first, with their options; the last two are those of macOS and Windows."""
BIT_RATE = (
    1_000_000  # bit/s, for encoders without a quality setting; some default to a fifth of it and smear text
)


def ranked(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Best first: by success, then SPL, then the final distance to the named object (m), then index."""

    def key(rollout: Rollout) -> tuple[float, ...]:
        thing = rollout.task.scene.things[rollout.task.target]
        left = float(np.hypot(*(rollout.poses[-1, :2] - (thing.x, thing.y))))
        return (-float(rollout.outcome.success), -float(rollout.outcome.spl), left, rollout.index)

    return sorted(rollouts, key=key)


def replay(rollout: Rollout, image_size: int) -> np.ndarray:
    """Drive the recorded commands again: the frames (T + 1, S, S, 3) uint8 that the policy saw, and the last view."""
    world, renderer = World(rollout.task), Renderer(image_size)
    world.reset()
    frames = [renderer.render(world)]
    for action in rollout.actions:
        world.step(action)
        frames.append(renderer.render(world))
    end = np.array(world.pose, dtype=np.float64)
    if not np.allclose(end, rollout.poses[-1], atol=1e-6):
        raise ProjectError(
            f"replay of episode {rollout.index} ended at {end.round(3)}, the recording at "
            f"{rollout.poses[-1].round(3)}; the simulator has changed since, drive the episode again"
        )
    return np.stack(frames)


def verdict_text(rollout: Rollout) -> tuple[str, tuple[int, int, int]]:
    """How an episode ended, in words, and the colour of the words."""
    outcome = rollout.outcome
    if outcome.success:
        return f"success in {outcome.steps} steps, path {outcome.path_length:.1f} m", drawing.GOOD
    reasons = [
        word
        for word, holds in (
            ("collision", outcome.collision),
            ("time is up", outcome.timeout),
            ("wrong object", outcome.object_reached is not None and not outcome.right_object),
            ("wrong side", outcome.right_side is False and any(outcome.side_passed)),
        )
        if holds
    ]
    return "failed: " + (", ".join(reasons) or "not reached"), drawing.BAD


def film(
    rollout: Rollout, image_size: int, height: int, limits: np.ndarray, period: float, title: str
) -> list[np.ndarray]:
    """One picture (h, w, 3) uint8 per control step, the last with the outcome; `period` in s, `height` in px."""
    frames = replay(rollout, image_size)
    pictures = []
    for step, action in enumerate(rollout.actions):
        values = ", ".join(
            f"{name} {value:+.2f} {unit}"
            for name, value, unit in zip(
                ("forward", "left", "turn"), action, ("m/s", "m/s", "rad/s"), strict=False
            )
        )
        pictures.append(
            drawing.scene_frame(
                rollout.task,
                frames[step],
                rollout.poses[: step + 1],
                action,
                limits,
                height,
                title,
                f"{step * period:4.1f} s   command: {values}",
            )
        )
    words, colour = verdict_text(rollout)
    pictures.append(
        drawing.scene_frame(
            rollout.task, frames[-1], rollout.poses, None, limits, height, title, words, colour
        )
    )
    return pictures


def write_videos(
    folder: Path, rollouts: Sequence[Rollout], image_size: int, height: int, limits: np.ndarray, period: float
) -> list[Path]:
    """Best, median and worst episode as `<folder>/best.mp4` …; returns the paths written."""
    order = ranked(rollouts)
    picks = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
    paths = []
    for name, place in picks.items():
        rollout = order[place]
        task = rollout.task
        title = f"{name} of {len(order)} episodes ({task.suite}/{task.split} {rollout.index}), by {RANKING}"
        pictures = film(rollout, image_size, height, limits, period, title)
        paths.append(encode(folder / name, pictures + [pictures[-1]] * HOLD, period))
    return paths


def encode(stem: Path, pictures: Sequence[np.ndarray], period: float) -> Path:
    """Write pictures (h, w, 3), shown `period` seconds each, as <stem>.mp4, or as <stem>.gif without an encoder."""
    codec = h264_encoder()
    path = stem.with_suffix(".mp4" if codec else ".gif")
    with atomic_path(path) as temporary:
        if codec:
            _write_h264(str(temporary), pictures, period, codec)
        else:
            # The octree keeps the few pixels of a drawn path in their colour; the median cut turns them grey.
            octree = Image.Quantize.FASTOCTREE
            images = [Image.fromarray(picture).quantize(256, octree) for picture in pictures]
            images[0].save(
                temporary, save_all=True, append_images=images[1:], duration=round(1000 * period), loop=0
            )
    stem.with_suffix(".gif" if codec else ".mp4").unlink(missing_ok=True)  # never two films of different runs
    return path


@cache
def h264_encoder() -> str | None:
    """Name of an H.264 encoder that PyAV has and that works here, if any; one without its hardware is only listed."""
    try:
        import av
    except ImportError:
        return None
    for name in CODECS:
        try:
            _write_h264(BytesIO(), [np.zeros((64, 64, 3), np.uint8)], 1.0, name)
        except (ValueError, OSError, av.error.FFmpegError):
            continue
        return name
    return None


def _write_h264(file: Any, pictures: Sequence[np.ndarray], period: float, codec: str) -> None:
    """MP4 into `file`, a path or a binary stream."""
    import av
    from av.video.stream import VideoStream

    rate = Fraction(REPEATS / period).limit_denominator(1000)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=rate, options=CODECS[codec])
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        if "crf" not in CODECS[codec]:
            stream.bit_rate = BIT_RATE
        for picture in pictures:
            for _ in range(REPEATS):
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24"))
                )
        container.mux(stream.encode())


def write_contact_sheet(
    path: Path, rollouts: Sequence[Rollout], image_size: int, count: int, limits: np.ndarray, columns: int = 3
) -> Path:
    """`count` episodes evenly spread from best to worst: start, middle and end view and the map of each."""
    order = ranked(rollouts)
    picks = [
        order[i]
        for i in np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    ]
    cells = [_cell(rollout, image_size, limits) for rollout in picks]
    rows = -(-len(cells) // columns)
    width, height = cells[0].size
    sheet = Image.new("RGB", (columns * width, 26 + rows * height), drawing.PAPER)
    drawing.write(
        ImageDraw.Draw(sheet),
        (8, 5),
        f"{len(picks)} of {len(order)} episodes, from best to worst by {RANKING}; start, middle, end, map",
        sheet.width - 16,
        14,
        drawing.GREY,
    )
    for i, cell in enumerate(cells):
        sheet.paste(cell, ((i % columns) * width, 26 + (i // columns) * height))
    with atomic_path(path) as temporary:
        sheet.save(temporary)
    return path


def _cell(rollout: Rollout, image_size: int, limits: np.ndarray, height: int = 150) -> Image.Image:
    frames = replay(rollout, image_size)
    views = []
    for step in (0, len(rollout.actions) // 2, len(rollout.actions)):
        view = drawing.camera_view(frames[step], round(height / 1.3))
        if step < len(rollout.actions):
            drawing.draw_command(view, rollout.actions[step], limits)
        views.append(view)
    views.append(drawing.draw_map(rollout.task, rollout.poses, height))
    cell = Image.new("RGB", (sum(view.width + 4 for view in views) + 12, height + 48), drawing.PAPER)
    draw = ImageDraw.Draw(cell)
    words, colour = verdict_text(rollout)
    drawing.write(draw, (6, 2), f"“{rollout.task.instruction}”", cell.width - 16, 15)
    drawing.write(draw, (6, 21), words, cell.width - 16, 13, colour)
    left = 6
    for view in views:
        cell.paste(view, (left, 42))
        left += view.width + 4
    return cell
