"""The front: the process that faces clients. It authenticates, holds and forwards; thin."""
