"""A tenant's databases and files."""
