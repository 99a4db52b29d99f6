"""Owns what a running trial tells its study, from whatever process it runs in.

In: where the study is, the trial's number, values as they become known. Out: intermediate values in the study, and the
pruner's answer whether to go on.
"""

from __future__ import annotations

import optuna

from src.core.errors import ProjectError
from src.sweep.storage import close, open_storage, readable


class Reporter:
    """One trial of one study.

    Args:
        storage: path of a journal or URL of a database.
        study: name of the study.
        number: of the trial.
        pruner: decides; see conf/hydra/sweeper/pruner.

    Raises:
        ProjectError: the study is not there, or the trial is over.
    """

    def __init__(self, storage: str, study: str, number: int, pruner: optuna.pruners.BasePruner) -> None:
        opened = open_storage(storage)
        try:
            # A random sampler, because nothing is asked here and others would look at the whole history.
            found = optuna.load_study(
                study_name=study, storage=opened, sampler=optuna.samplers.RandomSampler(), pruner=pruner
            )
            trial_id = opened.get_trial_id_from_study_id_trial_number(found._study_id, number)
        except KeyError as error:
            raise ProjectError(
                f"trial: found no trial {number} of a study {study} in {storage}, expected the study of this sweep; "
                "set trial=null to run without one."
            ) from error
        state = opened.get_trial(trial_id).state
        if state != optuna.trial.TrialState.RUNNING:
            raise ProjectError(
                f"trial: found trial {number} of {study} to be over ({state.name.lower()}), expected it to run; set "
                "trial=null to run without a study."
            )
        self._place, self._storage, self._trial_id = storage, opened, trial_id
        self._trial = optuna.trial.Trial(found, trial_id)

    def report(self, value: float, step: int) -> bool:
        """Tell the value after validation `step` (1, 2, …); True: the pruner gives the trial up.

        A step that was told before, by the process that this one goes on for, is not told again.
        """
        with readable(self._place):
            if step not in self._storage.get_trial(self._trial_id).intermediate_values:
                self._trial.report(value, step)
            return bool(self._trial.should_prune())

    def close(self) -> None:
        """Give the connection back."""
        close(self._storage)
