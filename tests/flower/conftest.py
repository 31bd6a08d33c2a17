"""Before Flower and ray are imported: nothing is told to anybody, looked up in the network, or left in the home folder."""

import os
import tempfile

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_HOME": tempfile.mkdtemp(prefix="unbatch-flwr-"),
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}
