"""pushbridge: a Pushgateway replacement that journals pushes and delivers them by remote_write."""

__version__ = "0.1.0"
