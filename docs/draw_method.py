"""Draws the pictures of docs/method.md:  python docs/draw_method.py

In: the sample rule (src/data/windows.py), the prompt (conf/model/backbone/kosmos2.yaml) and one simulated drive, so
that the drawings show what the code does. Out: docs/img/token_layout.png and docs/img/windows.png, the same bytes
every time with the same matplotlib. The background is opaque white: readable on light and dark pages alike.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "img"
sys.path.insert(0, str(ROOT))  # run as a file, Python looks for packages in docs/ only

INK, MUTED, PAPER = "#1f2933", "#52606d", "#ffffff"
TAG, LATENT, PROMPT, WORD, QUERY, EMPTY = "#e4e7eb", "#b9d7fb", "#d9f2dd", "#9fdcab", "#ffcf9e", "#ffffff"
BAND, WRONG = "#f0f4f8", "#fbd5d5"
DRIVE = 29  # number of the simulated task that is shown
STEPS, WINDOW, HORIZON = 6, 4, 3  # of the window drawing: T, W, H
WIDTH = 10.0  # inch; a page shows about 83 px of it per inch, so that 9 pt are 10 px there
DPI = 180


def main() -> None:
    """Draw both pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(
        {"font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "hatch.color": "#b8c2cc"}
    )
    frames, instruction = simulated_drive(STEPS)
    save(token_layout(frames[0], instruction), "token_layout.png")
    save(windows(frames), "windows.png")


def simulated_drive(steps: int) -> tuple[np.ndarray, str]:
    """The first `steps` frames of one drive of the expert, (steps, 96, 96, 3) uint8, and its instruction."""
    from src.sim import Expert, Renderer, World, sample_task

    task = sample_task("full1", "train", DRIVE)
    world, renderer = World(task), Renderer(96)
    expert = Expert(world)
    views = []
    for _ in range(steps):
        views.append(renderer.render(world))
        world.step(expert.act())
    return np.stack(views), task.instruction


def save(figure: Any, name: str) -> None:
    """Write without anything that changes from run to run."""
    path = IMAGES / name
    figure.savefig(path, dpi=DPI, facecolor=PAPER, metadata={"Software": None})
    plt.close(figure)
    print(path.relative_to(ROOT))


# ---------------------------------------------------------------- pieces


def canvas(height: float, lowest: float = 0.0) -> tuple[Any, Axes]:
    """A white page of WIDTH x `height` inch whose data units are inches; `lowest` is the y of its lower edge."""
    figure = plt.figure(figsize=(WIDTH, height), facecolor=PAPER)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(lowest, lowest + height)
    axes.axis("off")
    return figure, axes


def cell(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, **style: Any
) -> float:
    """One token or array element; returns the x behind it."""
    hatch = style.pop("hatch", None)
    axes.add_patch(
        Rectangle((x, y), width, height, facecolor=colour, edgecolor="#7b8794", lw=0.8, hatch=hatch)
    )
    if text:
        style = {"fontsize": 9.5, **style}
        if hatch:  # the strokes would cross the letters
            style["bbox"] = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center_baseline", **style)
    return x + width


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str = BAND) -> None:
    """A processing step."""
    shape = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=colour,
        edgecolor=MUTED,
        lw=0.9,
    )
    axes.add_patch(shape)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10, linespacing=1.25)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
    axes.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.3, "shrinkA": 0, "shrinkB": 0},
    )


def brace(axes: Axes, left: float, right: float, y: float, text: str, **style: Any) -> None:
    """A bracket below cells with its meaning under it."""
    axes.plot([left, left, right, right], [y + 0.07, y, y, y + 0.07], color=MUTED, lw=1.0)
    style = {"fontsize": 9, "color": MUTED, **style}
    axes.text((left + right) / 2, y - 0.06, text, ha="center", va="top", linespacing=1.25, **style)


def picture(axes: Axes, frame: np.ndarray, x: float, y: float, size: float) -> None:
    axes.imshow(frame, extent=(x, x + size, y, y + size), aspect="auto", interpolation="nearest", zorder=2)
    axes.add_patch(Rectangle((x, y), size, size, fill=False, edgecolor=MUTED, lw=0.8, zorder=3))


# ---------------------------------------------------------------- token layout


