"""The `pillarbox` command: each process of the gateway, and `up`, which runs them all."""
