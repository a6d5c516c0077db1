"""The tools; each module here has one as `TOOL`."""