def token_layout(frame: np.ndarray, instruction: str) -> Any:
    """How one frame and its instruction become a sequence, and where the state is read."""
    opening = prompt_opening()
    figure, axes = canvas(6.15)
    # From the camera to the latents, from the words to the tokens.
    picture(axes, frame, 0.25, 4.85, 1.1)
    axes.text(0.8, 4.78, "frame", ha="center", va="top", fontsize=9, color=MUTED)
    box(axes, 1.65, 5.1, 1.25, 0.6, "vision tower\n(ViT)")
    box(axes, 3.2, 5.1, 1.55, 0.6, "projector\n(64 learned latents)")
    arrow(axes, (1.35, 5.4), (1.65, 5.4))
    arrow(axes, (2.9, 5.4), (3.2, 5.4))
    axes.plot([3.97, 3.97, 2.03], [5.1, 4.45, 4.45], color=INK, lw=1.3)
    arrow(axes, (2.03, 4.45), (2.03, 4.06))
    axes.text(
        4.08, 4.68, "the split: up to here the image\nalone decides", fontsize=9, color=MUTED, va="center"
    )
    box(axes, 6.95, 5.1, 2.75, 0.6, f"instruction → tokenizer\n“{shortened(instruction)}”")
    arrow(axes, (8.0, 5.1), (7.5, 4.06))

    # Two frames of a batch: the queries follow each one's last word, padding comes last.
    height, first, second = 0.42, 3.62, 3.08
    begin = 0.25
    ends = []
    for y, words, padding in ((first, instruction.split()[:3] + ["…"], 0), (second, ["go", "to", "…"], 1)):
        x = begin
        for text, width, colour in (("<s>", 0.42, TAG), ("<image>", 0.78, TAG)):
            x = cell(axes, x, y, width, height, text, colour)
        latents = x
        for text in ("1", "2", "3", "…", "64"):
            x = cell(axes, x, y, 0.31, height, text, LATENT)
        latents_end = x
        x = cell(axes, x, y, 0.85, height, "</image>", TAG)
        words_begin = x
        x = cell(axes, x, y, 1.05, height, opening[0], PROMPT)
        x = cell(axes, x, y, 1.55, height, opening[1], PROMPT)
        for word in words:
            x = cell(axes, x, y, 0.2 + 0.095 * len(word), height, word, WORD)
        words_end = x
        x = cell(axes, x, y, 0.72, height, "query", QUERY, fontweight="bold")
        ends.append((words_end, x))
        if padding:
            right = ends[0][1]
            cell(axes, x, y, right - x, height, "<pad> …", EMPTY, hatch="////", color=MUTED)
    band = 1.98
    y = second - 0.1
    brace(axes, latents, latents_end, y, "the frame")
    brace(axes, words_begin, ends[1][0], y, "prompt with the instruction")
    brace(axes, ends[1][1] + 0.04, ends[0][1], y, "masked")
    box(
        axes,
        begin,
        band,
        ends[0][1] - begin,
        0.44,
        "text transformer: every token sees itself and what stands left of it",
    )
    for words_end, x in ends[1:]:
        middle = (words_end + x) / 2
        axes.plot([middle, middle], [second, band + 0.44], color="#c05621", lw=1.3)
        arrow(axes, (middle, band), (middle, band - 0.28), "#c05621")
        axes.text(
            middle, band - 0.33, "state (Q, D), read at the query's own index  →  head",
            ha="center", va="top", fontsize=9.5, fontweight="bold", color="#9c4221",
        )  # fmt: skip

    # The same sequence as a silent fallback leaves it.
    y = 0.5
    axes.plot([begin, WIDTH - begin], [1.27, 1.27], color="#cbd2d9", lw=1)
    axes.text(begin, 1.09, "How it goes wrong silently", fontsize=10, fontweight="bold", va="center")
    x = cell(axes, begin, y, 0.42, height, "<s>", TAG)
    wrong = x
    for text in ("1", "2", "3", "4", "5", "…", "64"):
        x = cell(axes, x, y, 0.4, height, text, WRONG)
    wrong_end = x
    x = cell(axes, x, y, 0.72, height, "query", QUERY, fontweight="bold")
    brace(axes, wrong, wrong_end, y - 0.08, "64 latents, written where the words stood")
    axes.text(
        x + 0.3, y + height / 2 - 0.12,
        "Right shapes, no error, and the loss still falls.\nBut no instruction ever reaches the query:\n"
        "the policy is deaf, and only a changed word shows it.",
        va="center", fontsize=9.5, linespacing=1.35,
    )  # fmt: skip
    return figure


def prompt_opening() -> tuple[str, str]:
    """What stands before the instruction: the grounding tag and the words behind it."""
    text = yaml.safe_load((ROOT / "conf/model/backbone/kosmos2.yaml").read_text(encoding="utf-8"))["prompt"]
    tag, _, words = text.replace("{instruction}", "").strip().partition(" ")
    return tag, words


