"""Out to LeRobot and back: nothing is lost, and a reader that knows only the documented layout finds it all."""

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.episode import Episode, open_episode, write_episode
from src.data.layouts import LabOptions
from src.data.lerobot.convert import convert
from src.data.lerobot.export import ExportOptions
from src.data.lerobot.layout import CAMERA, Place, fps_of, frame_rate
from src.data.lerobot.stats import column_stats, frame_stats, histogram
from src.data.scan import scan
from src.data.split import SplitRule, load_or_make_split
from tests.data.builders import SPACE, make_episode, make_folder, write_lab_file


def rich_folder(root: Path, size: int = 8) -> list[Episode]:
    """Four episodes that use every optional field, some of them not in all episodes."""
    rng = np.random.default_rng(0)
    episodes = [
        make_episode("a", 3, size, poses=rng.normal(size=(3, 3)), timestamps=np.array([0.1, 0.55, 1.3])),
        make_episode(
            "b", 5, size, poses=rng.normal(size=(5, 3)), attributes={"ok": True, "n": 3, "x": 0.1, "s": "é"}
        ),
        make_episode(
            "c", 1, size, group="a", scenario="right", instructions=("공으로 가라", "go to the ball")
        ),
        make_episode("d", 4, size, instructions=("go to a", "to a, please")),
    ]
    for episode in episodes:
        write_episode(root / f"{episode.id}.h5", episode)
    return episodes


