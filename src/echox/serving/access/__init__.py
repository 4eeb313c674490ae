"""Access control and its limits: keys, origins, admission, connections, ports and the log."""
