"""Every technique of the catalogue as the recipe that shows it: one line a technique, by family where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedeploy.plan import ready_recipes
from edgedeploy.records import Precision

Passes = tuple[Mapping[str, Any], ...]

MLP, CNN, GRU, TRANSFORMER = "digits MLP", "digits CNN", "digits GRU", "digits Transformer"


@dataclass(frozen=True, slots=True)
class Technique:
    """Passes as a plan names them; `families` holds those that one net wants otherwise, by the net's name."""

    name: str
    passes: Passes
    families: Mapping[str, Passes] = field(default_factory=dict)
    precision: Precision = Precision.FP32

    def of(self, net: str) -> Passes:
        """The passes for the net of this name."""
        return self.families.get(net, self.passes)


def _pass(kind: str, **settings: Any) -> Mapping[str, Any]:
    return {"kind": kind, **settings}


RECOVER_EPOCHS, RECOVER_LEARNING_RATE = 15, 2e-3
RECOVER = _pass("fine-tune", epochs=RECOVER_EPOCHS, learning_rate=RECOVER_LEARNING_RATE)
DISTIL = _pass("distil", epochs=RECOVER_EPOCHS, learning_rate=RECOVER_LEARNING_RATE, temperature=4.0)
GRADUALLY = _pass("prune-gradually", sparsity=0.9, epochs=30, learning_rate=3e-3)
FOLD = {"kind": "optional", "pass": _pass("fold-batch-norm")}  # exporting would, with a factor for each channel
CENTROIDS = _pass("fine-tune", epochs=5, learning_rate=5e-4)


def _share(**settings: Any) -> Passes:
    return GRADUALLY, FOLD, _pass("share-weights", clusters=16, biases=True, **settings), CENTROIDS


def _gradually(**settings: Any) -> Mapping[str, Any]:
    return _pass("prune-channels-gradually", learning_rate=3e-3, importance="l1", **settings)


def _prune(**settings: Any) -> Passes:
    return _pass("prune-weights", **settings), RECOVER


# What each helper of training is called, and the settings that ask for it.
_HELPERS: Mapping[str, Mapping[str, Any]] = {
    "exponential decay": {"schedule": "exponential", "decay": 0.85},
    "step decay": {"schedule": "step", "decay": 0.3, "decay_every": 5},
    "decay on plateau": {"schedule": "plateau", "decay": 0.5, "patience": 1},
    "constant rate": {"schedule": "constant"},
    "SGD with momentum": {"optimiser": "sgd", "learning_rate": 5e-2, "nesterov": False},
    "SGD with Nesterov": {"optimiser": "sgd", "learning_rate": 5e-2},
    "Adam with weight decay": {"optimiser": "adam", "weight_decay": 1e-4},
    "early stopping": {"stop_after": 5},
    "data parallel on two": {"devices": ["cpu", "cpu"]},
}

