"""Owns the refusal: runs stand in one table only if they differ in nothing but what is compared, and the seed.

In: the plan and its runs. Out: every `Difference`, by key, with the values and whose they are. Three rules: a leaf of
the config that is not compared is equal in all runs (in all runs of one seed, where it follows the seed); a compared
leaf is what the definition says of its arm today; and the facts that no config holds (hashes of data, split and words,
suite version, base weights, code, packages) are equal too. What nobody recorded is `unknown`, never equal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from src.comparison.definition import RUN_FOLDER, is_plan
from src.comparison.plan import Plan, covers
from src.comparison.run import IMPORTED, Run
from src.core.errors import ProjectError
from src.core.leaves import leaves

UNKNOWN = "unknown"
ABSENT = "absent"
_HERE = {"data.root": "data.data_hash"}
"""Leaves that say where something lies → the fact that says what it is: equal there, the place may differ."""
_FOLLOWED_BY = {"data.split": ("data.split_hash", "data.splits"), "data.source": ("data.",), "data.root": ("data.",),
                "data.instruction": ("data.instruction",)}  # fmt: skip
"""Leaves that may follow the seed → facts that then follow it as well."""


@dataclass(frozen=True)
class Difference:
    """One thing in which runs differ that should not."""

    key: str
    """A leaf of the config (`data.window`) or a fact (`code`, `packages.torch`)."""
    rule: Literal["held fixed", "definition", "fact", "unknown"]
    values: tuple[tuple[str, tuple[str, ...]], ...]
    """Value → the runs that have it, `arm, seed`."""
    within_arm: bool = False
    """Whether runs of one arm differ in it, and not only the arms."""

    def sentence(self) -> str:
        """`trainer.max_epochs: 2 (text, seed 0; …), 3 (vision, seed 1)`."""
        return f"{self.key}: " + ", ".join(f"{value} ({_some(runs)})" for value, runs in self.values)


def differences(plan: Plan, runs: Sequence[Run]) -> list[Difference]:
    """All differences between `runs` beyond what `plan` compares, sorted by rule and key."""
    found = [*_config(plan, runs), *_definition(plan, runs)]
    named = {one.key for one in found}
    found += [one for one in _facts(plan, runs) if one.key not in named]
    order = {"held fixed": 0, "definition": 1, "fact": 2, "unknown": 3}
    return sorted(found, key=lambda one: (order[one.rule], one.key))


def split(
    plan: Plan, found: Iterable[Difference], allow: Collection[str]
) -> tuple[list[Difference], list[str]]:
    """(refused, sentences on what is allowed). `allow`: from the command line; the plan's `may_differ` holds between
    arms only: inside one arm nothing may differ but the seed."""
    refused, sentences = [], []
    unknown: dict[tuple[str, ...], list[str]] = {}
    for one in found:
        if one.rule == "unknown" and "unknown" in allow:
            unknown.setdefault(one.values[0][1], []).append(one.key)
        elif any(covers(name, one.key) for name in allow):
            sentences.append(f"Allowed to differ: {one.sentence()}.")
        elif (
            one.rule in ("fact", "held fixed")
            and any(covers(name, one.key) for name in plan.may_differ)
            and not one.within_arm
        ):
            sentences.append(f"Differs because of what is compared: {one.sentence()}.")
        else:
            refused.append(one)
    for who, keys in unknown.items():
        sections = dict.fromkeys(
            ".".join(key.split(".")[: 2 if key.startswith("data.") else 1]) for key in keys
        )
        sentences.append(f"Not recorded of {_some(who)}: {', '.join(sections)}.")
    return refused, sentences


def refuse(refused: Sequence[Difference]) -> None:
    """Stop where anything is left.

    Raises:
        ProjectError: the keys, and what to do.
    """
    if not refused:
        return
    keys = ", ".join(one.key for one in refused[:6]) + (" …" if len(refused) > 6 else "")
    changed = [one.key for one in refused if one.rule == "definition"]
    after = (
        f" The experiment's file was changed after the runs ({', '.join(changed[:3])}): change it back, or run again."
        if changed
        else ""
    )
    names = ",".join(dict.fromkeys(_allowance(one) for one in refused[:12]))
    raise ProjectError(
        f"compare: found runs that differ in {keys}, expected no difference beyond what is compared and the seed; run "
        f"them again alike, or say that it does not matter with allow=[{names}].{after}"
    )


def _allowance(one: Difference) -> str:
    return "unknown" if one.rule == "unknown" else "packages" if covers("packages", one.key) else one.key


def machines(runs: Sequence[Run]) -> list[str]:
    """A sentence on the cost columns where the runs were made on several kinds of machine."""
    kinds: dict[str, list[str]] = {}
    for run in runs:
        if any(value is not None for value in run.cost.values()):
            kinds.setdefault(run.machine or UNKNOWN, []).append(label(run))
    if len(kinds) < 2:
        return []
    listed = "; ".join(f"{machine} ({_some(who)})" for machine, who in sorted(kinds.items()))
    return [f"Minutes, memory and step time come from different machines and do not compare: {listed}."]


def of_values(runs: Sequence[Run], values: Mapping[str, object]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """`Difference.values` of `values[run.id]`."""
    listed: dict[str, list[str]] = {}
    for run in runs:
        listed.setdefault(_text(values[run.id]), []).append(label(run))
    return tuple((text, tuple(sorted(who))) for text, who in sorted(listed.items()))


def changed_since(plan: Plan, runs: Sequence[Run]) -> list[str]:
    """Sentences on what all runs hold fixed at another value than the definition names today."""
    sentences: dict[str, str] = {}
    for run in runs:
        said = plan.expected.get(str(run.arm))
        if said is None:
            continue
        for key, value in _leaves(run).items():
            free = is_plan(key) or key in plan.follows or any(covers(name, key) for name in plan.compared)
            if not free and said.get(key, ABSENT) != value:
                sentences[key] = (
                    f"{key}: all runs have {value!r}, the experiment would now use {said.get(key, ABSENT)!r}."
                )
    return [sentences[key] for key in sorted(sentences)]


def label(run: Run) -> str:
    """`text, seed 0`."""
    return (
        f"{run.arm}, seed {run.seed}"
        if run.seed is not None and run.seed >= 0
        else f"{run.arm}, seed unknown"
    )


def code_of(run: Run) -> str:
    """`9595926`, with ` + changes 1a2b3c4d` where it was not committed."""
    sha = run.code.get("sha")
    if not sha:
        return UNKNOWN
    changes = f" + changes {str(run.code.get('diff_sha256'))[:8]}" if run.code.get("dirty") else ""
    return f"{str(sha)[:7]}{changes}"


def _config(plan: Plan, runs: Sequence[Run]) -> Iterator[Difference]:
    # The settings of an imported run are those of another program: they compare among their own kind alone.
    foreign = {run.id for run in runs if run.state == IMPORTED}
    if len(foreign) == len(runs):
        foreign = set()
    known = [run for run in runs if run.config and run.id not in foreign]
    yield from _unknown("config", [run for run in runs if run not in known])
    flat = {run.id: _leaves(run) for run in known}
    for key in sorted({key for one in flat.values() for key in one}):
        if is_plan(key) or any(covers(name, key) for name in plan.compared):
            continue
        if key in _HERE and len({_fact(run, _HERE[key]) for run in runs}) == 1:
            continue
        values = {run.id: flat[run.id].get(key, ABSENT) for run in known}
        yield from _unequal(
            key, "held fixed", known, values, _of_its_seed if key in plan.follows else _of_all
        )


def _definition(plan: Plan, runs: Sequence[Run]) -> Iterator[Difference]:
    """Compared leaves that are not what the arm's definition says; nothing for arms from elsewhere."""
    wrong: dict[str, dict[tuple[str, str], list[str]]] = {}
    for run in runs:
        said = plan.expected.get(str(run.arm))
        if said is None or not run.config:
            continue
        has = _leaves(run)
        for key in plan.compared:
            pair = said.get(key, ABSENT), has.get(key, ABSENT)
            if pair[0] != pair[1]:
                wrong.setdefault(key, {}).setdefault((_text(pair[0]), _text(pair[1])), []).append(label(run))
    for key, pairs in sorted(wrong.items()):
        yield Difference(
            key,
            "definition",
            tuple((f"{has}, the file says {said}", tuple(who)) for (said, has), who in sorted(pairs.items())),
        )


