"""Data sets of others, damaged ones, wrong options: what is needed is named, and nothing half done is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from src.core.errors import ProjectError
from src.data.episode import open_episode, write_episode
from src.data.instruction import ScenarioMap
from src.data.lerobot.convert import convert
from src.data.lerobot.export import ExportOptions
from src.data.lerobot.foreign import ForeignOptions
from src.data.lerobot.layout import CAMERA
from src.data.lerobot.pace import Pace
from src.data.lerobot.tables import png
from src.data.scan import scan
from tests.data.builders import NAMES, SPACE, UNITS, make_episode, make_folder, write_lab_file

ROOT = Path(__file__).resolve().parents[2]
LEKIWI = ("x.vel", "y.vel", "theta.vel")
"""Names of LeRobot's own mobile base; theta.vel is in deg/s there."""


def foreign_set(
    root: Path, names: Any = LEKIWI, tasks: tuple[int, ...] = (0, 0, 1), pace: float = 0.2, **info: Any
) -> np.ndarray:
    """A data set as other writers make it: two cameras, one row group for all, rows shuffled, an unnamed index."""
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(6, 3)).astype(np.float32)
    frames = rng.integers(0, 256, (6, 4, 6, 3), np.uint8)
    rows = [
        {
            "action": actions[i].tolist(), "episode_index": i // 2, "frame_index": i % 2, "index": i,
            "timestamp": (i % 2) * pace, "task_index": tasks[i // 2],
            CAMERA: {"bytes": png(frames[i]), "path": "x.png"},
            "observation.images.wrist": {"bytes": png(255 - frames[i]), "path": None},
        }
        for i in (3, 0, 5, 1, 4, 2)
    ]  # fmt: skip
    episodes = [
        {"episode_index": e, "length": 2, "data/chunk_index": 0, "data/file_index": 0, "stats/x/min": [0.0]}
        for e in range(3)
    ]
    words = pa.table({"task_index": [1, 0], "__index_level_0__": ["stop there", "go left"]})
    words = words.replace_schema_metadata({"pandas": json.dumps({"index_columns": ["__index_level_0__"]})})
    for name, table in (
        ("data/chunk-000/file-000.parquet", pa.Table.from_pylist(rows)),
        ("meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(episodes)),
        ("meta/tasks.parquet", words),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, root / name)
    image = {"dtype": "image", "shape": [4, 6, 3], "names": ["height", "width", "channels"]}
    action = {"dtype": "float32", "shape": [3], "names": None if names is None else list(names)}
    content = {
        "codebase_version": "v3.0", "fps": 5, "total_episodes": 3, "total_frames": 6,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "video_path": None,
        "features": {CAMERA: image, "observation.images.wrist": image, "action": action}, **info,
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(content))
    return np.concatenate([frames.reshape(6, -1), actions], axis=1)


def test_a_foreign_set_is_read_with_the_facts_that_it_lacks(tmp_path: Path) -> None:
    content = foreign_set(tmp_path / "lr")
    options = ForeignOptions(
        action_names=["linear_x", "angular_z"], action_units=["m/s", "rad/s"], action_from=["x.vel", 2],
        action_scale=[1, np.pi / 180], camera_key=CAMERA,
    )  # fmt: skip
    convert(tmp_path / "lr", tmp_path / "in", format="mobile_vla", foreign=options, progress=False)
    for e in range(3):
        episode = open_episode(tmp_path / "in" / f"episode_{e:06d}.h5").load()
        rows = content[2 * e : 2 * e + 2]
        assert (episode.frames.reshape(2, -1) == rows[:, :-3]).all()
        np.testing.assert_allclose(episode.actions, rows[:, [-3, -1]] * [1, np.pi / 180], rtol=1e-6)
        assert episode.instructions == (("go left", "go left", "stop there")[e],)
        assert episode.scenario == ("task_000", "task_000", "task_001")[e]
        assert (episode.control_period, episode.group) == (0.2, episode.id)
        assert (episode.action_names, episode.action_units) == (("linear_x", "angular_z"), ("m/s", "rad/s"))


@pytest.mark.parametrize(
    ("names", "options", "sentence"),
    [
        (None, {}, "does not name its 3 action entries; set foreign.action_names"),
        (LEKIWI, {}, r"no units of its actions \['x.vel'.*set foreign.action_units"),
        (LEKIWI, {"action_units": list(UNITS)}, r"has 2 cameras.*set foreign.camera_key"),
        (LEKIWI, {"action_units": ["m/s"]}, "foreign.action_units has 1 values for 3"),
        (LEKIWI, {"action_units": list(UNITS), "camera_key": "top"}, "foreign.camera_key is 'top'.*wrist"),
        (LEKIWI, {"action_from": ["x"], "action_units": ["m/s"]}, "action_from has 'x'.*'x.vel'"),
        (LEKIWI, {"action_from": [3], "action_units": ["m/s"]}, "action_from has 3"),
    ],
)
def test_a_missing_fact_is_named(tmp_path: Path, names: Any, options: dict[str, Any], sentence: str) -> None:
    foreign_set(tmp_path / "lr", names)
    with pytest.raises(ProjectError, match=sentence):
        convert(
            tmp_path / "lr", tmp_path / "in", "mobile_vla", foreign=ForeignOptions(**options), progress=False
        )
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda root: (root / "meta/info.json").write_text("{"), "info.json cannot be read"),
        (lambda root: foreign_set(root, codebase_version="v2.1"), "codebase_version is v2.1, expected v3.0"),
        (lambda root: foreign_set(root, total_episodes=4), "lists 3 episodes, info.json says 4"),
        (
            lambda root: (root / "meta/tasks.parquet").unlink(),
            "tasks.parquet is missing, truncated or damaged",
        ),
        (lambda root: (root / "data/chunk-000/file-000.parquet").unlink(), "file-000.parquet is missing"),
        (lambda root: foreign_set(root, tasks=(0, 0, 7)), "episode 2 has the tasks .None.*exactly one"),
    ],
)
def test_damage_is_named_and_leaves_nothing(tmp_path: Path, damage: Any, sentence: str) -> None:
    foreign_set(tmp_path / "lr")
    damage(tmp_path / "lr")
    options = ForeignOptions(action_units=list(UNITS), camera_key=CAMERA)
    with pytest.raises(ProjectError, match=sentence):
        convert(tmp_path / "lr", tmp_path / "in", "mobile_vla", foreign=options, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["lr"]


def damaged_folder(root: Path) -> None:
    """Three good episodes, one that does not open, one whose frames fail their checksum."""
    make_folder(root, [3] * 5)
    (root / "e001.h5").write_bytes(b"broken")
    path, frames = root / "e003.h5", make_episode("e003", 3).frames
    data = bytearray(path.read_bytes())
    place = data.index(frames[1].tobytes()[:64])
    data[place] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["e001", "e003"])
