"""The plan of the house: who may import whom. Read by the test that holds it, and by the script that draws it."""

from __future__ import annotations

__all__ = ["ALLOWED", "BLINDFOLDED", "PLUGIN_FOLDERS"]

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "archives": {"errors"},
    "records": {"errors"},
    "advice": {"records", "types"},
    "seeds": {"errors"},
    "trace": {"errors"},
    "determinism": {"errors", "trace"},
    "losses": {"errors"},
    "clock": {"errors"},
    "gradients": {"determinism", "errors", "losses", "trace"},
    "columns": {"errors"},
    "schema": {"columns", "errors"},
    "training": {"errors", "gradients"},
    "types": {"errors", "gradients", "schema", "trace", "training"},
    "last_layer": {"errors", "trace", "types"},
    "evidence": {"errors", "gradients", "linalg", "losses", "trace", "training", "types"},
    "specs": {"errors"},
    "contracts": {"errors", "evidence", "gradients", "inversion", "linalg", "schema", "seeds", "specs", "trace", "types"},
    "chains": {"contracts", "errors", "types"},
    "plugins": {"chains", "contracts", "errors", "specs"},
    "testing": {"contracts", "errors", "gradients", "plugins", "schema", "seeds", "trace", "types"},
    "linalg": {"clock", "errors"},
    "spear": {"clock", "errors", "gradients", "last_layer", "linalg", "trace", "training", "types"},
    "inversion": {"errors", "gradients", "last_layer", "linalg", "trace", "types"},
    "attacks": {"clock", "contracts", "errors", "inversion", "last_layer", "span", "spear", "trace", "types"},
    "span": {"clock", "errors", "gradients", "linalg", "trace", "training", "types"},
    "labels": {"contracts", "errors", "last_layer", "linalg", "trace", "types"},
    "protocols": {"contracts", "errors", "gradients", "seeds", "training", "types"},
    "defenses": {"contracts", "errors"},
    "models": {"contracts", "errors", "seeds"},
    "datasets": {"archives", "contracts", "errors", "schema", "types"},
    "metrics": {"contracts", "errors", "linalg", "schema"},
    "restoring": {"contracts", "gradients", "linalg", "plugins", "types"},
    "scoring": {"contracts", "linalg", "types"},
    "auditing": {"chains", "contracts", "errors", "plugins", "restoring", "scoring", "types"},
    "label_scores": {"errors"},
    "importers": {"archives", "errors", "gradients", "types"},
    "store": {"advice", "errors", "label_scores", "records", "types"},
    "exposure": {"advice", "records", "errors", "gradients", "last_layer", "plugins", "span", "trace", "types"},
    "report": {"advice", "errors", "store", "exposure", "types"},
    "cli": {
        "__init__",
        "auditing",
        "restoring",
        "contracts",
        "errors",
        "store",
        "exposure",
        "importers",
        "plugins",
        "report",
        "seeds",
        "types",
    },
    "flower": {"records", "auditing", "contracts", "errors", "store", "gradients", "importers", "plugins", "report", "training", "types"},
    "__init__": {"auditing", "restoring", "errors", "exposure", "gradients", "types"},
}
"""Part -> the parts that it may import. A part is a module, or a folder of them."""

PLUGIN_FOLDERS = {"attacks", "labels", "protocols", "defenses", "models", "datasets", "metrics"}
BLINDFOLDED = {"attacks", "evidence", "inversion", "labels", "linalg", "span", "spear"}
