"""Owns the page check.html: one file without scripts and without network, for a screen or a phone, light or dark.

In: an `Outcome` and `Views`. Out: HTML text. Pictures are embedded as data, drawings are inline SVG.
"""

import io

import numpy as np
from PIL import Image

from src.core.page import document, picture, section, table, text
from src.data.check.confounding import measure
from src.data.check.contents import contents
from src.data.check.drawing import bars, trajectories
from src.data.check.finding import FILES_SHOWN, NOTE, SEVERITIES, Finding, percent, relative
from src.data.check.outcome import Outcome
from src.data.check.style import STYLE
from src.data.check.views import Pair, Scene, Views

JPEG = "image/jpeg"
LISTED = 10
"""So many files of one kind are listed with their sentences in the open; more unfold at a click."""
_SIGN = {"error": "✕", "warning": "!", "note": "i"}
MEANING = {
    "linear_y": ("sideways", "to the left, so things in view should move to the right"),
    "angular_z": ("rotation", "counter-clockwise, to the left, so things in view should move to the right"),
}
"""Axis -> its word and what a positive value must do (REP-103)."""


def page(outcome: Outcome, shown: Views) -> str:
    """The whole page."""
    root = outcome.facts.root
    body = [
        f"<header><h1>Data check</h1><p class=root>{text(root.name)}</p>{_verdict(outcome)}</header>",
        section("What is in it", _contents(outcome)),
        section("Findings", _findings(outcome)),
    ]
    if outcome.facts.episodes:
        body += [
            section("Please confirm", _confirm(shown)),
            section("Classes and what needs no eyes", _classes(outcome)),
            section("Is the sentence in the picture?", _confounding(outcome)),
            section("Scenarios", _scenes(shown)),
        ]
    body.append(section("What was asked", _asked(outcome)))
    return document(f"Data check: {root.name}", body, STYLE)


def _verdict(outcome: Outcome) -> str:
    counts = outcome.counts()
    worst = next((severity for severity in SEVERITIES if counts[severity]), NOTE)
    words = {
        "error": "Training on this data would be refused or wrong.",
        "warning": "Usable, but read the warnings before you trust a score.",
        "note": "Nothing stands in the way of a training.",
    }[worst]
    shown = " ".join(
        f'<span class="tag {s}">{counts[s]} {s}{"s" * (counts[s] != 1)}</span>' for s in SEVERITIES
    )
    return f'<p class="verdict {worst}"><b>{words}</b></p><p>{shown}</p>'


def _contents(outcome: Outcome) -> str:
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(words)}</dd>" for name, words in contents(outcome))
    read = (
        f"Metadata, actions and sentences of every file were read. {outcome.decoded} It took {outcome.seconds:.1f} s: "
        f"{outcome.times} Split: {outcome.split_rule}."
    )
    return f"<dl>{rows}</dl><p class=small>{text(read)}</p>"


def _findings(outcome: Outcome) -> str:
    if not outcome.findings:
        return "<p>None.</p>"
    return "".join(_card(finding, outcome) for finding in outcome.findings)


def _card(finding: Finding, outcome: Outcome) -> str:
    root = outcome.facts.root
    said = finding.lines(root)
    files, n = "", len(finding.files)
    if said:  # closed where it would push the rest of the page away
        items = "".join(f"<li>{text(line)}</li>" for line in said)
        state = " open" if n <= LISTED else ""
        files = f"<details{state}><summary>each of {n} files</summary><ul>{items}</ul></details>"
    elif n > FILES_SHOWN:
        items = "".join(f"<li><code>{text(relative(path, root))}</code></li>" for path in finding.files)
        files = f"<details><summary>{n} files</summary><ul>{items}</ul></details>"
    elif n and not finding.sentences:  # the reason of a single file names it
        shown = text(finding.few_files(root))
        files = f"<p class=small>{n} file{'s' * (n != 1)}: <code>{shown}</code></p>"
    reason = (finding.headline if said else "") or finding.reason
    return (
        f'<article class="{finding.severity}"><h3><span class="tag {finding.severity}">'
        f"{_SIGN[finding.severity]} {finding.severity}</span> {text(finding.code)}</h3>"
        f"<p>{text(reason.replace(f'{root}/', ''))}.</p><p><b>Do:</b> {text(finding.advice)}.</p>{files}</article>"
    )


def _confirm(shown: Views) -> str:
    parts = ["<p>A program cannot know these; a person who knows the place sees them at once.</p>"]
    scene = next((scene for scene in shown.scenes if scene.jpeg), None)
    if scene is not None:
        parts += [
            "<h3>Colours</h3><p>Left as a training will see it. If the right one is true, the colour order is wrong: "
            "turn <code>data.lab.colour_order</code>.</p><div class=pair>",
            picture(scene.jpeg, JPEG, "as read (RGB)"),
            picture(_swapped(scene.jpeg), JPEG, "red and blue exchanged (BGR)"),
            "</div>",
        ]
    parts += [_pair(pair) for pair in shown.pairs]
    return "".join(parts)


