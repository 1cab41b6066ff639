"""What boards answer, so that what reads it can be tested without one."""
