"""Turns the files a user writes into typed values, and names file, key and mend of every mistake in them."""

from edgedeploy.plan.mistakes import did_you_mean
from edgedeploy.plan.reading import load_fleet, load_plan, load_profiles, suited_to
from edgedeploy.plan.ready import ReadyRecipe, ready_recipe, ready_recipes
from edgedeploy.plan.values import FLEET_FILE, PLAN_FILE, Fleet, Goal, Mode, Objective, Plan

__all__ = [
    "FLEET_FILE",
    "PLAN_FILE",
    "Fleet",
    "Goal",
    "Mode",
    "Objective",
    "Plan",
    "ReadyRecipe",
    "did_you_mean",
    "load_fleet",
    "load_plan",
    "load_profiles",
    "ready_recipe",
    "ready_recipes",
    "suited_to",
]