def smooth_frames(steps: int, size: int) -> np.ndarray:
    """A picture that a video codec can follow: gradients with a moving bright square."""
    ramp = np.linspace(40, 200, size).astype(np.uint8)
    frames = np.broadcast_to(
        np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(90)), -1), (steps, size, size, 3)
    ).copy()
    for t in range(steps):
        frames[t, 4 : size // 2, 2 * t : 2 * t + 8] = 240
    return frames


def same(one: Episode, two: Episode) -> None:
    for name in ("frames", "actions", "timestamps", "poses"):
        first, second = getattr(one, name), getattr(two, name)
        assert (first is None) == (second is None), name
        if first is not None:
            assert first.dtype == second.dtype and first.shape == second.shape, name
            assert first.tobytes() == second.tobytes(), name
    for name in (
        "id", "instructions", "action_names", "action_units", "control_period", "scenario", "group", "attributes",
    ):  # fmt: skip
        assert getattr(one, name) == getattr(two, name), name


# ---------------------------------------------------------------- round trips


def test_images_come_back_to_the_bit_and_the_files_are_the_same_bytes(tmp_path: Path) -> None:
    episodes = rich_folder(tmp_path / "in")
    out = convert(tmp_path / "in", tmp_path / "lerobot", progress=False)
    assert out == {"episodes": 4, "frames": 13, "skipped": [], "psnr_db": None}
    back = convert(tmp_path / "lerobot", tmp_path / "back", format="mobile_vla", progress=False)
    assert back == out
    for episode in episodes:
        same(episode, open_episode(tmp_path / "back" / f"{episode.id}.h5").load())
        # The project's format is a function of the episode, so the files too are equal.
        one, two = (tmp_path / folder / f"{episode.id}.h5" for folder in ("in", "back"))
        assert one.read_bytes() == two.read_bytes()


@settings(max_examples=5)
@given(
    period=st.floats(0.01, 20), axes=st.integers(1, 4), steps=st.integers(1, 5),
    bits=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=20, max_size=20),
)  # fmt: skip
def test_any_period_axes_and_float_survive(
    tmp_path_factory: pytest.TempPathFactory, period: float, axes: int, steps: int, bits: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    episode = make_episode(
        "e", steps, 2, control_period=period, actions=np.array(bits, np.float32)[: steps * axes].reshape(steps, axes),
        action_names=tuple("abcd"[:axes]), action_units=("m/s",) * axes,
    )  # fmt: skip
    write_episode(folder / "in" / "e.h5", episode)
    convert(folder / "in", folder / "lr", progress=False)
    convert(folder / "lr", folder / "back", format="mobile_vla", progress=False)
    same(episode, open_episode(folder / "back" / "e.h5").load())


def test_limits_classes_and_the_split_survive(tmp_path: Path) -> None:
    make_folder(tmp_path / "in", [3] * 12)
    rule = SplitRule(train=0.5, val=0.25, test=0.25)
    split = load_or_make_split(scan(tmp_path / "in", SPACE), rule, tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "lr", action=SPACE, progress=False)
    convert(tmp_path / "lr", tmp_path / "back", format="mobile_vla", progress=False)
    space = ActionSpace.from_dict(json.loads((tmp_path / "back" / "action_space.json").read_text()))
    assert space == SPACE
    (stored,) = (tmp_path / "back").glob("split-*.json")
    before = stored.read_text()
    again = load_or_make_split(scan(tmp_path / "back", SPACE), rule, tmp_path / "back")
    assert again.members == split.members and again.data_hash == split.data_hash
    assert stored.read_text() == before  # it was accepted as it is, not refreshed
    # info.json tells LeRobot's users the same: the rows lie in the order of the split.
    info, extra = read_json(tmp_path / "lr", "info"), read_json(tmp_path / "lr", "mobile_vla")
    for name, ids in split.members.items():
        begin, end = map(int, info["splits"][name].split(":"))
        assert tuple(entry["id"] for entry in extra["episodes"][begin:end]) == ids
    # A second round trip takes the limits from the folder.
    convert(tmp_path / "back", tmp_path / "lr2", progress=False)
    assert read_json(tmp_path / "lr2", "mobile_vla")["action_space"] == SPACE.to_dict()


def test_a_split_of_lab_files_survives_although_the_files_change(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for minute in range(4):
        name = f"episode_20260101_00{minute:02d}00_1box_hori_left_core_close.h5"
        frames = rng.integers(0, 256, (3, 4, 6, 3), np.uint8)
        write_lab_file(tmp_path / "in" / name, frames, text="go left")
    lab, rule = LabOptions(colour_order="bgr"), SplitRule(train=0.5, val=0.25, test=0.25)
    source = scan(tmp_path / "in", SPACE, lab)
    split = load_or_make_split(source, rule, tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "lr", lab=lab, progress=False)
    convert(tmp_path / "lr", tmp_path / "back", format="mobile_vla", progress=False)
    back = scan(tmp_path / "back", SPACE)
    assert load_or_make_split(back, rule, tmp_path / "back").members == split.members
    for one, two in zip(source, back, strict=True):
        same(one.load(), two.load())


def test_video_is_lossy_as_stated_and_everything_else_is_exact(tmp_path: Path) -> None:
    episodes = [
        make_episode(f"v{i}", 4 + i, 32, frames=smooth_frames(4 + i, 32), control_period=1 / 3)
        for i in range(3)
    ]
    for episode in episodes:
        write_episode(tmp_path / "in" / f"{episode.id}.h5", episode)
    out = convert(
        tmp_path / "in", tmp_path / "lr", export_options=ExportOptions(frames="video", crf=18), progress=False
    )
    convert(tmp_path / "lr", tmp_path / "back", format="mobile_vla", progress=False)
    measured = []
    for episode in episodes:
        back = open_episode(tmp_path / "back" / f"{episode.id}.h5").load()
        assert back.attributes.pop("lossy_video") == "h264 crf 18"
        error = np.mean((episode.frames.astype(float) - back.frames) ** 2)
        measured.append(10 * np.log10(255**2 / error))
        # Each frame is nearer to its own original than to the neighbours': none is shifted by one.
        distance = [[np.abs(a.astype(float) - b).mean() for b in episode.frames] for a in back.frames]
        assert np.argmin(distance, axis=1).tolist() == list(range(len(episode.frames)))
        back.frames = episode.frames
        same(episode, back)
    assert out["psnr_db"]["min"] == pytest.approx(min(measured), abs=0.01)
    assert out["psnr_db"]["mean"] == pytest.approx(np.mean(measured), abs=0.01)
    assert min(measured) > 25


# ---------------------------------------------------------------- a reader that knows the layout only


def read_json(root: Path, name: str) -> Any:
    return json.loads((root / "meta" / f"{name}.json").read_text(encoding="utf-8"))


def plain_reader(root: Path) -> list[dict[str, Any]]:
    """LeRobot v3.0 as documented, with pyarrow alone: every episode through its row of meta/episodes."""
    info = read_json(root, "info")
    assert info["codebase_version"] == "v3.0"
    tasks = {
        row["task_index"]: row["task"]
        for row in parquet.ParquetFile(root / "meta/tasks.parquet").read().to_pylist()
    }
    found = []
    for row in parquet.ParquetFile(root / "meta/episodes/chunk-000/file-000.parquet").read().to_pylist():
        place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        rows = parquet.ParquetFile(root / info["data_path"].format(**place)).read().to_pylist()
        rows = [r for r in rows if row["dataset_from_index"] <= r["index"] < row["dataset_to_index"]]
        assert len(rows) == row["length"] and {r["episode_index"] for r in rows} == {row["episode_index"]}
        assert [r["frame_index"] for r in rows] == list(range(row["length"]))
        assert [r["timestamp"] for r in rows] == [np.float32(t / info["fps"]) for t in range(row["length"])]
        assert row["tasks"] == [tasks[rows[0]["task_index"]]]
        if info["features"][CAMERA]["dtype"] == "image":
            frames = [np.asarray(Image.open(io.BytesIO(r[CAMERA]["bytes"]))) for r in rows]
        else:
            key = f"videos/{CAMERA}"
            place = {"chunk_index": row[f"{key}/chunk_index"], "file_index": row[f"{key}/file_index"]}
            with av.open(str(root / info["video_path"].format(video_key=CAMERA, **place))) as file:
                shown = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
            begin, end = row[f"{key}/from_timestamp"], row[f"{key}/to_timestamp"]
            frames = [picture for time, picture in shown if begin - 1e-4 <= time < end - 1e-4]
        actions = np.array([r["action"] for r in rows], np.float32)
        found.append({"task": row["tasks"][0], "frames": np.stack(frames), "actions": actions, "row": row})
    return found


def test_a_plain_pyarrow_reader_finds_frames_actions_and_sentences(tmp_path: Path) -> None:
    episodes = rich_folder(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "lr", progress=False)
    found = plain_reader(tmp_path / "lr")
    for episode, read in zip(episodes, found, strict=True):
        assert read["task"] == episode.instructions[0]
        assert (read["frames"] == episode.frames).all()
        assert read["actions"].tobytes() == episode.actions.tobytes()
    info = read_json(tmp_path / "lr", "info")
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"], info["fps"]) == (4, 13, 3, 2.5)
    # LeRobot feeds every observation.* and action* to policies: poses must be neither.
    assert [k for k in info["features"] if k.startswith(("observation", "action"))] == [CAMERA, "action"]


def test_pandas_reads_the_sentences_as_index_which_is_what_lerobot_uses(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rich_folder(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "lr", progress=False)
    tasks = pandas.read_parquet(tmp_path / "lr/meta/tasks.parquet")
    assert list(tasks.columns) == ["task_index"] and tasks.iloc[1].name == "go to b"


def test_small_files_follow_one_another_and_videos_are_cut_by_time(tmp_path: Path, monkeypatch: Any) -> None:
    rng = np.random.default_rng(1)
    for i in range(4):  # noise: 60 pictures of 0.8 kB, so that two episodes fill a file of 60 kB
        frames = rng.integers(0, 256, (60, 16, 16, 3), np.uint8)
        write_episode(tmp_path / "in" / f"n{i}.h5", make_episode(f"n{i}", 60, frames=frames))
    monkeypatch.setattr("src.data.lerobot.tables.MB", 60_000)
    monkeypatch.setattr("src.data.lerobot.export.MB", 6000)
    monkeypatch.setattr("src.data.lerobot.layout.CHUNKS_SIZE", 2)
    convert(tmp_path / "in", tmp_path / "lr", export_options=ExportOptions(data_file_mb=1), progress=False)
    files = sorted(str(p.relative_to(tmp_path / "lr")) for p in (tmp_path / "lr/data").rglob("*.parquet"))
    assert files == ["data/chunk-000/file-000.parquet", "data/chunk-000/file-001.parquet"]
    assert [read["row"]["data/file_index"] for read in plain_reader(tmp_path / "lr")] == [0, 0, 1, 1]
    options = ExportOptions(frames="video", crf=0, video_file_mb=1)
    convert(tmp_path / "in", tmp_path / "video", export_options=options, progress=False)
    found = plain_reader(tmp_path / "video")
    key = f"videos/{CAMERA}/file_index"
    assert len({(read["row"][key], read["row"][f"videos/{CAMERA}/chunk_index"]) for read in found}) > 1
    convert(tmp_path / "video", tmp_path / "back", format="mobile_vla", progress=False)
    for i, read in enumerate(found):
        assert (open_episode(tmp_path / "back" / f"n{i}.h5").frames() == read["frames"]).all()


def test_places_count_through_chunks() -> None:
    assert Place(0, 998).next() == Place(0, 999) and Place(0, 999).next() == Place(1, 0)


@pytest.mark.parametrize(("period", "fps"), [(1 / 3, 3), (0.4, 2.5), (0.1, 10), (1 / 30, 30), (2.0, 0.5)])
def test_fps_is_whole_where_it_can_be(period: float, fps: float) -> None:
    assert fps_of(period) == fps and isinstance(fps_of(period), int) == float(fps).is_integer()
    assert float(frame_rate(period)) == pytest.approx(1 / period, rel=1e-6)


# ---------------------------------------------------------------- statistics, against numpy on the pixels themselves


def test_statistics_are_those_of_numpy(tmp_path: Path) -> None:
    episodes = rich_folder(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "lr", progress=False)
    stats = read_json(tmp_path / "lr", "stats")
    actions = np.concatenate([episode.actions for episode in episodes]).astype(np.float64)
    pixels = np.concatenate([episode.frames.reshape(-1, 3) for episode in episodes]) / 255
    for name, values in (("action", actions), (CAMERA, pixels)):
        for stat, wanted in (
            ("min", values.min(0)), ("max", values.max(0)), ("mean", values.mean(0)), ("std", values.std(0)),
            ("q50", np.quantile(values, 0.5, axis=0, method="inverted_cdf" if name == CAMERA else "linear")),
        ):  # fmt: skip
            np.testing.assert_allclose(
                np.ravel(stats[name][stat]), wanted, atol=1e-9, err_msg=f"{name} {stat}"
            )
    assert stats[CAMERA]["count"] == [13] and np.shape(stats[CAMERA]["mean"]) == (3, 1, 1)
    assert np.isfinite([v for s in stats.values() for x in s.values() for v in np.ravel(x)]).all()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_histograms_give_the_quantiles_of_the_pixels(seed: int, frames: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 3, 2, 3), np.uint8)
    stats = frame_stats(histogram(pixels), frames)
    flat = pixels.reshape(-1, 3) / 255
    for name, level in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
        np.testing.assert_allclose(
            np.ravel(stats[name]), np.quantile(flat, level, axis=0, method="inverted_cdf")
        )


def test_a_single_row_has_statistics_too() -> None:
    assert column_stats(np.array([[2.0, 3.0]])) == {
        **{name: [2.0, 3.0] for name in ("min", "max", "mean", "q01", "q10", "q50", "q90", "q99")},
        "std": [0.0, 0.0], "count": [1],
    }  # fmt: skip


def test_the_lossless_claim_is_measured_not_assumed(tmp_path: Path) -> None:
    """A changed picture or action in the data set is noticed on the way back."""
    make_folder(tmp_path / "in", [3])
    convert(tmp_path / "in", tmp_path / "lr", progress=False)
    path = tmp_path / "lr/meta/mobile_vla.json"
    for key in ("frames_sha256", "actions_sha256"):
        good = path.read_text()
        extra = json.loads(good)
        extra["episodes"][0][key] = "0" * 64
        path.write_text(json.dumps(extra))
        with pytest.raises(ProjectError, match=f"e000.*{key.split('_')[0]} are not those that were written"):
            convert(tmp_path / "lr", tmp_path / "back", format="mobile_vla", progress=False)
        path.write_text(good)
        assert not (tmp_path / "back").exists()
