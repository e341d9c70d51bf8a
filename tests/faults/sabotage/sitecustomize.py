"""Removes the guard FAULTS_SABOTAGE before any code of the service runs."""

import os

from tests.faults.sabotages import SABOTAGES

SABOTAGES[os.environ["FAULTS_SABOTAGE"]]()
