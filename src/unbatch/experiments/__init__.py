"""Experiments of any size: a plan whose lists multiply to trials, executors that run them, and a store that survives a kill."""

from unbatch.experiments.plan import Plan, load_plan
from unbatch.experiments.running import Tally, execute_plan
from unbatch.experiments.trial import Trial, TrialResult, run_trial

__all__ = ["Plan", "Tally", "Trial", "TrialResult", "execute_plan", "load_plan", "run_trial"]
