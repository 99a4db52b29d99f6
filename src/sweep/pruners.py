"""Owns the pruners that conf/hydra/sweeper/pruner names: who ends a trial early, after a validation that lags behind.

In: the keys of a YAML. Out: an Optuna pruner, built once in the sweep and once in every trial. A step is a validation.
"""

import optuna


def none() -> optuna.pruners.BasePruner:
    """Every trial runs to its end."""
    return optuna.pruners.NopPruner()


def median(
    n_startup_trials: int, n_warmup_steps: int, interval_steps: int, n_min_trials: int
) -> optuna.pruners.BasePruner:
    """Ends a trial whose best value so far is worse than the median of the others at the same validation.

    Args:
        n_startup_trials: trials that run to their end before any is judged.
        n_warmup_steps: validations of a trial that are not judged.
        interval_steps: validations between two judgements.
        n_min_trials: others that must have reached this validation.
    """
    return optuna.pruners.MedianPruner(
        n_startup_trials=n_startup_trials,
        n_warmup_steps=n_warmup_steps + 1,  # Optuna counts steps from 0, validations count from 1
        interval_steps=interval_steps,
        n_min_trials=n_min_trials,
    )


def hyperband(min_resource: int, max_resource: int, reduction_factor: int) -> optuna.pruners.BasePruner:
    """Hyperband (Li et al. 2018): successive halving at several strictnesses at once.

    Args:
        min_resource: validations before a trial can end.
        max_resource: validations of a whole run.
        reduction_factor: one of so many goes on at every rung.
    """
    return optuna.pruners.HyperbandPruner(
        min_resource=min_resource, max_resource=max_resource, reduction_factor=reduction_factor
    )
