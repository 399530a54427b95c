"""Where a study is stored: its folder, its journal or database, and its driver's lease. Knows no space or study."""
