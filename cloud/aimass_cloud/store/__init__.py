"""The database: tables, engine, migrations, and content-addressed files."""
