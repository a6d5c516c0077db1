"""The privileged side and the shared processes: supervisor, zygote with the jail, front."""
