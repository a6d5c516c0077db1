"""How much longer everything takes than on a machine as it should be: more where it is emulated."""

import os

PATIENCE = float(os.environ.get("OPENCLAW_TEST_PATIENCE", "1"))