TECHNIQUES: tuple[Technique, ...] = (
    Technique("fine-tuning alone (control)", (RECOVER,)),
    # 1. weights
    Technique("threshold", _prune(threshold=1.0, unit="std")),
    Technique("magnitude L1, global 80 %", _prune(sparsity=0.8)),
    Technique("magnitude L1, a layer 80 %", _prune(sparsity=0.8, scope="layer")),
    Technique("magnitude L2, blocks of 4, 60 %", _prune(sparsity=0.6, importance="l2", block=4)),
    Technique("random 50 %", _prune(sparsity=0.5, importance="random", seed=0)),
    Technique("gradient importance 80 %", _prune(sparsity=0.8, importance="gradient")),
    Technique("2:4", _prune(pattern="2:4")),
    Technique("gradual, cubic, 90 %", (GRADUALLY,)),
    Technique(
        "lottery ticket, 3 rounds to 80 %",
        (_pass("prune-iteratively", sparsity=0.8, rounds=3, rewind_epochs=1, epochs=20, learning_rate=3e-3),),
    ),
    # 2. structure
    Technique(
        "channels 50 %",
        (_pass("prune-channels", ratio=0.5, round_to=8), RECOVER),
    ),
    Technique(
        "channels 50 %, during training",
        (_gradually(ratio=0.5, round_to=16, steps=2, epochs=20),),
    ),
    Technique(
        "channels 62 %, during training",
        (_gradually(ratio=0.625, round_to=8, steps=4, epochs=40),),
    ),
    Technique("attention heads 50 %", (_pass("prune-heads", ratio=0.5), RECOVER)),
    Technique(
        "feed-forward width 50 %",
        (_pass("prune-channels", ratio=0.5, round_to=8, only=["*.linear1"]), RECOVER),
        families={
            MLP: (_pass("prune-channels", ratio=0.5, round_to=4, only=["layers.1"]), RECOVER),
        },
    ),
    Technique("hidden units 50 %", (_pass("prune-hidden-units", ratio=0.5, round_to=8), RECOVER)),
    Technique("whole layers, 1", (_pass("drop-layers", count=1), RECOVER)),
    # 3. rates
    Technique("adaptive rates within 0.01", (_pass("prune-adaptively", max_drop=0.01, epochs=5, learning_rate=2e-3),)),
    Technique(
        "rate by cross-validation",
        (
            {
                **_pass("choose-rate", setting="sparsity", values=[0.5, 0.7, 0.9], max_drop=0.01, folds=3),
                "pass": _pass("prune-weights"),
                "epochs": 5,
                "learning_rate": 2e-3,
            },
        ),
    ),
    # 4. sharing
    Technique("k-means 16, linear", _share(init="linear")),
    Technique("k-means 16, density", _share(init="density")),
    Technique("k-means 16, random", _share(init="random")),
    Technique(
        "hashing to 1/8",
        (
            FOLD,
            _pass("hash-weights", ratio=0.125, epochs=20, learning_rate=3e-3),
        ),
    ),
    Technique("k-means, re-ordered greedily", (*_share(), _pass("reorder-channels", method="greedy"))),
    Technique("k-means, re-ordered by evolution", (*_share(), _pass("reorder-channels", method="evolutionary"))),
    # 5. sparsity
    Technique("L1", (_pass("sparsify", penalty="l1", strength=1e-3, epochs=20, learning_rate=2e-3), RECOVER)),
    Technique(
        "group lasso",
        (_pass("sparsify", penalty="group-lasso", strength=5e-3, epochs=20, learning_rate=2e-3), RECOVER),
    ),
    Technique("L0", (_pass("sparsify", penalty="l0", strength=1e-2, epochs=20, learning_rate=2e-3), RECOVER)),
    # 6. distillation
    Technique("distilled, weights 90 %", (_pass("prune-weights", sparsity=0.9), DISTIL)),
    Technique("not distilled, weights 90 %", _prune(sparsity=0.9)),
    Technique("distilled from an ensemble", ({**DISTIL, "teacher": "ensemble", "members": 3},)),
    # 7. fusion and merging
    Technique("batch norm folded", (_pass("fold-batch-norm"),)),
    Technique("uniform soup of 3", (_pass("soup", method="uniform", members=3, epochs=5, learning_rate=5e-4),)),
    Technique(
        "weighted soup of 3",
        (_pass("soup", method="weighted", members=3, weights=[0.5, 0.3, 0.2], epochs=5, learning_rate=5e-4),),
    ),
    Technique("greedy soup of 3", (_pass("soup", method="greedy", members=3, epochs=5, learning_rate=5e-4),)),
    # 8. low rank
    Technique("low rank, energy 0.9", (_pass("factorise", energy=0.9), RECOVER)),
    Technique("low rank, half the parameters", (_pass("factorise", budget=0.5), RECOVER)),
    # 9. training: what each helper does for a net that lost 90 % of its weights
    *(
        Technique(f"weights 90 %, {name}", (_pass("prune-weights", sparsity=0.9), {**RECOVER, **settings}))
        for name, settings in _HELPERS.items()
    ),
    # 10. fewer bits, during training and after
    Technique("quantised 4 bits", (_pass("quantise-weights", epochs=10, learning_rate=1e-3, bits=4),)),
    Technique(
        "fixed-point 8 bits",
        (_pass("quantise-weights", epochs=10, learning_rate=1e-3, scheme="fixed-point", bits=8),),
    ),
    Technique("ternary", (_pass("quantise-weights", epochs=20, learning_rate=1e-3, scheme="ternary"),)),
    Technique("binary", (_pass("quantise-weights", epochs=20, learning_rate=1e-3, scheme="binary"),)),
    Technique(
        "int8, trained",
        (_pass("quantise-aware", epochs=10, learning_rate=5e-4),),
        families={GRU: (_pass("quantise-weights", epochs=10, learning_rate=5e-4, bits=8),)},
        precision=Precision.INT8,
    ),
    Technique("int8, calibrated", (), precision=Precision.INT8),
    # 11. what ships ready made
    *(Technique(f"recipe {name}", tuple(recipe.table["passes"])) for name, recipe in ready_recipes().items()),
)
