"""One tenant's process: its sessions, agents and channels."""
