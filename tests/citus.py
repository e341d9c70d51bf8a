"""Databases on a cluster with Citus, which TEST_CITUS_URL names: a database on its coordinator.

The cluster's nodes are those of that database. Each scratch database is one on every node, created
by the same user. The template has few shards, so that a copy takes a tenth of a second.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import make_url

SHARDS = 4
_DROP_ATTEMPTS = 50

_NODES = """SELECT nodename, nodeport, groupid, shouldhaveshards FROM pg_dist_node
    WHERE isactive AND noderole = 'primary' ORDER BY groupid"""
_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = %s"
_END_SESSIONS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = %s AND pid <> pg_backend_pid()"""


def url() -> str | None:
    """TEST_CITUS_URL; None without a cluster."""
    return os.environ.get("TEST_CITUS_URL") or None


def of_database(server_url: str, name: str) -> str:
    """The URL of another database of a server."""
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def _nodes(server_url: str) -> list[tuple[str, int, int, bool]]:
    """(host, port, group, whether it has shards) of each node, the coordinator first."""
    with psycopg.connect(server_url) as connection:
        return list(connection.execute(_NODES).fetchall())


def servers(server_url: str) -> list[str]:
    """The URLs of the nodes' servers, the coordinator's first."""
    address = make_url(server_url)
    return [
        server_url
        if group == 0
        else address.set(host=host, port=port).render_as_string(hide_password=False)
        for host, port, group, _ in _nodes(server_url)
    ]


@contextmanager
def scratch_database(server_url: str, name: str, template: str | None = None) -> Iterator[str]:
    """The URL of a database on all nodes, dropped at the end: a copy of `template`, or one without
    tables."""
    source = template or "template1"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(source)
    )
    with ExitStack() as closing:
        for each in servers(server_url):
            with _administering(each) as connection:
                connection.execute(create)
            # By a new connection: a test may have restarted the server.
            closing.callback(_drop, each, name)
            if template is None:
                with psycopg.connect(of_database(each, name), autocommit=True) as inside:
                    inside.execute("CREATE EXTENSION citus")
        if template is None:
            _join(server_url, name)
        yield of_database(server_url, name)


@contextmanager
def _administering(server_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(of_database(server_url, "postgres"), autocommit=True) as connection:
        # The databases of the other nodes are created here too.
        connection.execute("SET citus.enable_create_database_propagation = off")
        yield connection


def _drop(server_url: str, name: str) -> None:
    """Drop a database of the server."""
    with _administering(server_url) as connection:
        _drop_by(connection, name)


def _drop_by(connection: psycopg.Connection, name: str) -> None:
    # A prepared transaction keeps its database from being dropped.
    left = connection.execute(_PREPARED, (name,)).fetchall()
    if left:
        inside_dsn = make_conninfo(connection.info.dsn, dbname=name)
        with psycopg.connect(inside_dsn, autocommit=True) as inside:
            for (gid,) in left:
                inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
    drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
    for _ in range(_DROP_ATTEMPTS):
        # Citus starts a session of its own again while the others are ended.
        with suppress(psycopg.errors.ObjectInUse):
            connection.execute(drop)
            return
        time.sleep(0.1)
    connection.execute(drop)


def _join(server_url: str, name: str) -> None:
    """Make the nodes' databases one cluster, as the named one is."""
    (coordinator, *workers) = _nodes(server_url)
    with psycopg.connect(of_database(server_url, name), autocommit=True) as connection:
        connection.execute("SELECT citus_set_coordinator_host(%s, %s)", coordinator[:2])
        for host, port, _, _ in workers:
            connection.execute("SELECT citus_add_node(%s, %s)", (host, port))
        connection.execute(
            "SELECT citus_set_node_property(%s, %s, 'shouldhaveshards', %s)",
            (coordinator[0], coordinator[1], coordinator[3]),
        )
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET citus.shard_count = {}").format(
                sql.Identifier(name), sql.Literal(SHARDS)
            )
        )


def close_to_sessions(server_url: str, name: str) -> None:
    """Make the database a template: Citus keeps a session in every database that allows one."""
    for each in servers(server_url):
        with _administering(each) as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name))
            )
            connection.execute(_END_SESSIONS, (name,))
