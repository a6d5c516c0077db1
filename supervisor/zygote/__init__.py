"""The zygote, which forks workers, and the jail that whatever faces others is put in."""
