"""Run by Alembic for each migration, on the connection and in the transaction that `schema` has begun."""

from alembic import context

from infoscreen_reboot.controller.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
