"""`python -m src.runs`: the list, its filters, one run, and why two differ; on records that RunRecord wrote."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.cells import cell_len

from src.comparison.listing import command as listing
from src.comparison.listing import one, pair, screen
from src.comparison.listing.command import Entry, as_json, choose, find, known_metric, order, read, resolve
from src.core.errors import ProjectError
from src.experiment.run_record import RunRecord

ROOT = Path(__file__).resolve().parents[2]
SUCCESS = "closed_loop/full1/layout/policy/success"
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a finished run, as RunRecord writes it."""
    folder = tmp_path_factory.mktemp("one") / "run"
    cfg = OmegaConf.create(
        {"name": "lora", "seed": 0, "arm": None, "data": {"window": 8}, "optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]},
         "run_folder": str(folder)}
    )  # fmt: skip
    with RunRecord(folder, cfg) as record:
        record.note("data", root="episodes", data_hash="d1", split_hash="s1", instruction={"hash": "w1"})
        record.note("model", base_model={"id": "tiny", "fingerprint": "f1"})
        record.note("checkpoints", best={"step": 5, "val/loss": 0.25})
        record.note("evaluation", suites=[{"suite": "full1", "split": "layout", "episodes": 10}])
        record.note("metrics", **{SUCCESS: 0.5, "best/val/loss": 0.25, "offline/error": 0.1})
        record.note("verdict", listens="yes", looks="open", line="success 50 %")
        record.note("cost", trainable_parameters=1000, train_minutes=2.0, latency_p50_ms=None)
    fields: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return fields