def test_one_bad_file_stops_and_is_named(tmp_path: Path, name: str) -> None:
    damaged_folder(tmp_path / "in")
    (tmp_path / "in" / f"{'e003' if name == 'e001' else 'e001'}.h5").unlink()
    with pytest.raises(ProjectError, match=rf"{name}\.h5"):
        convert(tmp_path / "in", tmp_path / "lr", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_bad_files_are_skipped_and_listed_where_asked(tmp_path: Path) -> None:
    damaged_folder(tmp_path / "in")
    out = convert(tmp_path / "in", tmp_path / "lr", on_bad_files="skip", progress=False)
    assert out["episodes"] == 3 and {bad["file"] for bad in out["skipped"]} == {"e001.h5", "e003.h5"}
    assert json.loads((tmp_path / "lr/meta/mobile_vla.json").read_text())["skipped"] == out["skipped"]
    convert(tmp_path / "lr", tmp_path / "back", "mobile_vla", progress=False)
    assert sorted(path.stem for path in (tmp_path / "back").glob("*.h5")) == ["e000", "e002", "e004"]


def test_a_pace_that_contradicts_fps_is_refused_unless_a_person_says_which(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known: dict[str, Any] = {"action_units": list(UNITS), "camera_key": CAMERA}
    foreign_set(tmp_path / "lr", pace=0.5)  # fps is 5
    with pytest.raises(
        ProjectError, match=r"episode 0: .*0\.5 s apart .*fps=5, which is 0\.2 s.*foreign\.control_period"
    ):
        convert(
            tmp_path / "lr", tmp_path / "in", "mobile_vla", foreign=ForeignOptions(**known), progress=False
        )
    declared = ForeignOptions(**known, control_period=0.5)
    convert(tmp_path / "lr", tmp_path / "in", "mobile_vla", foreign=declared, progress=False)
    assert open_episode(tmp_path / "in/episode_000000.h5").control_period == 0.5
    (said,) = (one.getMessage() for one in caplog.records)
    assert said.startswith("3 episodes") and "0.5 s apart" in said and "fps says 0.2 s" in said


@pytest.mark.parametrize(("pace", "fine"), [(0.2019, True), (0.1981, True), (0.2021, False), (0.1979, False)])
def test_one_percent_is_the_border_of_a_pace(tmp_path: Path, pace: float, fine: bool) -> None:
    foreign_set(tmp_path / "lr", pace=pace)
    options = ForeignOptions(action_units=list(UNITS), camera_key=CAMERA)
    out = (
        convert(tmp_path / "lr", tmp_path / "in", "mobile_vla", "skip", foreign=options, progress=False)
        if fine
        else {}
    )
    if not fine:
        with pytest.raises(ProjectError, match="none of its 3 episodes"):
            convert(tmp_path / "lr", tmp_path / "in", "mobile_vla", "skip", foreign=options, progress=False)
    assert out.get("episodes", 0) == (3 if fine else 0)


def test_an_hour_of_float32_seconds_is_no_contradiction(tmp_path: Path) -> None:
    """At 3600 s float32 knows 0.24 ms: at 100 frames/s neighbours are off by 2 % without any fault."""

    class Hour:
        info, extra = {"fps": 100}, None

        def columns(self, row: dict[str, Any], names: list[str]) -> dict[str, Any]:
            return {"timestamp": (row["begin"] + np.arange(500) / row["fps"]).astype(np.float32)}

    pace = Pace(Hour(), None)  # type: ignore[arg-type]
    pace.check({"begin": 0, "fps": 100}, tmp_path)
    pace.check({"begin": 3600, "fps": 100}, tmp_path)
    with pytest.raises(ProjectError, match=r"0\.011\d* s apart"):
        pace.check({"begin": 3600, "fps": 90}, tmp_path)


def test_files_of_another_size_are_left_out_like_in_a_training(tmp_path: Path) -> None:
    make_folder(tmp_path / "in", [3] * 4)
    odd: tuple[tuple[str, dict[str, Any]], ...] = (
        ("a_size", {"size": 6}), ("b_period", {"control_period": 0.5}),
        ("c_axes", {"action_names": tuple(reversed(NAMES))}),
    )  # fmt: skip
    for name, changes in odd:
        write_episode(tmp_path / f"in/{name}.h5", make_episode(name, 3, **changes))
    write_episode(tmp_path / "in/z_twice.h5", make_episode("e000", 3))
    with pytest.raises(ProjectError, match=r"a_size\.h5: frame_shape .*|both episode .*on_bad_files=skip"):
        convert(tmp_path / "in", tmp_path / "lr", progress=False)
    out = convert(tmp_path / "in", tmp_path / "lr", on_bad_files="skip", progress=False)
    assert out["episodes"] == 4
    reasons = {bad["file"]: bad["reason"] for bad in out["skipped"]}
    wanted = {
        "a_size.h5": "frame_shape is", "b_period.h5": "control_period is", "c_axes.h5": "action_names is",
        "z_twice.h5": "are both episode 'e000'",
    }  # fmt: skip
    assert sorted(reasons) == sorted(wanted)
    assert all(wanted[name] in reason for name, reason in reasons.items())
    convert(tmp_path / "lr", tmp_path / "back", "mobile_vla", progress=False)
    assert [e.id for e in scan(tmp_path / "back", SPACE)] == ["e000", "e001", "e002", "e003"]


def test_wrong_options_are_refused_before_any_work(tmp_path: Path) -> None:
    make_folder(tmp_path / "in", [3])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    ours = convert(tmp_path / "in", tmp_path / "lr", progress=False) and tmp_path / "lr"
    odd = ForeignOptions(scenario="hall")
    for arguments, sentence in (
        ({"source": tmp_path / "no", "to": tmp_path / "x"}, "source=.*no does not exist"),
        ({"source": tmp_path / "full", "to": tmp_path / "x"}, "source=.*holds no episode"),
        ({"source": tmp_path / "in", "to": tmp_path / "full"}, "to=.*is not an empty folder"),
        ({"source": tmp_path / "in", "to": tmp_path / "x", "format": "rlds"}, "format is 'rlds'"),
        ({"source": tmp_path / "in", "to": tmp_path / "x", "on_bad_files": "no"}, "on_bad_files is 'no'"),
        ({"source": ours, "to": tmp_path / "x"}, "is a LeRobot data set already; set format=mobile_vla"),
        ({"source": tmp_path / "in", "to": tmp_path / "x", "format": "mobile_vla"}, "format=lerobot exports"),
        ({"source": tmp_path / "in", "to": tmp_path / "x", "foreign": odd}, "foreign: only an import"),
        ({"source": ours, "to": tmp_path / "x", "format": "mobile_vla", "foreign": odd}, "says all of it already"),
        ({"source": ours, "to": tmp_path / "x", "format": "mobile_vla", "action": SPACE}, "action: only an export"),
    ):  # fmt: skip
        with pytest.raises(ProjectError, match=sentence):
            convert(**arguments, progress=False)
    assert not (tmp_path / "x").exists()


def test_what_lerobot_cannot_hold_in_one_set_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "in", [3])
    odd = {
        "frame_shape": {"size": 6}, "control_period": {"control_period": 0.5},
        "action_names": {"action_names": tuple(reversed(NAMES))},
    }  # fmt: skip
    for key, change in odd.items():
        write_episode(tmp_path / "in/odd.h5", make_episode("odd", 3, **change))
        with pytest.raises(ProjectError, match=f"odd.h5: {key} is .*one for all"):
            convert(tmp_path / "in", tmp_path / "lr", progress=False)
    (tmp_path / "in/odd.h5").unlink()
    write_episode(tmp_path / "in/e000.h5", make_episode("e000", 3, 7))
    with pytest.raises(ProjectError, match="even sides .*export_options.frames=images"):
        convert(
            tmp_path / "in", tmp_path / "lr", export_options=ExportOptions(frames="video"), progress=False
        )


def test_without_pyarrow_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    make_folder(tmp_path / "in", [3])
    monkeypatch.setitem(
        sys.modules, "pyarrow.parquet", None
    )  # what Python does for a module that is not there
    with pytest.raises(
        ProjectError, match=r"pyarrow, which is not installed; run `pip install .*\[lerobot\]"
    ):
        convert(tmp_path / "in", tmp_path / "lr", progress=False)


def test_the_config_is_checked_like_every_other(compose: Any) -> None:
    from src.core.config import check

    check(
        compose("convert", "source=a", "to=b", "foreign.action_from=[x.vel,2]", "data/action@action=omni3d")
    )
    check(compose("convert", "source=a", "to=b", "data/instruction@instruction=lab_ko"))


def test_lab_files_without_a_sentence_need_a_map_of_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for side in ("left", "right"):
        frames = np.random.default_rng(len(side)).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
        text = "Go right." if side == "right" else None
        write_lab_file(tmp_path / "in" / f"episode_1box_hori_{side}.h5", frames, text=text)
    with pytest.raises(ProjectError, match="hori_left.h5 .*data/instruction@instruction=lab_en"):
        convert(tmp_path / "in", tmp_path / "lr", progress=False)
    out = convert(tmp_path / "in", tmp_path / "some", on_bad_files="skip", progress=False)
    assert [bad["file"] for bad in out["skipped"]] == ["episode_1box_hori_left.h5"]
    other = ScenarioMap("mine.yaml", {"1box_vert_left": "x"}, prefer_file=True)
    with pytest.raises(ProjectError, match="add a sentence under instruction.scenarios"):
        convert(tmp_path / "in", tmp_path / "lr", instruction=other, progress=False)
    words = ScenarioMap("mine.yaml", {"1box_hori_left": ["Go left.", "Keep left."]}, prefer_file=True)
    convert(tmp_path / "in", tmp_path / "lr", instruction=words, progress=False)
    convert(tmp_path / "lr", tmp_path / "back", "mobile_vla", progress=False)
    told = {e.id: e.instructions for e in scan(tmp_path / "back", SPACE)}
    assert told == {
        "episode_1box_hori_left": ("Go left.", "Keep left."),
        "episode_1box_hori_right": ("Go right.",),
    }
    with pytest.raises(ProjectError, match="instruction: only an export"):
        convert(tmp_path / "lr", tmp_path / "x", "mobile_vla", instruction=words, progress=False)


@pytest.mark.slow
def test_the_command_line_goes_both_ways(tmp_path: Path) -> None:
    episodes = make_folder(tmp_path / "in", [3, 4])
    for words in (
        [f"source={tmp_path}/in", f"to={tmp_path}/lr", "data/action@action=lab_keys"],
        [f"source={tmp_path}/lr", f"to={tmp_path}/back", "format=mobile_vla"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "src.convert", *words], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "2 episodes, 7 frames" in done.stdout
    assert open_episode(tmp_path / "back/e001.h5").actions.tobytes() == episodes[1].actions.tobytes()
    again = [sys.executable, "-m", "src.convert", *words]
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "not an empty folder" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seen", [1, 3])
def test_a_killed_export_leaves_nothing_that_looks_finished(tmp_path: Path, seen: int) -> None:
    make_folder(tmp_path / "in", [40] * 12, size=160)
    code = (
        "import sys; from src.data.lerobot.convert import convert; "
        f"convert({str(tmp_path / 'in')!r}, {str(tmp_path / 'lr')!r}, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:  # until some megabytes are written, then kill it
        files = list(tmp_path.glob(".lr.*.tmp/data/chunk-000/*.parquet"))
        if files and files[0].stat().st_size > seen * 1e6:
            break
        time.sleep(0.005)
    assert process.poll() is None, "the export was over before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "lr").exists()
    out = convert(tmp_path / "in", tmp_path / "lr", progress=False)
    assert out["episodes"] == 12 and (tmp_path / "lr/meta/info.json").exists()
