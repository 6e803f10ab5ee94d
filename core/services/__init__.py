"""Use cases. Only these open transactions, and none of them talks to the network inside one."""