@pytest.fixture
def make(written: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make("multirun/lora/text,seed=0", arm="text", **{"config.data.window": 4})`: a run folder; cwd is its root."""
    monkeypatch.chdir(tmp_path)

    def made(name: str, **changes: Any) -> Path:
        record = json.loads(json.dumps(written))
        for key, value in changes.items():
            node = record
            *parents, last = key.split(".")
            for parent in parents:
                node = node[parent]
            node[last] = value
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record))
        return Path(name)

    return made


def listed(*folders: str) -> list[Entry]:
    return list(find([Path(folder) for folder in folders or ("outputs", "multirun")]))


def ask(**changes: Any) -> None:
    """`runs` with the arguments of conf/runs.yaml."""
    plain = {
        "folders": ["outputs", "multirun"], "state": None, "comparison": None, "arm": None, "seed": None, "where": None,
        "since": None, "metric": None, "sort": "-started", "limit": 30, "errors": False, "json": False, "show": None,
        "diff": None,
    }  # fmt: skip
    listing.runs(**{**plain, **changes})


# ---------------------------------------------------------------- finding


def test_runs_are_found_at_any_depth_and_not_inside_each_other(make: Make) -> None:
    (
        make("outputs/2026/a"),
        make("multirun/lora/text,seed=0"),
        make("outputs/2026/a/inner"),
        make("outputs/.hidden/b"),
    )
    (Path("outputs") / "again").symlink_to(Path("2026").absolute())
    (Path("outputs") / "circle").symlink_to(Path("outputs").absolute())
    found = sorted(entry.folder.name for entry in listed())
    assert found == ["a", "text,seed=0"], "each once, however it is reached"


def test_a_broken_record_is_named_and_the_list_goes_on(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make("outputs/good")
    for name, text in (
        ("cut", '{"state": '),
        ("list", "[1]"),
        ("stateless", "{}"),
        ("odd", '{"state": "x", "metrics": 3}'),
        ("timed", '{"state": "finished", "wall_s": "x"}'),
    ):
        folder = make(f"outputs/{name}")
        (folder / "run.json").write_text(text)
    ask()
    seen = capsys.readouterr().out
    assert "outputs/good" in seen and "1 run." in seen
    for name in ("cut", "list", "stateless", "odd", "timed"):
        assert sum(f"outputs/{name}/run.json" in line for line in seen.splitlines()) == 1
    ask(json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["state"] for line in lines].count(None) == 5 and sum(
        "problem" in line for line in lines
    ) == 5


def test_a_record_of_the_first_format_is_listed_and_filtered_by_hydra_s_config(make: Make) -> None:
    folder = make("outputs/old")
    record = json.loads((folder / "run.json").read_text())
    for key in ("config", "arm", "experiment", "verdict", "cost", "evaluation", "config_hash"):
        del record[key]
    (folder / "run.json").write_text(json.dumps({**record, "format": 1}))
    entry = read(folder)
    assert entry.config is None and entry.headline == SUCCESS and as_json(entry)["arm"] is None
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text(
        "name: x\ndata: {window: 8, same: '${data.window}'}\nat: '${hydra:runtime.output_dir}'\nsenses: [image]\n"
    )
    assert choose([read(folder)], where=["data.same=8", "senses=[image]", "at=${hydra:runtime.output_dir}"])
    assert not choose([read(folder)], where="data.window=4")


@pytest.mark.slow
def test_a_killed_process_turns_running_into_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from omegaconf import OmegaConf;"
        "from src.experiment.run_record import RunRecord;"
        "record = RunRecord(Path(sys.argv[1]), OmegaConf.create({'name': 'x'})); record.__enter__();"
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert [entry["state"] for entry in find([tmp_path])] == ["running"]
        os.kill(process.pid, signal.SIGKILL)
    (entry,) = find([tmp_path])
    assert entry["state"] == "killed" and choose([entry], state="killed") == [entry]
    assert "start it anew" in one.next_command(entry)


# ---------------------------------------------------------------- filters and order


def test_filters_choose_and_refuse(make: Make) -> None:
    make("multirun/lora/text,seed=0", arm="text", experiment="lora")
    make("multirun/lora/text,seed=1", arm="text", experiment="lora", seed=1, state="failed", error="a\nb")
    make("multirun/lora/vision,seed=0", arm="vision", experiment="lora", **{"config.data.window": 4})
    make("outputs/alone", started=(datetime.now(timezone.utc) - timedelta(days=3)).isoformat())
    entries = listed()

    def names(**filters: Any) -> set[str]:
        return {entry.path.split("/", 1)[1] for entry in choose(entries, **filters)}

    assert names() == {"lora/text,seed=0", "lora/text,seed=1", "lora/vision,seed=0", "alone"}
    assert names(state="failed") == {"lora/text,seed=1"}
    assert names(state=["failed", "finished"], arm="text") == {"lora/text,seed=0", "lora/text,seed=1"}
    assert names(experiment="lora", seed=0) == {"lora/text,seed=0", "lora/vision,seed=0"}
    assert names(where=["data.window=4", "optimizer.lr<=1e-3"]) == {"lora/vision,seed=0"}
    assert names(where="data.window!=4", seed=1) == {"lora/text,seed=1"}
    assert names(since=2) == names() - {"alone"} and names(since=4) == names()
    for wrong, advice in (
        ({"state": "fail"}, "did you mean failed"), ({"arm": "txt"}, "did you mean text"),
        ({"experiment": "lor"}, "did you mean lora"), ({"where": "data.windows=1"}, "did you mean data.window"),
    ):  # fmt: skip
        with pytest.raises(ProjectError, match=advice):
            choose(entries, **wrong)  # type: ignore[arg-type]


def test_order_puts_what_has_no_value_last_either_way(make: Make) -> None:
    for name, error in (("a", 0.3), ("b", 0.1), ("c", None)):
        make(f"outputs/{name}", metrics={} if error is None else {"offline/error": error}, checkpoints={})
    entries = listed()
    up = [e.folder.name for e in order(entries, "metric", "offline/error")]
    down = [e.folder.name for e in order(entries, "-metric", "offline/error")]
    assert up == ["b", "a", "c"] and down == ["a", "b", "c"]
    with pytest.raises(ProjectError, match="did you mean metric"):
        order(entries, "metrc")


@given(st.lists(st.tuples(st.none() | st.integers(0, 9), st.none() | st.floats(0, 1)), max_size=12),
       st.sampled_from(listing.SORTS), st.booleans())  # fmt: skip
def test_any_order_keeps_every_run(
    runs: list[tuple[int | None, float | None]], sort: str, down: bool
) -> None:
    entries = [
        Entry(
            Path(f"r{i}"),
            {"state": "finished", "seed": seed, "wall_s": wall, "metrics": {"m": wall} if wall else {}},
        )
        for i, (seed, wall) in enumerate(runs)
    ]
    assert set(order(entries, ("-" if down else "") + sort, "m")) == set(entries)


def test_the_metric_is_success_on_the_first_suite_else_the_best_loss(make: Make) -> None:
    (
        make("outputs/a"),
        make("outputs/b", metrics={}),
        make("outputs/c", metrics={"best/val_loss": 1.0}, checkpoints={}),
    )
    a, b, c = sorted(listed(), key=lambda entry: entry.path)
    assert a.headline == SUCCESS
    assert b.headline == "best/val/loss", "a run that is not over: of the checkpoint that it has"
    assert c.headline == "best/val_loss", "an imported run with its own names"
    assert known_metric("cost/train_minutes", [a]) == "cost/train_minutes"
    with pytest.raises(ProjectError, match=f"near are {SUCCESS}"):
        known_metric("success", [a, b, c])
    with pytest.raises(ProjectError, match="offline/error"):
        known_metric("offline/eror", [a])


# ---------------------------------------------------------------- the table


def test_without_a_terminal_everything_is_there_in_full(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "multirun/" + "very_long_name_" * 10 + "/text,seed=0"
    make(long, arm="text", experiment="lora")
    make("outputs/bad", state="failed", error="data.root: nothing there.\nmore", metrics={}, checkpoints={})
    ask()
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == ["run", "state", "arm", "seed", "success", "minutes", "listens/looks", "age"]
    row = next(line for line in lines if line.startswith(long))
    assert row.split()[1:5] == ["finished", "text", "0", "0.5"] and "yes/open" in row and "\x1b" not in out
    assert "outputs/bad: data.root: nothing there." in lines and "more" not in lines
    ask(errors=True, state="failed")
    assert "more" in capsys.readouterr().out.splitlines()
    ask(limit=1)
    assert "1 of 2 runs; limit=null shows all." in capsys.readouterr().out


def test_runs_with_different_figures_say_which_is_which(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make("outputs/a"), make("outputs/b", metrics={})
    ask(sort="run")
    lines = capsys.readouterr().out.splitlines()
    assert "0.5 a" in lines[1] and "0.25 b" in lines[2]
    assert lines[3:5] == [f"a  {SUCCESS}", "b  best/val/loss"]


@given(st.integers(40, 200), st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "M", "Z"]),
       min_size=1, max_size=60), min_size=1, max_size=5))  # fmt: skip
def test_no_line_is_wider_than_the_terminal(width: int, names: list[str]) -> None:
    entries = [
        Entry(Path("outputs") / name.replace("/", "-"), {"state": "interrupted", "arm": name[:12], "seed": 0,
              "wall_s": 60.0, "metrics": {"best/val/loss": 0.123456}, "verdict": {"listens": "yes", "looks": "no"},
              "started": "2026-01-01T00:00:00+00:00"})
        for name in names
    ]  # fmt: skip
    columns, _ = screen.columns_of(entries, None, short=True)
    rows = screen.lay_out(columns, width)
    assert all(cell_len("  ".join(cells)) <= width for cells in rows)
    assert all("interrupted" in cells for cells in (row[1] for row in rows[1:])), "the state is never cut"
    full = screen.lay_out(columns, None)
    assert [row[0].rstrip() for row in full[1:]] == list(columns[0].cells), "without a width nothing is"


def test_a_hundred_columns_hold_the_whole_table(make: Make) -> None:
    make("multirun/lora_placement/everywhere,seed=0", arm="everywhere", experiment="lora_placement")
    columns, _ = screen.columns_of(listed(), None, short=True)
    (heading, row) = screen.lay_out(columns, 100)
    assert len(heading) == 8 and len("  ".join(row)) <= 100
    narrow = screen.lay_out(columns, 60)
    assert [cell.strip() for cell in narrow[0]][:2] == ["run", "state"] and len("  ".join(narrow[1])) <= 60


# ---------------------------------------------------------------- one run


@pytest.mark.parametrize(
    ("changes", "files", "expected"),
    [
        ({}, ["report.json"], "look at "),
        ({}, [], "python -m src.evaluate "),
        ({"arm": "text", "experiment": "lora"}, ["report.json"], "python -m src.compare experiment=lora"),
        ({"state": "interrupted", "stage": "training"}, ["checkpoints/last.ckpt"], "python -m src.train 'resume="),
        ({"state": "failed", "stage": "training"}, [], "start it anew"),
        ({"state": "failed", "stage": "evaluation"}, ["checkpoints/last.ckpt"], "python -m src.evaluate "),
        ({"state": "pruned"}, [], "nothing"),
        ({"state": "imported"}, [], "python -m src.runs 'diff="),
    ],
)  # fmt: skip
def test_one_run_tells_what_comes_next(make: Make, changes: Any, files: list[str], expected: str) -> None:
    folder = make("multirun/lora/text,seed=0", **changes)
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    lines = list(one.lines(resolve("text,seed=0", listed())))
    assert lines[0] == "run      multirun/lora/text,seed=0" and lines[-1].startswith(f"next     {expected}")
    text = "\n".join(lines)
    assert (
        f"{SUCCESS} = 0.5" in text
        and "verdict  success 50 %" in text
        and "command" in text
        and len(lines) < 25
    )


def test_the_next_command_is_one_that_a_shell_and_hydra_read(make: Make) -> None:
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    folder = make("multirun/lora/text,seed=0")
    *_, argument = shlex.split(one.next_command(read(folder)))
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert override.value() == "multirun/lora/text,seed=0"


def test_a_run_is_named_by_any_part_that_is_its_own(make: Make) -> None:
    make("multirun/lora/text,seed=0"), make("multirun/lora/text,seed=1"), make("outputs/text")
    entries = listed()
    assert resolve("seed=1", entries).path == "multirun/lora/text,seed=1"
    assert resolve("text", entries).path == "outputs/text", "a whole name comes before a part"
    assert resolve("outputs/text", []).path == "outputs/text", "a folder needs no list"
    with pytest.raises(ProjectError, match="found 2 such runs, expected one: multirun"):
        resolve("lora", entries)
    with pytest.raises(ProjectError, match="found 0 such runs, expected one; nearest are outputs/text"):
        resolve("outputs/txt", entries)


# ---------------------------------------------------------------- two runs


def test_a_difference_is_found_wherever_it_lies_and_what_is_the_same_is_said(make: Make) -> None:
    make("outputs/a")
    b = make(
        "outputs/b", **{"config.data.window": 4, "config.run_folder": "elsewhere", "machine.host": "other"}
    )
    record = json.loads((b / "run.json").read_text())
    record["metrics"][SUCCESS] = 0.75
    (b / "run.json").write_text(json.dumps(record))
    lines = list(pair.lines(read(Path("outputs/a")), read(b)))
    same = next(line for line in lines if line.startswith("same: "))
    for part in (
        "same code",
        "same packages",
        "same data",
        "same split",
        "same sentences",
        "same evaluation",
    ):
        assert part in same
    assert "same config" not in same and "same machine" not in same
    assert "  data.window  8 → 4" in lines and any(line.strip().startswith("host") for line in lines)
    assert not any("run_folder" in line for line in lines), "where a run lies is no difference"
    figures = [
        line.split() for line in lines[lines.index(next(x for x in lines if x.startswith("figures: "))) :]
    ]
    assert [SUCCESS, "0.5", "0.75", "+0.25"] in figures


def test_two_unknowns_are_not_the_same(make: Make) -> None:
    make("outputs/a", code=None, data={}, model={}), make("outputs/b", code=None)
    lines = list(pair.lines(read(Path("outputs/a")), read(Path("outputs/b"))))
    assert "unknown, neither run recorded it: code." in lines
    assert "unknown, a did not record it: data, split, sentences, base model." in lines
    assert "same code" not in lines[2] and "same data" not in lines[2]


def test_uncommitted_changes_are_summed_up_file_by_file(make: Make) -> None:
    code = {"sha": "abc", "branch": "main", "dirty": True}
    a, b = (
        make("outputs/a", code={**code, "diff_sha256": "1"}),
        make("outputs/b", code={**code, "diff_sha256": "2"}),
    )
    block = "diff --git a/{0} b/{0}\n--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-old\n+new\n{1}"
    (a / "changes.diff").write_text(block.format("src/x.py", "") + block.format("same.py", ""))
    (b / "changes.diff").write_text(block.format("src/x.py", "+more\n") + block.format("same.py", ""))
    lines = [line.strip() for line in pair.lines(read(a), read(b))]
    assert "src/x.py: a +1 -1, b +2 -1" in lines and not any(line.startswith("same.py") for line in lines)


# ---------------------------------------------------------------- the program


@pytest.mark.slow
def test_five_hundred_runs_take_no_heavy_import_and_little_time(make: Make, tmp_path: Path) -> None:
    for index in range(500):
        make(f"multirun/x/arm,seed={index}", seed=index)
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "src.runs",
        f"folders=[{tmp_path}/multirun]",
        "limit=null",
    ]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "where=data.window=8"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - began
    assert done.returncode == 0 and "500 runs." in done.stdout, done.stderr[-2000:]
    imported = {
        line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert not imported & {"torch", "lightning", "transformers", "wandb", "optuna"}
    assert took < 15, "3 s on an idle core; this bound is for a busy one"


# ---------------------------------------------------------------- odd records and wrong questions


@pytest.mark.parametrize("sort", ["metric", "-metric", "seed", "-seed"])
def test_odd_values_stand_last_either_way_and_the_list_goes_on(
    sort: str, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {"nan": float("nan"), "null": None, "word": "high"}
    for name, value in odd.items():
        make(f"outputs/{name}", **{f"metrics.{SUCCESS}": value})
    for seed, value in enumerate((0.25, 0.75)):
        make(f"outputs/{seed}", seed=seed + 1, **{f"metrics.{SUCCESS}": value})
    make("outputs/worded", seed="first", **{f"metrics.{SUCCESS}": 0.5})
    ask(sort=sort, metric=SUCCESS, json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 6
    if "metric" in sort:
        values = [row["value"] for row in rows[:3]]
        assert values == sorted([0.25, 0.5, 0.75], reverse=sort.startswith("-"))
    else:
        seeds = [0, 0, 0, 1, 2, "first"]
        assert [row["seed"] for row in rows] == (seeds[::-1] if sort.startswith("-") else seeds)
    ask(sort=sort)
    assert "6 runs." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nan", "null", "word"])
def test_a_run_with_an_odd_figure_is_shown_and_set_side_by_side(name: str, make: Make) -> None:
    value = {"nan": float("nan"), "null": None, "word": "high"}[name]
    odd, good = make("outputs/odd", **{f"metrics.{SUCCESS}": value}), make("outputs/good")
    assert list(one.lines(read(odd)))[-1].startswith("next")
    assert any("figures: 1 differ" in line for line in pair.lines(read(odd), read(good)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"folders": ["outputs", "/nonexistent"]}, ("folders", "/nonexistent")),
        ({"limit": -3}, ("limit", "-3", "limit=null")),
        ({"diff": ["text-seed0", "nonsense"]}, ("nonsense", "found 0", "nearest are", "text-seed0")),
        ({"diff": ["text-seed0", "texd-seed1"]}, ("texd-seed1", "nearest are multirun/lora/text-seed1,")),
    ],
)
def test_a_wrong_question_is_one_sentence(changes: Any, words: tuple[str, ...], make: Make) -> None:
    make("multirun/lora/text-seed0")
    make("multirun/lora/text-seed1")
    with pytest.raises(ProjectError) as caught:
        ask(**changes)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_folders_that_the_first_run_makes_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ask()
    assert "No runs below outputs, multirun" in capsys.readouterr().out


def test_bases_whose_frozen_weights_differ_are_the_same_by_id_and_revision_alone(make: Make) -> None:
    model = {"config.model": {"unfreeze": 1}}
    a = read(make("outputs/a"))
    text = "\n".join(
        pair.lines(a, read(make("outputs/b", **model, **{"model.base_model.fingerprint": "f2"})))
    )
    assert "same base model (id and revision)" in text
    for name, changes in (("c", {}), ("d", model)):
        text = "\n".join(pair.lines(a, read(make(f"outputs/{name}", **changes))))
        assert "same base model" in text and "(id and revision)" not in text
    text = "\n".join(pair.lines(a, read(make("outputs/e", **{"model.base_model.fingerprint": "f2"}))))
    assert "base model: 1 differ" in text
