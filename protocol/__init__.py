"""The contract between the processes: frames, links, names, errors and the method registry."""
