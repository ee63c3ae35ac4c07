"""Alembic's entry: runs the versions on the connection that `store/migrate.py` opened."""

from alembic import context

from upkeep.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
context.run_migrations()
