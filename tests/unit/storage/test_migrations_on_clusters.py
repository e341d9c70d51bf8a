"""Migrations also run on a cluster, whose tables are distributed already."""

import ast
import re
from pathlib import Path

import pytest

from credit_service.storage import migrate

_VERSIONS = Path(migrate.__file__).parent / "migrations" / "versions"
# The first release that distributes tables has schema 0015.
_LATER = sorted(each for each in _VERSIONS.glob("[0-9]*.py") if each.name[:4] > "0015")
_TRIGGER = re.compile(r"CREATE TRIGGER \w+ .*? ON (\w+)")


@pytest.mark.parametrize("path", _LATER, ids=lambda path: path.name[:4])
def test_a_new_table_has_its_foreign_keys_from_one_place(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call)]
    keys = {id(each) for each in calls if ast.unparse(each.func).endswith(".ForeignKeyConstraint")}
    given = {
        id(argument)
        for each in calls
        if ast.unparse(each.func) == "cluster.keys_of_new_table"
        for argument in each.args
    }
    assert keys <= given, (
        f"{path.name} creates a table with foreign keys, which a cluster refuses: pass them to"
        " cluster.keys_of_new_table(op.get_bind(), …)"
    )


@pytest.mark.parametrize("path", _LATER, ids=lambda path: path.name[:4])
def test_a_trigger_on_an_earlier_table_is_for_one_server(path: Path) -> None:
    """Citus refuses it on a distributed table. `distribute` drops it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    created = {
        ast.literal_eval(each.args[0])
        for each in ast.walk(tree)
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "op.create_table"
    }
    on_one_server = {
        id(each)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If)
        and ast.unparse(branch.test) == "not cluster.is_distributed(op.get_bind())"
        for each in ast.walk(branch)
    }
    for each in ast.walk(tree):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            for table in _TRIGGER.findall(each.value):
                assert table in created or id(each) in on_one_server, f"{path.name}: {table}"
