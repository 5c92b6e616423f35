"""The Record: everything that was observed of one run, as files with a versioned schema."""
