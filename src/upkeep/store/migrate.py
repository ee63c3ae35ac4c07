"""Brings a database to the newest schema: numbered files, forward only."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from upkeep.store.database import Database

_SCRIPTS = Path(__file__).parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    return config


def migrate(database: Database, to: str = "head") -> None:
    """Apply what is missing, in one transaction; newest already is a no-op.

    Args:
        to: the file at which to stop; tests begin from an older database.
    """
    with database.write() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == ScriptDirectory.from_config(_config()).get_current_head():
            return
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, to)
