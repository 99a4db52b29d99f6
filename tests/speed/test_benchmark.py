"""The command as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.core.errors import ProjectError

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "src.benchmark", *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_measures_every_part(small_overrides: list[str], tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- benchmark:begin --><!-- benchmark:end -->")
    train = "[" + ",".join(f'"{one}"' for one in small_overrides) + "]"
    done = run(
        f"benchmark.train={train}", "benchmark.rounds=1", "benchmark.steps=1", "benchmark.latency_steps=5",
        "benchmark.ways=[sliding,encode_once,cached]", f"benchmark.out={tmp_path / 'out'}",
        f"benchmark.write=[{readme}]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == json.loads(next((tmp_path / "out").glob("*.json")).read_text())
    assert {"machine", "packages", "threads", "date", "command", "train", "training", "inference", "pipeline",
            "start_up"} <= result.keys()  # fmt: skip
    assert set(result["training"]["ways"]) == {"sliding", "encode_once", "cached"}
    assert set(result["training"]["ratios"]) == {"encode_once", "cached"}
    assert result["training"]["ways"]["cached"]["features"].startswith("latents")
    assert result["inference"]["p50_ms"]["value"] > 0 and result["inference"]["floor_ms"] > 0
    assert result["pipeline"]["frames_per_s"]["median"] > 0
    assert result["start_up"]["help"]["wall_s"]["median"] > 0 < result["start_up"]["first_step"]["wall_s"]
    assert "| encode_once |" in readme.read_text()


@pytest.mark.slow
def test_every_line_of_the_gpu_script_runs_on_a_cpu(
    small_data: Path, tmp_path: Path, compose: object
) -> None:
    from src.core.config import build

    cfg = compose("benchmark", "benchmark=kosmos2_small")  # type: ignore[operator]
    cfg.benchmark.out = str(tmp_path / "out")
    cfg.benchmark.weights.folder = str(tmp_path / "weights")
    cfg.benchmark.rounds = 1
    cfg.benchmark.train = [
        *cfg.benchmark.train,
        f"data.root={small_data}",
        "data.source=null",
        "data.window=3",
    ]
    result = build(cfg.benchmark).run()
    assert set(result["training"]["ways"]) == {"sliding", "encode_once", "cached", "no_checkpointing"}
    assert [row["episodes_per_batch"] for row in result["memory"]] == [1, 2, 1, 2]
    assert all(row["peak_memory_gb"] > 0 for row in result["memory"])
    assert "bf16" in result["training"]["ways"]["sliding"]["peak"]["source"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
def test_the_full_size_asks_for_a_gpu(compose: object) -> None:
    from src.core.config import build

    with pytest.raises(ProjectError, match="found no GPU"):
        build(compose("benchmark", "benchmark=kosmos2").benchmark).run()  # type: ignore[operator]


def test_a_wrong_count_is_refused(compose: object) -> None:
    from src.core.config import build

    with pytest.raises(ProjectError, match=r"benchmark\.rounds: found 0"):
        build(compose("benchmark", "benchmark.rounds=0").benchmark)  # type: ignore[operator]
