"""A cluster of PostgreSQL servers with Citus, and what differs there from one server.

The coordinator runs every statement, and sends it to the nodes that hold the rows. The tables are
the same; `storage.tables` declares where the rows of each are. A statement that locks rows must
name rows of one shard, and a reader may see a transaction's rows of one node before those of
another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, ForeignKeyConstraint

from credit_service.storage.arrays import Bigints, driver_cursor
from credit_service.storage.readiness import UnsuitableDatabaseError
from credit_service.storage.statements import Statement
from credit_service.storage.tables import EVERYWHERE, LOCAL, customers, metadata

_HAS_CITUS = Statement("SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL")
_PLACED = Statement("SELECT logicalrelid::text FROM pg_catalog.pg_dist_partition")
_NODES = Statement(
    """SELECT count(*) FILTER (WHERE groupid <> 0), count(*) FILTER (WHERE NOT isactive)
    FROM pg_catalog.pg_dist_node WHERE noderole = 'primary'"""
)
_VERSION = Statement("SELECT extversion FROM pg_extension WHERE extname = 'citus'")
_BY_SHARD = """
    SELECT array_agg(id ORDER BY id) FROM (
        SELECT id, get_shard_id_for_distribution_column('customers', id) AS shard
        FROM unnest(%s) AS wanted (id)
    ) AS placed GROUP BY shard ORDER BY shard"""
# The key of `connection.info`, which lasts as long as the driver's connection.
_KNOWN = "credit_service_is_distributed"

# The others are placed with `customers`.
_DISTRIBUTED = sorted(
    (each for each in metadata.sorted_tables if each.info != LOCAL),
    key=lambda table: table is not customers,
)
# Migrations 0014, 0016 and 0021: for servers of the previous release, which know no cluster.
_TRIGGERS = {
    "phone_number_added": "customers",
    "phone_number_changed": "customers",
    "phone_number_removed": "customers",
    "loans_beside_held_credit": "loans",
    "payments_beside_revisions": "payments",
}


def is_distributed(connection: Connection) -> bool:
    """Return whether the tables are distributed; asks once per connection."""
    found: bool | None = connection.info.get(_KNOWN)
    if found is None:
        found = connection.info[_KNOWN] = customers.name in _placed(connection)
    return found


def _placed(connection: Connection) -> set[str]:
    """Return the names of the distributed tables and of those that are everywhere."""
    if _HAS_CITUS.row(connection, {}) != (True,):
        return set()
    return {row[0] for row in _PLACED.rows(connection, {})}


def keys_of_new_table(
    connection: Connection, *keys: ForeignKeyConstraint
) -> tuple[ForeignKeyConstraint, ...]:
    """Return the foreign keys with which a migration creates a table: none on a cluster.

    There `distribute` adds them, because no table refers to a distributed one before it is placed.
    """
    return () if is_distributed(connection) else keys


def lockable(connection: Connection, customer_ids: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the ids in groups that one statement can lock: all together, and on a cluster those of
    each shard, in the order of shards and ids."""
    if not len(customer_ids):
        return
    if not is_distributed(connection):
        yield customer_ids
        return
    rows = driver_cursor(connection).execute(_BY_SHARD, (Bigints(customer_ids),), binary=True)
    for (ids,) in rows.fetchall():
        yield np.array(ids, np.int64)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Citus in a database: its version, worker nodes, inactive nodes, and which of the tables that
    belong on several nodes are not placed."""

    version: str
    workers: int
    inactive: int
    unplaced: list[str]


def find(connection: Connection) -> Cluster | None:
    """Return what the database has of Citus; None without the extension."""
    version = _VERSION.row(connection, {})
    nodes = None if version is None else _NODES.row(connection, {})
    if version is None or nodes is None:
        return None
    placed = _placed(connection)
    unplaced = [each.name for each in _DISTRIBUTED if each.name not in placed]
    return Cluster(version[0], nodes[0], nodes[1], unplaced)


def distribute(connection: Connection) -> list[str]:
    """Place the tables that are not placed yet, with their rows; return their names.

    In the caller's transaction. Servers and workers must not run.

    Raises:
        UnsuitableDatabaseError: the database has no Citus, or no worker nodes.
    """
    cluster = find(connection)
    if cluster is None:
        raise UnsuitableDatabaseError(
            "DATABASE_URL: the database has no Citus extension; run CREATE EXTENSION citus in it on"
            " every node, and SELECT citus_add_node(host, port) for each worker node"
        )
    if not cluster.workers:
        raise UnsuitableDatabaseError(
            "DATABASE_URL: the cluster has no worker nodes; run SELECT citus_add_node(host, port)"
            " for each of them"
        )
    if not cluster.unplaced:
        return []
    unplaced = [each for each in _DISTRIBUTED if each.name in cluster.unplaced]
    run = connection.exec_driver_sql
    run("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
    # The triggers refuse changes of facts, and read no other rows.
    run("SET LOCAL citus.enable_unsafe_triggers = on")
    for name, table_name in _TRIGGERS.items():
        run(f"DROP TRIGGER IF EXISTS {name} ON {table_name}")
    # A table cannot be placed while one that is not placed refers to it.
    keys = [key for table in unplaced for key in _foreign_keys(table.foreign_key_constraints)]
    for key in keys:
        run(f"ALTER TABLE {key.table.name} DROP CONSTRAINT IF EXISTS {key.name!s}")
    for table in unplaced:
        if table.info == EVERYWHERE:
            run(f"SELECT create_reference_table('{table.name}')")
            continue
        column = table.info["placement"]
        together = "customers" if table.info == customers.info else "none"
        if table is customers:
            together = "none"
        run(
            f"SELECT create_distributed_table('{table.name}', '{column}',"
            f" colocate_with => '{together}')"
        )
    for key in keys:
        columns = ", ".join(key.column_keys)
        referred = ", ".join(each.column.name for each in key.elements)
        run(
            f"ALTER TABLE {key.table.name} ADD CONSTRAINT {key.name!s} FOREIGN KEY ({columns})"
            f" REFERENCES {key.referred_table.name} ({referred})"
        )
    # See `event_stream`.
    run(
        """INSERT INTO bookmarks (name, position)
        SELECT name, (SELECT coalesce(max(event_id), 0) FROM events)
        FROM (VALUES ('events_assigned'), ('events_visible')) AS bookmark (name)
        ON CONFLICT (name) DO NOTHING"""
    )
    return [each.name for each in unplaced]


def _foreign_keys(found: Any) -> list[ForeignKeyConstraint]:
    return sorted(found, key=lambda key: str(key.name))
