"""The command line: the only place that prints, and the only one that catches. A command, or a few that belong together, is one file.

Nothing heavy is imported at the top of any of them: torch comes with the command that needs it, so that ``unbatch --help`` answers at once.
"""

from unbatch.cli import audit, defend, demo, exposure, labels, members, plugins, run, schema  # importing a file adds its commands
from unbatch.cli.app import app, execute, main

__all__ = ["app", "audit", "defend", "demo", "execute", "exposure", "labels", "main", "members", "plugins", "run", "schema"]
