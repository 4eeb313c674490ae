"""EchoX in a process and environment of its own, asked by another evaluation tool through a pipe."""