def _pair(pair: Pair) -> str:
    word, must = MEANING[pair.axis]
    key = "data.lab.lateral_sign" if pair.axis == "linear_y" else "data.lab.rotation_sign"
    line = trajectories([_arc(pair.axis)], 120)
    seen = picture(pair.before, JPEG, "before") + picture(pair.after, JPEG, "after")
    return (
        f"<h3>Sign of {text(word)}</h3><p>{text(pair.episode)}, step {pair.step}: {text(pair.axis)} = "
        f"{pair.value:+.2f} {text(pair.unit)}. Positive means {text(must)}. If the pictures show the opposite, turn "
        f"<code>{key}</code>.</p><div class=pair>{seen}"
        f"<figure>{line}<figcaption>the path that positive {text(pair.axis)} with forward motion must give, seen from "
        "above; the robot starts at the dot and looks up</figcaption></figure></div>"
    )


def _arc(axis: str) -> np.ndarray:
    t = np.linspace(0, 1, 20)
    if axis == "linear_y":
        return np.column_stack([t, 0.7 * t])
    return np.column_stack([np.sin(1.2 * t), 1 - np.cos(1.2 * t)])


def _swapped(jpeg: bytes) -> bytes:
    red, green, blue = Image.open(io.BytesIO(jpeg)).split()
    stream = io.BytesIO()
    Image.merge("RGB", (blue, green, red)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _classes(outcome: Outcome) -> str:
    f = outcome.figures
    if not f["class_shares"]:
        return "<p>data.action names no classes.</p>"
    rows = [
        (f"always “{f['majority_class']}”", f["majority_accuracy"]),
        ("a clock: the step number alone", f["clock_accuracy"]),
        ("a clock that knows the scenario", f["clock_accuracy_given_scenario"]),
        ("a clock that has read the sentence", f["clock_accuracy_given_instruction"]),
    ]
    blind = table(
        ["guess of the class of each action", "right"],
        [(text(name), "–" if value is None else percent(value)) for name, value in rows],
    )
    return (
        bars(f["class_shares"])
        + "<h3>What no camera is needed for</h3><p>Each guess uses only the other episodes. A policy has to beat "
        f"these figures to show that it looks.</p>{blind}"
    )


def _confounding(outcome: Outcome) -> str:
    found = measure(outcome.facts)
    if found is None:
        return "<p>Too few episodes, groups or instructions to measure it (20 episodes, 10 groups, 2 instructions).</p>"
    rows = [found.instruction, *found.words[:8]]
    cells = [
        (
            text(r.what) if r is found.instruction else f"“{text(r.what)}”",
            percent(r.accuracy), percent(r.chance), percent(r.upper), f"{r.p:.3f}",
        )
        for r in rows
    ]  # fmt: skip
    return (
        f"<p>A small classifier looks at the first frame (16×16 px) of {found.episodes} episodes and guesses which of "
        f"{found.labels} instructions they have, and whether single words stand in it. Groups are left out whole. "
        "Chance is the same classifier on shuffled instructions.</p>"
        + table(["guessed", "right", "by chance", "95 of 100 shuffles below", "p"], cells)
    )


def _scenes(shown: Views) -> str:
    more = f"<p class=small>{shown.hidden} smaller scenarios are not shown.</p>" if shown.hidden else ""
    intro = (
        "<p>Where the commands alone would lead, from above: each line one episode, the robot starts at the dot and "
        "looks up. Grid: 1 m.</p>"
    )
    return intro + "<div class=scenes>" + "".join(_scene(scene) for scene in shown.scenes) + "</div>" + more


def _scene(scene: Scene) -> str:
    paths = ", ".join(f"{word} {n}" for word, n in sorted(scene.paths.items(), key=lambda item: -item[1]))
    image = picture(scene.jpeg, JPEG, scene.sentence) if scene.jpeg else ""
    return (
        f"<article><h3>{text(scene.name)}</h3><p class=small>{scene.episodes} episodes; path {text(paths)}</p>"
        f"{image}{trajectories(scene.drives, 220)}</article>"
    )


def _asked(outcome: Outcome) -> str:
    rows = []
    for asked, found in outcome.questions:
        tags = " ".join(f'<span class="tag {f.severity}">{text(f.code)}</span>' for f in found)
        rows.append((text(asked), tags or "nothing found"))
    return table(["question", "answer"], rows, words=(0, 1))
