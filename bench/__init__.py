"""How fast the driver is: each figure beside what it cannot be faster than, in the same run."""
