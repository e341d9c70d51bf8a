"""Every growing table has a bound, which docs/operations.md states."""

import re

from credit_service.settings import Settings
from credit_service.settings_messages import variable_of
from credit_service.storage.growth import GROWTH
from credit_service.storage.retention import TABLES
from credit_service.storage.tables import metadata

_SETTING = re.compile(r"`(CREDIT_\w+)`")


def test_every_table_says_how_it_is_bounded() -> None:
    assert set(GROWTH) == set(metadata.tables)
    assert all(growth.rows and growth.bound for growth in GROWTH.values())


def test_a_bound_names_a_setting_if_and_only_if_rows_are_deleted_by_it() -> None:
    named = {name for name, growth in GROWTH.items() if _SETTING.search(growth.bound)}
    assert named | {"ingestion_keys"} == set(TABLES)


def test_every_setting_of_a_retention_bounds_a_table() -> None:
    settings = {variable_of(name) for name in Settings.model_fields if "_retention_days" in name}
    bounds = " ".join(growth.bound for growth in GROWTH.values())
    assert set(_SETTING.findall(bounds)) == settings
