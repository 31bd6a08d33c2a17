"""What was found, on disk: written whole or not at all, with a version, read by the reports."""

from unbatch.store.findings import (
    FORMAT,
    HTML,
    REPORT,
    TENSORS,
    StoredFinding,
    StoredSchema,
    check_writable,
    load,
    redacted,
    save,
    stored_finding,
)
from unbatch.store.publishing import publish

__all__ = [
    "FORMAT",
    "HTML",
    "REPORT",
    "TENSORS",
    "StoredFinding",
    "StoredSchema",
    "check_writable",
    "load",
    "publish",
    "redacted",
    "save",
    "stored_finding",
]
