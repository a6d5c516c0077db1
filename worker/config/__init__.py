"""The tenant's own configuration."""