def shortened(text: str, limit: int = 34) -> str:
    if len(text) <= limit:
        return text
    return text[:limit].rsplit(" ", 1)[0] + " …"


# ---------------------------------------------------------------- windows


def windows(frames: np.ndarray) -> Any:
    """Which frames a sample sees, which actions it predicts, and why each frame is encoded once."""
    from src.data.windows import future, history

    steps = np.arange(STEPS)
    past = history(steps, WINDOW)  # (S, W)
    ahead, valid = future(steps, np.full(STEPS, STEPS), HORIZON)  # (S, H)
    colours = [matplotlib.colors.to_hex(matplotlib.colormaps["GnBu"](0.12 + 0.11 * t)) for t in range(STEPS)]
    figure, axes = canvas(6.45, lowest=0.75)

    # Frames, encoded once each.
    left, pitch, size = 2.35, 1.22, 0.95
    axes.text(0.25, 6.38, f"frames (N)\nN = {STEPS} distinct ones", fontsize=10, va="center", linespacing=1.3)
    for t in range(STEPS):
        x = left + t * pitch
        picture(axes, frames[t], x, 5.9, size)
        arrow(axes, (x + size / 2, 5.9), (x + size / 2, 5.62))
        arrow(axes, (x + size / 2, 5.22), (x + size / 2, 4.97))
        cell(axes, x + size / 2 - 0.29, 4.61, 0.58, 0.36, f"s{t}", colours[t], fontweight="bold")
        axes.text(x + size / 2, 6.9, f"frame {t}", ha="center", va="bottom", fontsize=9, color=MUTED)
    passes = int((past >= 0).sum())
    box(
        axes, left - 0.1, 5.22, (STEPS - 1) * pitch + size + 0.2, 0.4,
        f"Kosmos-2, once per frame: {STEPS} passes (each window on its own: {passes})",
    )  # fmt: skip
    axes.text(0.25, 4.79, "states (N, Q, D)", fontsize=10, va="center")

    # Windows and targets, one row per sample.
    width, height, top = 0.62, 0.4, 3.62
    x_past, x_head, x_ahead = 1.25, 4.35, 6.3
    heading: dict[str, Any] = {"fontsize": 10, "va": "bottom", "ha": "center", "linespacing": 1.3}
    axes.text(
        x_past + WINDOW * width / 2,
        top + 0.5,
        f"windows (S, W), W = {WINDOW}\nstates looked up by index",
        **heading,
    )
    axes.text(
        x_ahead + HORIZON * width / 2,
        top + 0.5,
        f"actions (S, H), H = {HORIZON}\nwhat is to be predicted",
        **heading,
    )
    blank = {"hatch": "////", "color": MUTED}
    for t in range(STEPS):
        y = top - t * height
        axes.text(x_past - 0.15, y + height / 2, f"t = {t}", ha="right", va="center", fontsize=9.5)
        for w in range(WINDOW):
            row = int(past[t, w])
            style: dict[str, Any] = blank if row < 0 else {}
            cell(
                axes,
                x_past + w * width,
                y,
                width,
                height,
                "−1" if row < 0 else f"s{row}",
                EMPTY if row < 0 else colours[row],
                **style,
            )
        for h in range(HORIZON):
            seen = bool(valid[t, h])
            style = {} if seen else blank
            cell(
                axes,
                x_ahead + h * width,
                y,
                width,
                height,
                f"a{ahead[t, h]}" if seen else "–",
                QUERY if seen else EMPTY,
                **style,
            )
        arrow(axes, (x_past + WINDOW * width + 0.06, y + height / 2), (x_head - 0.04, y + height / 2), MUTED)
        arrow(axes, (x_head + 1.24, y + height / 2), (x_ahead - 0.06, y + height / 2), MUTED)
    bottom = top - (STEPS - 1) * height
    box(axes, x_head, bottom, 1.2, STEPS * height, "head\n(LSTM)")
    brace(axes, x_past, x_past + WINDOW * width, bottom - 0.12, "before the start: left padding")
    brace(axes, x_ahead, x_ahead + HORIZON * width, bottom - 0.12, "beyond the end: right padding")
    notes = (
        "Every frame is\none sample, for any\nW and any H.",
        "Same colour: same\nstate. It was com-\nputed only once.",
        "Hatched: masked,\nenters no loss and\nno metric.",
    )
    for i, note in enumerate(notes):
        axes.text(8.38, top + height - 0.02 - i * 0.85, note, fontsize=9.5, va="top", linespacing=1.3)
    axes.text(
        0.25, 0.98,
        "One episode of T = 6 frames. Action t was commanded after seeing frame t.",
        fontsize=9.5, color=MUTED, va="center",
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    main()
