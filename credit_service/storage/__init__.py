"""All SQL of the service: tables, migrations, the Database, functions that take a connection."""
