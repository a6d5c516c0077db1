"""The launcher: starts sandboxes and holds terminals, for the workers of all tenants."""
