"""Tables made by hand: a rich one as the statistics would give it, a grid, an empty one, and one of nasty names."""

from __future__ import annotations

from dataclasses import replace

from src.comparison.table import Cell, Column, Row, Table

SUCCESS = Column("closed_loop/full1/layout/policy/success", "success full1 (%)", "max", 100.0, 1, "metric")
ERROR = Column("offline/error", "error (% of half range)", "min", 100.0, 1, "metric")
SWAPPED = Column(
    "probes/driven/swapped/success_swapped", "success, swapped words (%)", "max", 100.0, 1, "metric"
)
WEIGHTS = Column("trainable_parameters", "trainable (M)", None, 1e-6, 3, "cost")
STEP = Column("latency_p50_ms", "step (ms)", None, 1.0, 1, "cost")
NASTY = (
    r"50%_of & #1 $x_i$ ^2 ~a {b} \c", "a|b*c*_d_`e`<b>", "[x]--y---z''", "한국어_팔", "é ± × – ≥ α µ",
    "https://x.org/a_b", "1. item", "- item", "!@", "-->", "$\\frac{1}{$", "\x00\x07", "文字", "*", "a\nb",
)  # fmt: skip


def cell(
    arm: str, column: Column, values: tuple[float, ...], half: float | None = 4.0, **more: object
) -> Cell:
    """A cell of `values`; its interval is made up: the mean ± `half`, cut at 0 and 100 where the figure is a share."""
    mean = sum(values) / len(values)
    top = 100.0 if "%" in column.name else 1e9
    interval = (None, None) if half is None else (max(0.0, mean - half), min(top, mean + half))
    seeds = tuple(range(len(values)))
    runs = tuple(f"multirun/lora_placement/{arm},seed={seed}" for seed in seeds)
    basis = None if half is None else ("run" if len(values) == 1 else "seeds")
    return Cell(mean, *interval, seeds, values, runs, basis=basis, **more)  # type: ignore[arg-type]


def row(arm: str, override: str, success: tuple[float, ...], error: tuple[float, ...], weights: float,
        success_more: dict[str, object], error_more: dict[str, object], **more: object) -> Row:  # fmt: skip
    reference = bool(more.get("reference"))
    verdict = {"verdict": "reference"} if reference else {}
    seeds = len(success)
    cells = {
        SUCCESS.key: cell(arm, SUCCESS, success, **{**verdict, **success_more}),  # type: ignore[arg-type]
        ERROR.key: cell(arm, ERROR, error, **{"half": 0.8, **verdict, **error_more}),  # type: ignore[arg-type]
        SWAPPED.key: cell(arm, SWAPPED, tuple(v * 0.9 for v in success), 6.0, **verdict),
        WEIGHTS.key: cell(arm, WEIGHTS, (weights,) * seeds, None),
        STEP.key: cell(arm, STEP, tuple(13.5 + 0.3 * i for i in range(seeds)), 0.7),
    }
    return Row(arm=arm, overrides=(override,), cells=cells, **{  # type: ignore[arg-type]
        "reference": False, "listens": f"{seeds} of {seeds}", "missing": (), **more,
    })  # fmt: skip


def rich() -> Table:
    """Six arms: one bold, one better, one worse, one open, one with a single seed, one without a figure."""
    rows = (
        row("head_only", "model/lora=head_only", (2.0, 3.0, 1.0), (31.2, 30.8, 31.9), 273935e-6,
            {"verdict": "worse", "difference": -87.0, "p": 0.0003}, {"verdict": "worse", "p": 0.001}, listens="0 of 3"),
        row("queries", "model/lora=none", (71.0, 64.0, 68.0), (18.9, 19.2, 18.1), 0.301,
            {"verdict": "worse", "difference": -21.3, "p": 0.012}, {"verdict": "open", "p": 0.31}),
        row("vision", "model/lora=vision", (86.0, 93.0, 83.0), (17.2, 16.9, 17.8), 0.355,
            {"verdict": "open", "difference": -1.7, "p": 0.62, "half": 9.0}, {"verdict": "open", "p": 0.4}),
        row("text", "model/lora=text_all_tiny", (89.0, 91.0, 87.0), (17.0, 17.3, 16.8), 0.371, {}, {}, reference=True),
        row("everywhere", "model/lora=all", (99.0, 98.0, 100.0), (14.1, 14.9, 14.4), 0.452,
            {"verdict": "better", "difference": 10.0, "p": 0.02, "bold": True},
            {"verdict": "better", "difference": -2.6, "p": 0.03, "bold": True}),
        row("projector", "model/lora=projector", (80.0,), (18.0,), 0.31, {"half": 7.8}, {"half": None},
            missing=(1, 2), listens="1 of 1", note="imported: config and code unknown"),
    )  # fmt: skip
    last = rows[-1]
    rows = (*rows[:-1], replace(last, cells={k: v for k, v in last.cells.items() if k != SWAPPED.key}))
    return Table(
        name="lora_placement",
        question="Where in the vision-language model should LoRA adapters sit?",
        columns=(SUCCESS, ERROR, SWAPPED, WEIGHTS, STEP),
        rows=rows,
        caption="Mean of 3 training seeds; success of 100 episodes per run. Paired t test over seeds, Holm-corrected "
        "over the arms. Bold: better than the reference and not below the best.",
        compared=("model.lora.dropout", "model.lora.target_modules"),
        warnings=(
            "projector has no finished run for seeds 1, 2.",
            "2 machines: step times are not comparable.",
        ),
        commands=(
            "git checkout 9595926",
            "python -m src.train --multirun experiment=lora_placement 'seed=0,1,2'",
            "python -m src.compare experiment=lora_placement",
        ),
        runs={
            run: f"{one.arm}, seed {seed}, commit 9595926, python -m src.train arm={one.arm} seed={seed}"
            for one in rows
            for run, seed in zip(one.cells[SUCCESS.key].runs, one.cells[SUCCESS.key].seeds, strict=True)
        },
    )


def crossed() -> Table:
    """Window × horizon, every combination once, one without a run."""
    rows = []
    for i, window in enumerate((1, 4, 16)):
        for j, horizon in enumerate((1, 4)):
            arm = f"w{window}h{horizon}"
            cells = (
                {}
                if (i, j) == (2, 1)
                else {SUCCESS.key: cell(arm, SUCCESS, (40.0 + 15 * i + 5 * j, 45.0 + 15 * i))}
            )
            rows.append(
                Row(arm, (f"data.window={window}", f"++data.horizon={horizon}"), arm == "w1h1", cells, "", ())
            )
    return replace(rich(), name="window_horizon", columns=(SUCCESS,), rows=tuple(rows), warnings=(), runs={})


def empty() -> Table:
    """No run has finished."""
    rows = tuple(Row(arm, (), arm == "text", {}, "", (0, 1, 2)) for arm in ("text", "vision"))
    return Table("nothing", "What is known?", (SUCCESS, WEIGHTS), rows, "Nothing.", (), (), (), {})


def named(*names: str) -> Table:
    """Rich in cells, with `names` for its arms, its headings, and all its prose."""
    base = rich()
    rows = tuple(
        replace(base.rows[i % len(base.rows)], arm=name, overrides=(f"key={name}",), note=name, listens=name)
        for i, name in enumerate(names)
    )
    columns = (replace(SUCCESS, name=names[0] or "x"), *base.columns[1:])
    return replace(
        base, rows=rows, columns=columns, question=" ".join(names), caption=names[-1], warnings=tuple(names),
        compared=tuple(names), commands=tuple(names), runs={name: name for name in names},
    )  # fmt: skip
