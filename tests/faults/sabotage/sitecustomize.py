"""Takes the guard out that FAULTS_SABOTAGE names, before anything of the service runs."""

import os

from tests.faults.sabotages import SABOTAGES

SABOTAGES[os.environ["FAULTS_SABOTAGE"]]()