def _facts(plan: Plan, runs: Sequence[Run]) -> Iterator[Difference]:
    facts = {run.id: facts_of(run) for run in runs}
    yield from _unknown("packages", [run for run in runs if not run.packages])
    for name in sorted({name for one in facts.values() for name in one}):
        if any(covers(key, name) for key in plan.compared):
            continue
        if name.startswith("base_model.") and any(covers("model.backbone", key) for key in plan.compared):
            continue
        # A package that one run has and another has not is a difference; any other fact should be there.
        is_package = name.startswith("packages.")
        values = {run.id: facts[run.id].get(name, ABSENT if is_package else UNKNOWN)
                  for run in runs if run.packages or not is_package}  # fmt: skip
        yield from _unknown(name, [run for run in runs if values.get(run.id) == UNKNOWN])
        known = [run for run in runs if values.get(run.id, UNKNOWN) != UNKNOWN]
        yield from _unequal(name, "fact", known, values, _group_of(plan, name))


def facts_of(run: Run) -> dict[str, Any]:
    """What must agree and stands in no config, by name; `unknown` where the record does not say it."""
    data: Mapping[str, Any] = run.data
    facts: dict[str, Any] = {
        "data.data_hash": _fact(run, "data.data_hash"),
        "data.split_hash": _fact(run, "data.split_hash"),
        "data.instruction.hash": (data.get("instruction") or {}).get("hash") or UNKNOWN,
        "base_model.fingerprint": (run.base_model or {}).get("fingerprint") or UNKNOWN,
        "base_model.id": run.base_model.get("id") if run.base_model else UNKNOWN,
        "base_model.revision": run.base_model.get("revision") if run.base_model else UNKNOWN,
        "code": code_of(run),
    }
    facts |= (
        {f"data.splits.{key}": value for key, value in leaves(data["splits"])} if data.get("splits") else {}
    )
    facts |= {f"packages.{name}": version for name, version in run.packages.items()}
    # Runs that measured nothing have no settings, and no figures either.
    facts |= {f"evaluation.{name}": value for name, value in run.evaluation.items()}
    return facts


