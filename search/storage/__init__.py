"""Where a study is kept: its folder, journal or database, and the lease of its driver. Knows no space or study."""
