"""The array as a file system: the ways in, check and mount, a command on it, and everything taken away again."""