def _group_of(plan: Plan, fact: str) -> Callable[[Run], object]:
    """Among which runs a fact must agree: all, those of one seed, or those of one arm."""
    if fact == "base_model.fingerprint" and any(covers("model", key) for key in plan.compared):
        # It is the hash of what does not train, so it is another one where something else trains.
        return _of_its_arm
    follows = any(
        fact.startswith(followed)
        for leaf, facts in _FOLLOWED_BY.items()
        if any(covers(leaf, key) for key in plan.follows)
        for followed in facts
    )
    return _of_its_seed if follows else _of_all


def _of_all(_: Run) -> object:
    return None


def _of_its_seed(run: Run) -> object:
    return run.seed


def _of_its_arm(run: Run) -> object:
    return run.arm


def _fact(run: Run, name: str) -> Any:
    return run.data.get(name.removeprefix("data.")) or UNKNOWN


def _unequal(
    key: str,
    rule: Literal["held fixed", "fact"],
    runs: Sequence[Run],
    values: Mapping[str, object],
    group: Callable[[Run], object],
) -> Iterator[Difference]:
    """The difference in `values[run.id]` among runs of the same `group(run)`, if there is one."""
    groups: dict[object, dict[str, list[Run]]] = {}
    for run in runs:
        groups.setdefault(group(run), {}).setdefault(_text(values[run.id]), []).append(run)
    merged: dict[str, list[Run]] = {}
    within_arm = False
    for found in groups.values():
        if len(found) > 1:
            arms = [{run.arm for run in who} for who in found.values()]
            within_arm |= len(set().union(*arms)) < sum(map(len, arms))
            for text, who in found.items():
                merged.setdefault(text, []).extend(who)
    if merged:
        listed = tuple((text, tuple(sorted(map(label, who)))) for text, who in sorted(merged.items()))
        yield Difference(key, rule, listed, within_arm)


def _unknown(key: str, runs: Sequence[Run]) -> Iterator[Difference]:
    if runs:
        who = tuple(sorted(label(run) for run in runs))
        yield Difference(key, "unknown", ((UNKNOWN, who),))


def _leaves(run: Run) -> dict[str, Any]:
    """The run's config, flat, with its own folder replaced: a moved run is the same run."""
    own = run.config.get("run_folder")
    flat = dict(leaves(run.config))
    if own:
        flat = {
            key: value.replace(str(own), RUN_FOLDER) if isinstance(value, str) else value
            for key, value in flat.items()
        }
    return flat


def _text(value: Any) -> str:
    """A value as JSON; 2 and 2.0 are one number, however they were stored."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)


def _some(who: Sequence[str]) -> str:
    return "; ".join(who[:3]) + (f" and {len(who) - 3} more" if len(who) > 3 else "")
