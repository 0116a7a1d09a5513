"""lossbench: which loss, optimizer or schedule is better, by how much, and is the difference real."""

__version__ = "0.1.0"
