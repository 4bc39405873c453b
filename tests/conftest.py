"""What all tests share: one finished run at scale `test`."""

from pipeline import finished_run

__all__ = ["finished_run"]
