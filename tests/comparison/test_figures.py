"""Every figure that a report makes has a heading, a direction and bounds; the rest is refused."""

import re

import pytest

from src.comparison import figures
from src.core.errors import ProjectError

HEADINGS = {
    "closed_loop/full1/layout/policy/success": ("success full1 (%)", "max", 100.0),
    "closed_loop/full1/look/policy/collision": ("collision full1/look (%)", "min", 100.0),
    "closed_loop/route1/layout/expert/spl": ("SPL route1, expert (%)", "max", 100.0),
    "closed_loop/full1/layout/policy/path_error": ("path error full1 (m)", "min", 1.0),
    "closed_loop/full1/layout/policy/steps": ("steps full1", None, 1.0),
    "offline/error": ("error (% of half range)", "min", 100.0),
    "offline/mae/linear_x": ("MAE linear_x (m/s)", "min", 1.0),
    "offline/rmse/angular_z": ("RMSE angular_z (rad/s)", "min", 1.0),
    "offline/horizon/3": ("error at step 3 (% of half range)", "min", 100.0),
    "offline/direction_accuracy": ("direction (%)", "max", 100.0),
    "probes/driven/swapped/success_swapped": ("success, swapped words (%)", "max", 100.0),
    "probes/driven/blank/success": ("success, blank words (%)", None, 100.0),
    "probes/recorded/no_image/change": ("no image: action moves (%)", None, 100.0),
    "best/val/loss": ("validation loss", "min", 1.0),
}


@pytest.mark.parametrize("name", HEADINGS)
def test_a_figure_has_its_heading_direction_and_scale(name: str) -> None:
    column = figures.column(name)
    assert (column.name, column.better, column.scale) == HEADINGS[name]
    assert (column.key, column.kind) == (name, "metric")


def test_one_name_fits_one_description() -> None:
    for name in HEADINGS:
        fitting = [one.heading for one in figures.FIGURES if re.fullmatch(one.pattern, name)]
        assert len(fitting) == 1, (name, fitting)


def test_every_metric_of_the_experiments_is_described() -> None:
    import yaml

    from src.core.cli import CONF

    for path in sorted((CONF / "experiment").glob("*.yaml")):
        node = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("comparison") or {}
        for name in node.get("metrics", []):
            assert figures.column(name).name, (path.name, name)


def test_a_share_ends_at_0_and_1_and_an_error_at_0() -> None:
    assert figures.bounds("closed_loop/full1/layout/policy/success") == (0.0, 1.0)
    assert figures.bounds("offline/mae/linear_x")[0] == 0.0
    assert figures.bounds("probes/recorded/no_image/error_rise/difference")[0] < 0


def test_what_nobody_described_is_refused() -> None:
    with pytest.raises(ProjectError, match=r"offline/eror, did you mean offline/error"):
        figures.column("offline/eror", ["offline/error"])
    with pytest.raises(ProjectError, match=r"describe it in src/comparison/figures\.py"):
        figures.column("offline/new", ["offline/new"])
